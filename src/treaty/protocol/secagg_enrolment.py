"""Epoch of the coordinator: collect keys, fix the roster, route columns, judge complaints.

CollectingKeys -> CollectingShares -> CollectingReady -> Ready. A fold over the coordinator's own
log (docs/spec/secagg.md, section 5): phases move when a statement is logged, effects say what to
append next, and replaying the log after a restart gives the same state. A member that misses a
deadline is left out of this epoch and joins the next.

Nothing is trusted here: every member checks the same things again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeAlias

from treaty.crypto import canonical
from treaty.crypto.sealing import TAG_BYTES
from treaty.errors import PolicyError, VerificationError
from treaty.ids import Digest, MemberId, SingleEnum
from treaty.protocol.machine import Transitions, advance, expect
from treaty.protocol.secagg_dealing import complaint_holds
from treaty.protocol.secagg_graph import Graph, check_choice
from treaty.protocol.secagg_keys import Group, epoch_hash_of
from treaty.protocol.secagg_lifecycle import Expected
from treaty.protocol.secagg_messages import (
    CloseCode,
    EpochKeys,
    EpochOpened,
    EpochReady,
    EpochRoster,
    EpochSealed,
    EpochShares,
    RoundOpened,
    ShareComplaint,
)
from treaty.protocol.secagg_roster import check_keys, check_roster, fresh_keys
from treaty.protocol.statements import Predicate, Verified

__all__ = [
    "TRANSITIONS",
    "ComplaintLogged",
    "CoordinatorEpoch",
    "Deadline",
    "EnrolmentPhase",
    "EpochFailed",
    "KeysLogged",
    "OpenedLogged",
    "Publish",
    "ReadyLogged",
    "RosterLogged",
    "RoundLogged",
    "SealedLogged",
    "SharesLogged",
]


class EnrolmentPhase(SingleEnum):
    """Where the coordinator's epoch stands."""

    OPENING = "opening"
    COLLECTING_KEYS = "collecting-keys"
    COLLECTING_SHARES = "collecting-shares"
    COLLECTING_READY = "collecting-ready"
    READY = "ready"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Publish:
    """Order: sign this statement and append it to the log, with the blob that it names, if any."""

    predicate: Predicate
    blob: bytes | None = None


@dataclass(frozen=True, slots=True)
class EpochFailed:
    """Order: the epoch cannot be used; close it and open another when more members are there."""

    code: CloseCode


@dataclass(frozen=True, slots=True)
class OpenedLogged:
    """The opening statement stands in the log."""

    opened: Verified[EpochOpened]


@dataclass(frozen=True, slots=True)
class KeysLogged:
    """A member's keys stand in the log."""

    keys: Verified[EpochKeys]


@dataclass(frozen=True, slots=True)
class RosterLogged:
    """The roster stands in the log."""

    roster: Verified[EpochRoster]


@dataclass(frozen=True, slots=True)
class SharesLogged:
    """A member's dealing stands in the log, its columns in the blob store."""

    shares: Verified[EpochShares]


@dataclass(frozen=True, slots=True)
class SealedLogged:
    """The end of dealing stands in the log."""

    sealed: Verified[EpochSealed]


@dataclass(frozen=True, slots=True)
class ReadyLogged:
    """A member opened its columns. `wraps` is the blob it names, in the hybrid suite."""

    ready: Verified[EpochReady]
    wraps: bytes | None = None


@dataclass(frozen=True, slots=True)
class ComplaintLogged:
    """A member complains about a share. `column` is the blob that the dealer signed for it."""

    complaint: Verified[ShareComplaint]
    column: bytes


@dataclass(frozen=True, slots=True)
class RoundLogged:
    """A round of this epoch was opened."""

    opened: Verified[RoundOpened]


@dataclass(frozen=True, slots=True)
class Deadline:
    """The time for the present phase is over."""


Event: TypeAlias = (
    OpenedLogged
    | KeysLogged
    | RosterLogged
    | SharesLogged
    | SealedLogged
    | ReadyLogged
    | ComplaintLogged
    | RoundLogged
    | Deadline
)
Effect: TypeAlias = Publish | EpochFailed

_P = EnrolmentPhase
TRANSITIONS: Transitions[EnrolmentPhase] = MappingProxyType(
    {
        (_P.OPENING, OpenedLogged): frozenset({_P.COLLECTING_KEYS}),
        (_P.COLLECTING_KEYS, KeysLogged): frozenset({_P.COLLECTING_KEYS}),
        (_P.COLLECTING_KEYS, Deadline): frozenset({_P.COLLECTING_KEYS, _P.FAILED}),
        (_P.COLLECTING_KEYS, RosterLogged): frozenset({_P.COLLECTING_SHARES}),
        (_P.COLLECTING_SHARES, SharesLogged): frozenset({_P.COLLECTING_SHARES}),
        (_P.COLLECTING_SHARES, Deadline): frozenset({_P.COLLECTING_SHARES, _P.FAILED}),
        (_P.COLLECTING_SHARES, SealedLogged): frozenset({_P.COLLECTING_READY}),
        (_P.COLLECTING_READY, ReadyLogged): frozenset({_P.COLLECTING_READY, _P.READY}),
        (_P.COLLECTING_READY, ComplaintLogged): frozenset({_P.COLLECTING_READY, _P.READY}),
        (_P.COLLECTING_READY, Deadline): frozenset({_P.READY, _P.FAILED}),
        (_P.COLLECTING_READY, RoundLogged): frozenset({_P.READY}),
        (_P.READY, ReadyLogged): frozenset({_P.READY}),
        (_P.READY, ComplaintLogged): frozenset({_P.READY}),
        (_P.READY, RoundLogged): frozenset({_P.READY}),
        (_P.READY, Deadline): frozenset({_P.READY}),
        (_P.FAILED, Deadline): frozenset({_P.FAILED}),
    }
)


@dataclass(frozen=True, slots=True)
class CoordinatorEpoch:
    """One epoch as the coordinator's log tells it."""

    group: Group
    plan: Digest
    number: int
    slots: int
    phase: EnrolmentPhase = EnrolmentPhase.OPENING
    opened: Digest | None = None
    keys: Mapping[str, Verified[EpochKeys]] = field(default_factory=dict)
    peers: Mapping[str, EpochKeys] = field(default_factory=dict)
    epoch_hash: Digest | None = None
    shares: Mapping[str, Verified[EpochShares]] = field(default_factory=dict)
    dealers: tuple[str, ...] = ()
    graph: Graph | None = None
    ready: Mapping[str, EpochReady] = field(default_factory=dict)
    wraps: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    excluded: frozenset[str] = frozenset()
    next_slot: int = 0

    @staticmethod
    def begin(
        group: Group, plan: Digest, epoch: int, slots: int
    ) -> tuple["CoordinatorEpoch", tuple[Publish]]:
        """Return a new epoch and the statement that opens it."""
        opened = EpochOpened(
            charter=group.charter,
            author=group.coordinator,
            epoch=epoch,
            plan=plan,
            slots=min(slots, group.slots_max),
            suite=group.suite,
            max_colluders=group.max_colluders,
            min_survivors=group.min_survivors,
        )
        begun = CoordinatorEpoch(group, plan, epoch, opened.slots)
        return begun, (Publish(opened),)

    @property
    def able(self) -> tuple[MemberId, ...]:
        """Return the members that may take part in the next round, in order."""
        return tuple(
            MemberId(name)
            for name in self.dealers
            if name in self.ready and name not in self.excluded
        )

    @property
    def exhausted(self) -> bool:
        """Say whether every slot is spent."""
        return self.next_slot >= self.slots

    def columns_for(self, member: str) -> tuple[Digest, ...]:
        """Return the digests of the blobs to hand to `member` with the end of dealing."""
        return tuple(
            Digest(self.shares[dealer].predicate.columns[member])
            for dealer in self.dealers
            if member in self.shares[dealer].predicate.columns
        )

    def next_round(
        self, expected: Expected, *, attempt: int = 0, exclude: frozenset[str] = frozenset()
    ) -> RoundOpened:
        """Return the opening of a round for what `expected` says, in the next slot.

        Raises `PolicyError`: ``epoch-exhausted``, ``too-few-participants``.
        """
        participants = tuple(name for name in self.able if name not in exclude)
        if self.epoch_hash is None or len(participants) < self.group.min_survivors:
            raise PolicyError(
                f"expected at least {self.group.min_survivors} members to be ready, "
                f"got {len(participants)}",
                code="too-few-participants",
            )
        if self.exhausted:
            raise PolicyError("every slot of the epoch is spent", code="epoch-exhausted")
        return RoundOpened(
            charter=self.group.charter,
            author=self.group.coordinator,
            epoch_hash=self.epoch_hash,
            slot=self.next_slot,
            round=expected.round,
            attempt=attempt,
            participants=participants,
            plan=expected.plan,
            query=expected.query,
            code=expected.code,
            model=expected.model,
            length=expected.length,
            ring_bits=expected.ring_bits,
            previous=expected.previous,
        )

    def step(self, event: Event) -> tuple["CoordinatorEpoch", tuple[Effect, ...]]:
        """Return the next state and what to append; a refusal means: do not log the statement.

        Raises `VerificationError`: ``wrong-epoch``, ``second-keys``, ``second-shares``,
        ``second-ready``, ``keys-malformed``, ``keys-repeat``, ``shares-malformed``,
        ``nonce-missing``, ``nonce-differs``, ``ready-malformed``, ``not-in-roster``,
        ``out-of-order`` and those of `check_roster`.
        """
        expect(TRANSITIONS, self.phase, event)
        match event:
            case OpenedLogged():
                following = self._move(event, EnrolmentPhase.COLLECTING_KEYS)
                return replace(following, opened=event.opened.digest), ()
            case KeysLogged():
                return self._on_keys(event)
            case RosterLogged():
                return self._on_roster(event), ()
            case SharesLogged():
                return self._on_shares(event)
            case SealedLogged():
                return self._on_sealed(event), ()
            case ReadyLogged():
                return self._on_ready(event), ()
            case ComplaintLogged():
                return self._on_complaint(event), ()
            case RoundLogged():
                moved = self._move(event, EnrolmentPhase.READY)
                return replace(moved, next_slot=event.opened.predicate.slot + 1), ()
            case Deadline():
                return self._on_deadline(event)

    def _on_keys(self, event: KeysLogged) -> tuple["CoordinatorEpoch", tuple[Effect, ...]]:
        keys, author = event.keys.predicate, str(event.keys.author)
        self.group.index(author)
        if (keys.epoch, keys.opened) != (self.number, self.opened):
            raise VerificationError(f"keys of {author} are for another epoch", code="wrong-epoch")
        if _repeated(self.keys.get(author), event.keys, "keys"):
            return self, ()
        # Prevents that one member stops every epoch: a roster with a key that stands there
        # twice is refused by everybody, so such keys must not come into the log.
        seen = [fresh_keys(other.predicate) for other in self.keys.values()]
        check_keys(self.group, keys, self.slots, frozenset().union(*seen))
        kept = replace(self, keys=MappingProxyType({**self.keys, author: event.keys}))
        if len(kept.keys) == len(self.group.members):
            return kept, (Publish(kept._roster()),)
        return kept, ()

    def _on_roster(self, event: RosterLogged) -> "CoordinatorEpoch":
        roster = event.roster.predicate
        if (roster.epoch, roster.opened) != (self.number, self.opened):
            raise VerificationError("the roster is of another epoch", code="wrong-epoch")
        logged = {str(one.digest): one for one in self.keys.values()}
        peers = check_roster(self.group, roster, logged, self.slots)
        return replace(
            self._move(event, EnrolmentPhase.COLLECTING_SHARES),
            peers=MappingProxyType(peers),
            epoch_hash=epoch_hash_of(self.group.charter, self.number, roster.keys),
        )

    def _on_shares(self, event: SharesLogged) -> tuple["CoordinatorEpoch", tuple[Effect, ...]]:
        shares, author = event.shares.predicate, str(event.shares.author)
        self._check_inside(shares.epoch_hash, author)
        roster = tuple(self.peers)
        check_choice(self.group, self.peers[author], roster, shares.epoch_hash, shares)
        if _repeated(self.shares.get(author), event.shares, "shares"):
            return self, ()
        kept = replace(self, shares=MappingProxyType({**self.shares, author: event.shares}))
        if len(kept.shares) == len(self.peers):
            return kept, (Publish(kept._sealed()),)
        return kept, ()

    def _on_sealed(self, event: SealedLogged) -> "CoordinatorEpoch":
        sealed = event.sealed.predicate
        if sealed.epoch_hash != self.epoch_hash:
            raise VerificationError("dealing was sealed for another roster", code="wrong-epoch")
        if not set(sealed.dealers) <= set(self.shares):
            raise VerificationError("a dealer's shares are not in the log", code="not-in-roster")
        dealt = {dealer: self.shares[dealer].predicate for dealer in sealed.dealers}
        return replace(
            self._move(event, EnrolmentPhase.COLLECTING_READY),
            dealers=sealed.dealers,
            graph=Graph.of(self.group, tuple(self.peers), dealt),
        )

    def _on_ready(self, event: ReadyLogged) -> "CoordinatorEpoch":
        ready, author = event.ready.predicate, str(event.ready.author)
        self._check_inside(ready.epoch_hash, author)
        if author not in self.dealers:
            raise VerificationError(f"{author} is not a dealer", code="not-in-roster")
        partners = () if self.graph is None else self.graph.partners(author)
        size = self.slots * (32 * len(partners) + TAG_BYTES)
        fits = (
            event.wraps is not None
            and len(event.wraps) == size
            and len(ready.pair_commitments) == self.slots
            and canonical.sha256(event.wraps) == ready.wraps
            if self.group.hybrid
            else ready.wraps is None and not ready.pair_commitments
        )
        if not fits:
            raise VerificationError(
                f"the post-quantum keys of {author} are not as the suite asks",
                code="ready-malformed",
            )
        before = self.ready.get(author)
        if before is not None:
            if before != ready:
                raise VerificationError(f"{author} was ready before", code="second-ready")
            return self
        wraps = dict(self.wraps) if event.wraps is None else {**self.wraps, author: event.wraps}
        kept = replace(
            self,
            ready=MappingProxyType({**self.ready, author: ready}),
            wraps=MappingProxyType(wraps),
        )
        return kept._ready_when_complete(event)

    def _on_complaint(self, event: ComplaintLogged) -> "CoordinatorEpoch":
        """Leave out who is at fault; both, when the key is not the one committed to.

        A false key and a false commitment look alike, so a member that wants another one out
        pays with its own place.
        """
        complaint, author = event.complaint.predicate, str(event.complaint.author)
        self._check_inside(complaint.epoch_hash, author)
        dealt = self.shares.get(complaint.dealer)
        if dealt is None or canonical.sha256(event.column) != dealt.predicate.columns.get(author):
            raise VerificationError(
                f"the column of {complaint.dealer} for {author} is not the one signed",
                code="column-differs",
            )
        fault = complaint_holds(
            self.group,
            complaint.epoch_hash,
            complaint.dealer,
            author,
            complaint.slot,
            bytes.fromhex(complaint.key),
            event.column,
            self.slots,
        )
        out = {True: {complaint.dealer}, False: {author}, None: {complaint.dealer, author}}[fault]
        return replace(self, excluded=self.excluded | out)._ready_when_complete(event)

    def _on_deadline(self, event: Deadline) -> tuple["CoordinatorEpoch", tuple[Effect, ...]]:
        enough = self.group.min_survivors
        match self.phase:
            case EnrolmentPhase.COLLECTING_KEYS if len(self.keys) >= enough:
                return self, (Publish(self._roster()),)
            case EnrolmentPhase.COLLECTING_SHARES if len(self.shares) >= enough:
                return self, (Publish(self._sealed()),)
            case EnrolmentPhase.COLLECTING_READY if len(self.able) >= enough:
                return self._move(event, EnrolmentPhase.READY), ()
            case EnrolmentPhase.READY | EnrolmentPhase.FAILED:
                return self, ()
            case _:
                failed = self._move(event, EnrolmentPhase.FAILED)
                return failed, (EpochFailed(CloseCode.TOO_FEW_MEMBERS),)

    def _ready_when_complete(self, event: Event) -> "CoordinatorEpoch":
        settled = set(self.ready) | self.excluded
        if set(self.dealers) <= settled and len(self.able) >= self.group.min_survivors:
            return self._move(event, EnrolmentPhase.READY)
        return self

    def _check_inside(self, epoch_hash: str, author: str) -> None:
        if epoch_hash != self.epoch_hash:
            raise VerificationError(
                f"the statement of {author} is for another roster", code="wrong-epoch"
            )
        if author not in self.peers:
            raise VerificationError(f"{author} is not in the roster", code="not-in-roster")

    def _roster(self) -> EpochRoster:
        return EpochRoster(
            charter=self.group.charter,
            author=self.group.coordinator,
            epoch=self.number,
            opened=str(self.opened),
            keys=tuple(self.keys[name].digest for name in self.group.members if name in self.keys),
        )

    def _sealed(self) -> EpochSealed:
        return EpochSealed(
            charter=self.group.charter,
            author=self.group.coordinator,
            epoch_hash=str(self.epoch_hash),
            dealers=tuple(name for name in self.group.members if name in self.shares),
        )

    def _move(self, event: object, following: EnrolmentPhase) -> "CoordinatorEpoch":
        return replace(self, phase=advance(TRANSITIONS, self.phase, event, following))


def _repeated(
    before: Verified[EpochKeys] | Verified[EpochShares] | None,
    now: Verified[EpochKeys] | Verified[EpochShares],
    what: str,
) -> bool:
    """Say whether a statement came before; another one of the same kind is refused."""
    if before is not None and before.digest != now.digest:
        raise VerificationError(f"{now.author} sent other {what} before", code=f"second-{what}")
    return before is not None
