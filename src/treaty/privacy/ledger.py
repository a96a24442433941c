"""The rules of a site's privacy ledger, as a fold over its entries.

Guarantees (docs/spec/privacy.md, section 7):
  * A charge is accepted only inside a reservation whose worst case fitted the envelope and
    the cap when it was made. Nothing is ever refunded; closing a plan only gives up what
    was reserved and not charged.
  * The same slot with identical bytes is already paid. Other bytes for it are a charge of their
    own while the first were not recorded as sent (they were lost with a process), and are
    refused afterwards.
  * Entries form a hash chain from a genesis with a 32-byte salt. A ledger that is behind, or
    beside, the head it published is locked until an officer's signed re-base, which counts
    everything the charter allows as spent and closes every plan: what the lost part charged to
    their reservations is unknown.
  * All content ever registered under a dataset identity shares one spend.

No input or output: the caller makes the entry durable *before* it draws noise, masks or sends.
Left to others: the officer's signature, the durable file, publication of the head.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from treaty.crypto.canonical import decode, digest_of, encode
from treaty.errors import FormatError, PolicyError, UsageError, VerificationError
from treaty.ids import Digest
from treaty.privacy.accountant import composed_epsilon, delta_of
from treaty.privacy.events import (
    Event,
    NonPrivateEvent,
    grouped,
)
from treaty.privacy.ledger_budget import whole_envelope
from treaty.privacy.ledger_entries import (
    FORMAT,
    GENESIS,
    Action,
    AssumedSpend,
    Capped,
    Charged,
    Entry,
    LedgerHead,
    Named,
    Opened,
    Rebased,
)
from treaty.privacy.ledger_fold import (
    Counts,
    Fold,
    PlanAccount,
    PlanKey,
    Slot,
    counts_of,
    events_of,
    refuse_sent_slot,
    slot_of,
)

__all__ = [
    "LedgerState",
    "Lock",
    "PlanAccount",
    "Slot",
    "Step",
    "counts_of",
    "open_ledger",
    "replay",
]


class Lock(Enum):
    """Why a ledger takes no charge."""

    BEHIND = "ledger-behind"
    FORKED = "ledger-forked"
    RECOVERING = "ledger-recovering"


@dataclass(frozen=True, slots=True)
class LedgerState:
    """What the entries so far add up to. Made by `open_ledger`, `replay` and `append` only.

    `disclosed` holds (plan, partition, name) of every release without noise.
    """

    opening: Opened
    heads: tuple[Digest, ...]
    fingerprints: frozenset[str] = frozenset()
    named: Named | None = None
    caps: Mapping[str, Capped] = field(default_factory=dict)
    plans: Mapping[PlanKey, PlanAccount] = field(default_factory=dict)
    slots: Mapping[Slot, str] = field(default_factory=dict)
    unsent: frozenset[tuple[str, str]] = frozenset()
    sent: frozenset[tuple[str, str]] = frozenset()
    spend: Mapping[tuple[str, str], Counts] = field(default_factory=dict)
    disclosed: frozenset[tuple[str, str, str]] = frozenset()
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

    @property
    def identity(self) -> str:
        """The registered data set."""
        return self.opening.identity

    @property
    def unit(self) -> str:
        """The unit of privacy."""
        return self.opening.unit

    @property
    def published(self) -> LedgerHead:
        """What the site publishes of this ledger."""
        return LedgerHead(ledger=self.heads[0], count=self.count, head=self.head)

    def append(self, action: Action) -> "Step":
        """Return the next state and the bytes to make durable before anything else happens.

        Guarantee: refuses what the rules above refuse, with `PolicyError` codes ``budget``,
        ``not-reserved``, ``slot-taken``, ``already-paid``, ``plan-known``, ``plan-closed``,
        ``no-cap``, ``not-charged``, ``rebase-too-low``, ``person-naming``, ``rows-moved``, or the
        lock's own; the state is untouched
        then. Budgets are compared with epsilon rounded up and the cap rounded down. An action that
        no reader would take (`UsageError`) is never stored: it would bar what follows it.
        """
        entry = Entry(format=FORMAT, sequence=self.count, previous=self.head, action=action)
        following = _applied(self, entry, checked=True)
        data = encode(entry)
        try:
            decode(data, Entry)
        except FormatError as error:
            raise UsageError(f"the entry cannot be read again: {error}") from error
        return Step(state=following, entry=data)

    def is_paid(self, charge: Charged) -> bool:
        """Say whether this very vector is paid for, so that sending it again is free.

        Raises `PolicyError` ``slot-taken`` when other bytes were sent for the slot.
        """
        earlier = self.slots.get(slot_of(charge))
        if earlier is None:
            return False
        if earlier != charge.payload:
            refuse_sent_slot(charge.plan, earlier, self.sent)
            return False
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
            for event in events_of(counts)
        ]
        names = [
            NonPrivateEvent(name=name) for _, owner, name in self.disclosed if owner == partition
        ]
        return grouped([*found, *names])

    def charged(self, partition: str, envelope: str) -> list[Event]:
        """Return what is charged to one envelope."""
        return events_of(self.spend.get((partition, envelope), {}))

    def reserved(self, partition: str, envelope: str) -> list[Event]:
        """Return what open plans have reserved in one envelope and not charged."""
        left = [
            event
            for account in self.plans.values()
            if (account.partition, account.envelope) == (partition, envelope)
            for event in events_of(account.left)
        ]
        return list(grouped(left))

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


def replay(
    entries: Iterable[bytes], *, onto: LedgerState | None = None, audited: bool = False
) -> LedgerState:
    """Return the state that these entries add up to, after those of `onto` where it is given.

    Structure and chain are checked for every entry. With `audited` each reservation is also
    projected against its cap again, which takes an accountant's run per sampled reservation.

    Raises `FormatError` for bytes that are no entry, `VerificationError` ``ledger-chain`` for
    a broken chain, ``ledger-rule`` for an entry that the rules refuse.
    """
    state = None if onto is None else Fold(onto)
    for sequence, data in enumerate(entries, 0 if onto is None else onto.count):
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
                state = Fold(_opened(entry, entry.action))
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
        opening=opening,
        heads=(digest_of(entry),),
        lock=Lock.RECOVERING if opening.recovers else None,
    )


def _applied(state: LedgerState, entry: Entry, *, checked: bool) -> LedgerState:
    fold = Fold(state)
    fold.apply(entry, checked=checked)
    return fold.frozen()
