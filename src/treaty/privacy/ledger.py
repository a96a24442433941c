"""The rules of a site's privacy ledger, as a fold over its entries.

Guarantees (docs/spec/privacy.md, section 7):
  * A charge is accepted only inside a reservation whose worst case fitted the envelope and
    the cap when it was made. Nothing is ever refunded; closing a plan only gives up what
    was reserved and not charged.
  * The same slot with identical bytes is already paid; other bytes for it are refused.
  * Entries form a hash chain from a genesis with a 32-byte salt. A ledger that is behind, or
    beside, the head it published is locked until an officer's signed re-base, which counts
    everything the charter allows as spent.
  * All content ever registered under a dataset identity shares one spend.

No input or output: the caller makes the entry durable *before* it draws noise, masks or sends.
Left to others: the officer's signature, the durable file, publication of the head.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from types import MappingProxyType
from typing import assert_never

import msgspec

from treaty.crypto.canonical import decode, digest_of, encode
from treaty.errors import PolicyError, UsageError, VerificationError
from treaty.ids import Digest
from treaty.privacy.accountant import composed_epsilon, delta_of, total_signal_to_noise
from treaty.privacy.events import (
    Event,
    NonPrivateEvent,
    grouped,
)
from treaty.privacy.ledger_budget import check_fits, envelope_limit, whole_envelope
from treaty.privacy.ledger_entries import (
    FORMAT,
    GENESIS,
    Action,
    AssumedSpend,
    Capped,
    Charged,
    Closed,
    Disclosed,
    Entry,
    Fingerprinted,
    Opened,
    PrivateEvent,
    Rebased,
    Reserved,
    Sent,
)

__all__ = ["LedgerState", "Lock", "PlanAccount", "Slot", "Step", "open_ledger", "replay"]

Counts = Mapping[PrivateEvent, int]
"""Releases of each kind; a kind is an event whose count is one."""


class Lock(Enum):
    """Why a ledger takes no charge."""

    BEHIND = "ledger-behind"
    FORKED = "ledger-forked"
    RECOVERING = "ledger-recovering"


@dataclass(frozen=True, slots=True)
class PlanAccount:
    """A plan's reservation; `left` counts the releases of each kind not yet charged."""

    partition: str
    envelope: str
    left: Counts
    is_open: bool


Slot = tuple[str, str, str, str]
"""Plan, query, model, cohort."""


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What the entries so far add up to. Made by `open_ledger`, `replay` and `append` only."""

    identity: str
    unit: str
    heads: tuple[Digest, ...]
    fingerprints: frozenset[str] = frozenset()
    caps: Mapping[str, Capped] = field(default_factory=dict)
    plans: Mapping[str, PlanAccount] = field(default_factory=dict)
    slots: Mapping[Slot, str] = field(default_factory=dict)
    unsent: frozenset[tuple[str, str]] = frozenset()
    sent: frozenset[tuple[str, str]] = frozenset()
    spend: Mapping[tuple[str, str], Counts] = field(default_factory=dict)
    disclosed: frozenset[tuple[str, str]] = frozenset()
    accepted_losses: frozenset[tuple[int, str]] = frozenset()
    lock: Lock | None = None

    @property
    def head(self) -> Digest:
        """The digest of the last entry."""
        return self.heads[-1]

    @property
    def count(self) -> int:
        """The number of entries."""
        return len(self.heads)

    def append(self, action: Action) -> "Step":
        """Return the next state and the bytes to make durable before anything else happens.

        Guarantee: refuses what the rules above refuse, with `PolicyError` codes ``budget``,
        ``not-reserved``, ``slot-taken``, ``already-paid``, ``plan-known``, ``plan-closed``,
        ``no-cap``, ``not-charged``, or the lock's own; the state is untouched then. Budgets
        are compared with epsilon rounded up and the cap rounded down.
        """
        entry = Entry(format=FORMAT, sequence=self.count, previous=self.head, action=action)
        return Step(state=_applied(self, entry, checked=True), entry=encode(entry))

    def is_paid(self, charge: Charged) -> bool:
        """Say whether this very vector is paid for, so that sending it again is free.

        Raises `PolicyError` ``slot-taken`` when the slot was paid for other bytes.
        """
        earlier = self.slots.get(_slot(charge))
        if earlier is None:
            return False
        if earlier != charge.payload:
            raise PolicyError(
                "this slot is paid for other bytes: send those again, or open a new query",
                code="slot-taken",
            )
        return True

    def confirmed(self, published_count: int, published_head: Digest) -> "LedgerState":
        """Return the state, locked if the shared log names a head that this ledger lacks.

        Call at every start with the last head this site published. Stops a restored backup
        from spending twice. A head whose loss a re-base accepted locks no more.
        """
        if published_count == 0 or (published_count, published_head) in self.accepted_losses:
            return self
        if published_count > self.count:
            return replace(self, lock=Lock.BEHIND)
        if self.heads[published_count - 1] != published_head:
            return replace(self, lock=Lock.FORKED)
        return self

    def events(self, partition: str) -> tuple[Event, ...]:
        """Return what is charged to a partition, non-private releases included."""
        found = [
            event
            for (owner, _), counts in self.spend.items()
            if owner == partition
            for event in _events_of(counts)
        ]
        names = [NonPrivateEvent(name=name) for owner, name in self.disclosed if owner == partition]
        return grouped([*found, *names])

    def epsilon(self, partition: str) -> float:
        """Return epsilon of all charges to a capped partition, rounded up; may be infinite.

        Guarantee: as `accountant.composed_epsilon`, one site, added or removed, at the cap's
        delta. Raises `PolicyError` ``no-cap``.
        """
        return composed_epsilon(
            self.events(partition), delta_of(self._cap(partition).delta_inverse)
        )

    def rebasing(self, statement: Digest, lost_count: int, lost_head: Digest) -> Rebased:
        """Return the action that unlocks this ledger by counting every envelope as spent.

        `statement` is the digest of the officer's signed statement, verified by the caller.
        """
        assumed = tuple(
            AssumedSpend(
                partition=cap.partition,
                envelope=envelope.name,
                event=whole_envelope(cap, envelope),
            )
            for _, cap in sorted(self.caps.items())
            for envelope in cap.envelopes
        )
        return Rebased(
            statement=statement, lost_count=lost_count, lost_head=lost_head, assumed=assumed
        )

    def _cap(self, partition: str) -> Capped:
        cap = self.caps.get(partition)
        if cap is None:
            raise PolicyError(f"no charter caps the partition {partition}", code="no-cap")
        return cap


@dataclass(frozen=True, slots=True)
class Step:
    """The state after an entry, and the entry's canonical bytes."""

    state: LedgerState
    entry: bytes


def open_ledger(opening: Opened) -> Step:
    """Return a new ledger. The caller has 32 fresh random bytes in the salt."""
    entry = Entry(format=FORMAT, sequence=0, previous=GENESIS, action=opening)
    return Step(state=_opened(entry, opening), entry=encode(entry))


def replay(entries: Iterable[bytes], *, audited: bool = False) -> LedgerState:
    """Return the state that these entries add up to.

    Structure and chain are checked for every entry. With `audited` each reservation is also
    projected against its cap again, which takes an accountant's run per sampled reservation.

    Raises `FormatError` for bytes that are no entry, `VerificationError` ``ledger-chain`` for
    a broken chain, ``ledger-rule`` for an entry that the rules refuse.
    """
    state: _Fold | None = None
    for sequence, data in enumerate(entries):
        entry = decode(data, Entry)
        head = GENESIS if state is None else state.heads[-1]
        if entry.format != FORMAT or entry.sequence != sequence or entry.previous != head:
            raise VerificationError(
                f"entry {sequence} does not continue the ledger: expected predecessor {head}",
                code="ledger-chain",
            )
        try:
            if state is None:
                if not isinstance(entry.action, Opened):
                    raise PolicyError("a ledger begins with its opening")
                state = _Fold(_opened(entry, entry.action))
            else:
                state.apply(entry, checked=audited)
        except (PolicyError, UsageError) as error:
            raise VerificationError(
                f"entry {sequence} breaks the ledger's rules: {error}", code="ledger-rule"
            ) from error
    if state is None:
        raise VerificationError("the ledger is empty", code="ledger-chain")
    return state.frozen()


def _opened(entry: Entry, opening: Opened) -> LedgerState:
    return LedgerState(
        identity=opening.identity,
        unit=opening.unit,
        heads=(digest_of(entry),),
        lock=Lock.RECOVERING if opening.recovers else None,
    )


def _applied(state: LedgerState, entry: Entry, *, checked: bool) -> LedgerState:
    fold = _Fold(state)
    fold.apply(entry, checked=checked)
    return fold.frozen()


class _Fold:
    """A state being built: private copies, so that a long replay takes linear time."""

    def __init__(self, state: LedgerState) -> None:
        self._state = state
        self.heads = list(state.heads)
        self._fingerprints = set(state.fingerprints)
        self._caps = dict(state.caps)
        self._plans = dict(state.plans)
        self._slots = dict(state.slots)
        self._unsent = set(state.unsent)
        self._sent = set(state.sent)
        self._spend = {key: dict(counts) for key, counts in state.spend.items()}
        self._disclosed = set(state.disclosed)
        self._losses = set(state.accepted_losses)
        self._lock = state.lock

    def frozen(self) -> LedgerState:
        return replace(
            self._state,
            heads=tuple(self.heads),
            fingerprints=frozenset(self._fingerprints),
            caps=MappingProxyType(self._caps),
            plans=MappingProxyType(self._plans),
            slots=MappingProxyType(self._slots),
            unsent=frozenset(self._unsent),
            sent=frozenset(self._sent),
            spend=MappingProxyType(self._spend),
            disclosed=frozenset(self._disclosed),
            accepted_losses=frozenset(self._losses),
            lock=self._lock,
        )

    def apply(self, entry: Entry, *, checked: bool) -> None:
        action = entry.action
        # A locked ledger still learns of caps and content, and of what happened anyway.
        if self._lock is not None and isinstance(action, Reserved | Charged):
            raise PolicyError(
                "the ledger is locked: an earlier part of it is missing; an officer must sign a "
                "re-base",
                code=self._lock.value,
            )
        match action:
            case Opened():
                raise PolicyError("a ledger is opened once", code="already-open")
            case Fingerprinted():
                self._fingerprints.add(action.fingerprint)
            case Capped():
                self._on_capped(action)
            case Reserved():
                self._on_reserved(action, checked)
            case Charged():
                self._on_charged(action)
            case Sent():
                self._on_sent(action)
            case Closed():
                self._on_closed(action)
            case Disclosed():
                self._disclosed.add((action.partition, action.name))
            case Rebased():
                self._on_rebased(action)
            case _:
                assert_never(action)
        self.heads.append(digest_of(entry))

    def _on_capped(self, action: Capped) -> None:
        names = [envelope.name for envelope in action.envelopes]
        if not names or len(set(names)) != len(names):
            raise UsageError("expected at least one envelope, each named once")
        total = sum(envelope.per_mille for envelope in action.envelopes)
        if total > 1000:
            raise UsageError(f"envelopes add up to {total} thousandths, expected at most 1000")
        self._caps[action.partition] = action

    def _on_reserved(self, action: Reserved, checked: bool) -> None:
        if action.plan in self._plans:
            raise PolicyError("this plan already has its reservation", code="plan-known")
        cap = self._caps.get(action.partition)
        if cap is None:
            raise PolicyError(f"no charter caps the partition {action.partition}", code="no-cap")
        if action.envelope not in {envelope.name for envelope in cap.envelopes}:
            raise PolicyError(f"the cap has no envelope {action.envelope}", code="no-cap")
        if not action.events:
            raise UsageError("a reservation needs at least one event")
        left = _counts_of(action.events)
        account = PlanAccount(
            partition=action.partition,
            envelope=action.envelope,
            left=MappingProxyType(left),
            is_open=True,
        )
        if checked:
            self._check_budget(cap, account)
        self._plans[action.plan] = account

    def _on_charged(self, action: Charged) -> None:
        account = self._plans.get(action.plan)
        if account is None:
            raise PolicyError("the plan has no reservation", code="not-reserved")
        if not account.is_open:
            raise PolicyError(
                "the plan is closed: nothing more is charged to it", code="plan-closed"
            )
        slot = _slot(action)
        if slot in self._slots:
            same = self._slots[slot] == action.payload
            raise PolicyError(
                "this vector is already paid: send the stored bytes"
                if same
                else "this slot is paid for other bytes: send those again, or open a new query",
                code="already-paid" if same else "slot-taken",
            )
        left = dict(account.left)
        key = _kind(action.event)
        if left.get(key, 0) < action.event.count:
            raise PolicyError(
                f"the reservation has {left.get(key, 0)} releases of this kind left, "
                f"{action.event.count} asked: noise, rate, clip or number differ from the plan",
                code="not-reserved",
            )
        left[key] -= action.event.count
        self._plans[action.plan] = replace(account, left=MappingProxyType(left))
        self._slots[slot] = action.payload
        self._unsent.add((action.plan, action.payload))
        self._charge(account.partition, account.envelope, key, action.event.count)

    def _on_sent(self, action: Sent) -> None:
        pair = (action.plan, action.payload)
        if pair not in self._unsent and pair not in self._sent:
            raise PolicyError("a vector is sent only after it is charged", code="not-charged")
        self._unsent.discard(pair)
        self._sent.add(pair)

    def _on_closed(self, action: Closed) -> None:
        account = self._plans.get(action.plan)
        if account is None:
            raise PolicyError("the plan has no reservation", code="not-reserved")
        self._plans[action.plan] = replace(
            account, is_open=False, left=MappingProxyType(dict[PrivateEvent, int]())
        )

    def _on_rebased(self, action: Rebased) -> None:
        if not self._caps:
            raise PolicyError("a re-base needs the charter's caps first", code="no-cap")
        found = {(item.partition, item.envelope): item.event for item in action.assumed}
        for cap in self._caps.values():
            for envelope in cap.envelopes:
                event = found.pop((cap.partition, envelope.name), None)
                limit = envelope_limit(cap, envelope)
                if event is None or total_signal_to_noise([event]) < limit:
                    raise PolicyError(
                        f"a re-base must count the whole envelope {envelope.name} of "
                        f"{cap.partition} as spent",
                        code="rebase-too-low",
                    )
                self._charge(cap.partition, envelope.name, _kind(event), event.count)
        if found:
            raise PolicyError("a re-base names an envelope without a cap", code="no-cap")
        self._losses.add((action.lost_count, action.lost_head))
        self._lock = None

    def _charge(self, partition: str, envelope: str, key: PrivateEvent, count: int) -> None:
        counts = self._spend.setdefault((partition, envelope), {})
        counts[key] = counts.get(key, 0) + count

    def _check_budget(self, cap: Capped, asked: PlanAccount) -> None:
        """Refuse when charged, reserved and asked together pass the envelope or the cap."""
        inside: list[Event] = []
        everything: list[Event] = []
        for account in (*self._plans.values(), asked):
            if account.partition == cap.partition:
                events = _events_of(account.left)
                everything += events
                inside += events if account.envelope == asked.envelope else []
        for (partition, envelope), counts in self._spend.items():
            if partition == cap.partition:
                events = _events_of(counts)
                everything += events
                inside += events if envelope == asked.envelope else []
        check_fits(cap, asked.envelope, inside, everything)


def _slot(charge: Charged) -> Slot:
    return charge.plan, charge.query, charge.model, charge.cohort


def _kind(event: PrivateEvent) -> PrivateEvent:
    return msgspec.structs.replace(event, count=1)


def _counts_of(events: Iterable[PrivateEvent]) -> dict[PrivateEvent, int]:
    counts: dict[PrivateEvent, int] = {}
    for event in events:
        key = _kind(event)
        counts[key] = counts.get(key, 0) + event.count
    return counts


def _events_of(counts: Counts) -> list[Event]:
    return [
        msgspec.structs.replace(kind, count=count) for kind, count in counts.items() if count > 0
    ]
