"""A site's privacy budget from its files: what was spent, and an officer's statements.

Guarantee: `budgets_of` changes nothing, whether or not the site's node is running. Epsilon is
rounded up. A lock is found as the node finds it: by comparing the ledger with the log that the site
mirrors and with what its own store has shown.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from treaty import registration, wiring
from treaty.cli.charter_files import read_charter, read_key
from treaty.cli.output import aligned
from treaty.crypto.commitment import commit
from treaty.crypto.keys import SigningKey
from treaty.errors import PolicyError, UsageError
from treaty.governance.charter import Charter, charter_digest
from treaty.ids import Digest, MemberId
from treaty.node.budget import BudgetKeeper
from treaty.privacy.accountant import composed_epsilon, delta_of
from treaty.privacy.events import Event, NonPrivateEvent
from treaty.privacy.gaussian import gaussian_epsilon
from treaty.privacy.ledger import LedgerState
from treaty.privacy.ledger_budget import envelope_limit
from treaty.privacy.ledger_entries import GENESIS, PARTITIONS, Capped, Envelope, LedgerHead
from treaty.protocol.messages import DatasetRegistered, LedgerRebased
from treaty.protocol.secagg_messages import LedgerMark
from treaty.protocol.statements import seal_statement

__all__ = ["Budget", "Rebasing", "Registered", "budgets_of", "rebase", "register"]


@dataclass(frozen=True, slots=True)
class EnvelopeLine:
    """One envelope: how much it may hold, and what is charged and reserved, as epsilon in 1e-6.

    Each is epsilon of that part alone, rounded up (the limit down): shares add in mu squared, not
    in epsilon. None is infinite.
    """

    name: str
    per_mille: int
    limit_micro: int | None
    charged_micro: int | None
    reserved_micro: int | None
    releases: int
    releases_reserved: int


@dataclass(frozen=True, slots=True)
class PartitionLines:
    """One partition: its cap, what it has spent, its envelopes, its releases without noise."""

    name: str
    cap_micro: int | None
    delta_inverse: int | None
    epsilon_micro: int | None
    private_epsilon_micro: int | None
    envelopes: tuple[EnvelopeLine, ...]
    non_private: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Budget:
    """One registered data set of a site."""

    site: str
    identity: str
    unit: str
    entries: int
    lock: str
    plans_open: int
    unsent: int
    contents: int
    partitions: tuple[PartitionLines, ...]

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "contents": self.contents,
            "entries": self.entries,
            "identity": self.identity,
            "lock": self.lock or None,
            "partitions": {
                one.name: {
                    "cap_micro": one.cap_micro,
                    "delta_inverse": one.delta_inverse,
                    "envelopes": {
                        part.name: {
                            "charged_micro": part.charged_micro,
                            "limit_micro": part.limit_micro,
                            "per_mille": part.per_mille,
                            "releases": part.releases,
                            "releases_reserved": part.releases_reserved,
                            "reserved_micro": part.reserved_micro,
                        }
                        for part in one.envelopes
                    },
                    "epsilon_infinite": one.epsilon_micro is None,
                    "epsilon_micro": one.epsilon_micro,
                    "epsilon_of_noised_micro": one.private_epsilon_micro,
                    "non_private": [
                        {"plan": plan, "release": name} for plan, name in one.non_private
                    ],
                }
                for one in self.partitions
            },
            "plans_open": self.plans_open,
            "site": self.site,
            "unit": self.unit,
            "unsent": self.unsent,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        state = f"locked ({self.lock})" if self.lock else "in order"
        text = aligned(
            [
                ("site", self.site),
                ("data set", self.identity),
                ("unit", self.unit),
                ("ledger", f"{self.entries} entries, {state}"),
                ("content", f"{self.contents} versions seen"),
                ("plans", f"{self.plans_open} open, {self.unsent} charges not noted as sent"),
            ]
        )
        for one in self.partitions:
            cap = "no cap" if one.cap_micro is None else f"cap epsilon {decimal(one.cap_micro)}"
            delta = "" if one.delta_inverse is None else f", delta 1/{one.delta_inverse}"
            text.append(f"{one.name}: {cap}{delta}; spent: epsilon {decimal(one.epsilon_micro)}")
            rows = [
                (
                    f"  {part.name}",
                    decimal(part.limit_micro),
                    decimal(part.charged_micro),
                    decimal(part.reserved_micro),
                    part.releases,
                    part.releases_reserved,
                )
                for part in one.envelopes
            ]
            if rows:
                heads = ("  envelope", "cap", "charged", "reserved", "releases", "to come")
                text += aligned(rows, heads)
            for plan, name in one.non_private:
                text.append(f"  without noise: {name}, plan {plan[:16]}")
        return text


@dataclass(frozen=True, slots=True)
class Registered:
    """A data set that was registered."""

    identity: str
    home: Path
    head: LedgerHead

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {"home": str(self.home), "identity": self.identity, "ledger": self.head.ledger}

    def lines(self) -> list[str]:
        """Return it for people."""
        return [
            *aligned(
                [
                    ("data set", self.identity),
                    ("ledger", self.head.ledger),
                    ("home", str(self.home)),
                ]
            ),
            "back up keys and statement in the home; never restore the ledger from a backup",
        ]


@dataclass(frozen=True, slots=True)
class Rebasing:
    """An officer's statement that a ledger's loss is accepted."""

    file: Path
    lost: LedgerHead | None
    successor: str

    def record(self) -> dict[str, object]:
        """Return it for programs."""
        return {
            "file": str(self.file),
            "lost_count": 0 if self.lost is None else self.lost.count,
            "successor": self.successor,
        }

    def lines(self) -> list[str]:
        """Return it for people."""
        count = 0 if self.lost is None else self.lost.count
        return [
            f"written {self.file}: the loss of a ledger that showed {count} entries",
            "the site's node sends it when it starts; in the log, it counts everything as spent",
        ]


def budgets_of(directory: Path, member: str | None = None) -> tuple[Budget, ...]:
    """Return every data set registered by the site in `directory`, or by a consortium's members.

    Raises `UsageError` where none is registered, `ResourceError` for a ledger that does not hold.
    """
    parties = directory / "parties"
    places = sorted(parties.iterdir()) if parties.is_dir() else [directory]
    chosen = [place for place in places if member is None or place.name == member]
    found = [budget for place in chosen for budget in _budgets(place)]
    if not found:
        raise UsageError(
            f"{directory} holds no registered data set: expected a site's directory with "
            "dataset.toml, run treaty budget register"
        )
    return tuple(found)


def register(
    identity: str,
    directory: Path,
    *,
    charter: Path,
    member: str,
    key: Path,
    home: str,
    holdout_permille: int,
) -> Registered:
    """Let the officer sign for a data set, open its ledger and point the site at it."""
    document = read_charter(charter)
    officer = _officer(key)
    if officer.public.hex not in _approval_keys(document, member):
        raise UsageError(f"{key} is no approval key of {member} in {charter}")
    entropy = wiring.SystemEntropy()
    body = DatasetRegistered(
        charter=charter_digest(document),
        author=member,
        dataset=commit("dataset-identity", entropy.bytes(32), identity.encode()),
        persons="in no other registered data set of this site",
    )
    head = registration.register_dataset(
        directory,
        identity,
        seal_statement(body, officer),
        entropy,
        home=home,
        holdout_permille=holdout_permille,
    )
    return Registered(identity, directory / home, head)


def rebase(directory: Path, *, member: str, key: Path, out: Path) -> Rebasing:
    """Write the officer's statement for a ledger that is lost or was put back.

    A ledger that is gone gets a successor, which charges nothing before the statement stands in
    the log. Raises `UsageError` when nothing is wrong with the ledger.
    """
    officer = _officer(key)
    if out.exists():
        raise UsageError(f"{out} exists already: name a new file")
    log = registration.ledger_log(directory, MemberId(member))
    if officer.public.hex not in _approval_keys(log.state.charter, member):
        raise UsageError(f"{key} is no approval key of {member} in the charter in force")
    keeper = registration.recovering_budget(directory, wiring.SystemEntropy())
    try:
        lock = _lock(keeper, log)
        own = keeper.state.published
    finally:
        keeper.release()
    if not lock:
        raise UsageError(
            "the ledger holds everything that the log shows: there is nothing to accept"
        )
    lost = log.trail.head_of(Digest(own.ledger)) or next(iter(log.trail.heads.values()), None)
    mark = LedgerMark(
        ledger=own.ledger if lost is None else lost.ledger,
        head=GENESIS if lost is None else lost.head,
    )
    body = LedgerRebased(
        charter=log.state.members.directory.charter,
        author=member,
        lost=mark,
        lost_count=0 if lost is None else lost.count,
        successor=own.ledger,
    )
    statement = seal_statement(body, officer)
    registration.keep_rebase(directory, statement)
    wiring.write_new_file(out, statement)
    return Rebasing(out, lost, own.ledger)


def decimal(micro: int | None) -> str:
    """Return epsilon with three decimals, rounded up."""
    if micro is None:
        return "infinite"
    milli = -(-micro // 1000)
    return f"{milli // 1000}.{milli % 1000:03d}"


def _budgets(place: Path) -> list[Budget]:
    found = []
    for identity, keeper in registration.open_budgets(place):
        try:
            log = registration.ledger_log(place, MemberId(place.name))
        except UsageError:
            log = None
        found.append(_budget(place.name, identity, keeper, log))
        keeper.release()
    return found


def _lock(keeper: BudgetKeeper, log: registration.LedgerLog | None) -> str:
    if log is not None:
        try:
            keeper.confirm(log.trail, log.shown, carry_out=False)
        except PolicyError as refusal:
            return refusal.code
    return keeper.lock


def _budget(
    site: str, identity: str, keeper: BudgetKeeper, log: registration.LedgerLog | None
) -> Budget:
    lock = _lock(keeper, log)
    try:
        state = keeper.state
    except PolicyError:
        return Budget(site, identity, "", 0, lock, 0, 0, 0, ())
    return Budget(
        site=site,
        identity=identity,
        unit=state.unit,
        entries=state.count,
        lock=lock,
        plans_open=len({key[0] for key, one in state.plans.items() if one.is_open}),
        unsent=len(state.unsent),
        contents=len(state.fingerprints),
        partitions=tuple(_partition(state, name) for name in PARTITIONS),
    )


def _partition(state: LedgerState, name: str) -> PartitionLines:
    cap = state.caps.get(name)
    disclosed = sorted((plan, what) for plan, owner, what in state.disclosed if owner == name)
    noised = [one for one in state.events(name) if not isinstance(one, NonPrivateEvent)]
    if cap is None:
        epsilon = None if disclosed else 0
        return PartitionLines(name, None, None, epsilon, None, (), tuple(disclosed))
    private = _micro(noised, cap)
    return PartitionLines(
        name=name,
        cap_micro=cap.epsilon_micro,
        delta_inverse=cap.delta_inverse,
        epsilon_micro=None if disclosed else private,
        private_epsilon_micro=private,
        envelopes=tuple(_envelope(state, cap, one) for one in cap.envelopes),
        non_private=tuple(disclosed),
    )


def _envelope(state: LedgerState, cap: Capped, envelope: Envelope) -> EnvelopeLine:
    charged = state.charged(cap.partition, envelope.name)
    reserved = state.reserved(cap.partition, envelope.name)
    limit = gaussian_epsilon(envelope_limit(cap, envelope), delta_of(cap.delta_inverse))
    return EnvelopeLine(
        name=envelope.name,
        per_mille=envelope.per_mille,
        limit_micro=math.floor(limit * 1e6),
        charged_micro=_micro(charged, cap),
        reserved_micro=_micro(reserved, cap),
        releases=_count(charged),
        releases_reserved=_count(reserved),
    )


def _officer(path: Path) -> SigningKey:
    held = read_key(path)
    if held.role != "approval":
        raise UsageError(f"{path} holds a {held.role} key, expected the officer's approval key")
    return held.key


def _approval_keys(charter: Charter, member: str) -> tuple[str, ...]:
    party = charter.members.get(member)
    if party is None:
        raise UsageError(f"{member} is not a member in the charter: expected the site's name in it")
    return party.keys.approval


def _micro(events: Sequence[Event], cap: Capped) -> int | None:
    spent = composed_epsilon(events, delta_of(cap.delta_inverse))
    return math.ceil(spent * 1e6) if math.isfinite(spent) else None


def _count(events: Sequence[Event]) -> int:
    return sum(1 if isinstance(one, NonPrivateEvent) else one.count for one in events)
