"""Epoch of a member: keys, roster, shares, and one set of secrets for each slot.

Init -> KeysSent -> Dealt -> Ready -> Closed, with a step between for every write to disk.
Guarantees (docs/spec/secagg.md, section 5):
  * A member deals once per epoch, for one roster, and opens columns for one set of dealers.
  * A roster that lacks the member's own keys as it sent them, that repeats a key, holds a
    low-order key, or is too small, is refused; a share that does not open makes a signed
    complaint and its dealer no partner of any round.
  * Once ready, the seed that all secrets came from and the keys under which shares travelled
    are erased; each slot's secrets stand in a file of their own.

Statements come in verified (`Verified`); this module judges what they say. Secrets are never in the
records that `Persist` orders. Entropy is one 32-byte seed, an argument.

LIMIT: the ciphertexts of the hybrid suite draw entropy inside the library, so an epoch under it
repeats its masks from the same seed, not its columns.
"""

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from treaty.crypto import canonical
from treaty.crypto.canonical import Count, DigestField, Int53, MemberName, Record
from treaty.errors import PolicyError, UsageError, VerificationError
from treaty.ids import Digest, MemberId
from treaty.protocol.machine import advance, expect
from treaty.protocol.secagg_dealing import (
    BadShare,
    Opened,
    deal,
    open_column,
    ready_statement,
    slot_secrets,
)
from treaty.protocol.secagg_effects import (
    Effect,
    EraseSecret,
    Persist,
    Persisted,
    Send,
    StoreSecret,
)
from treaty.protocol.secagg_graph import (
    Graph,
    chosen_holders,
    nonce_commitment,
    threshold_in,
)
from treaty.protocol.secagg_keys import EpochSeed, Group, epoch_hash_of
from treaty.protocol.secagg_lifecycle import (
    EPOCH_KEY,
    EPOCH_TRANSITIONS,
    DealingSealed,
    EpochEnded,
    EpochEvent,
    EpochPhase,
    RosterFixed,
    noise_secret_name,
)
from treaty.protocol.secagg_messages import (
    EpochKeys,
    EpochOpened,
    EpochReady,
    EpochShares,
    Hex32,
    Names,
    ShareComplaint,
)
from treaty.protocol.secagg_roster import check_dealt, check_roster
from treaty.protocol.statements import Verified

__all__ = [
    "EPOCH_KEY",
    "DealingSealed",
    "EpochEnded",
    "EpochPhase",
    "MemberEpoch",
    "RosterFixed",
    "epoch_secret",
]


class _Secret(Record):
    """Content of the epoch's secret file; `outgoing` are transport secrets to each peer."""

    seed: Hex32
    outgoing: dict[MemberName, Hex32]

    def __repr__(self) -> str:
        """Show nothing but the type."""
        return "_Secret"


class _State(Record):
    """What is durable of an epoch; holds no secret."""

    format: Literal["treaty.secagg-epoch/v1"] = "treaty.secagg-epoch/v1"
    phase: EpochPhase
    charter: DigestField
    epoch: Count
    opened: DigestField
    plan: DigestField
    slots: Count
    keys: EpochKeys | None
    epoch_hash: DigestField | None = None
    peers: dict[MemberName, EpochKeys] = msgspec.field(default_factory=dict)
    shares: EpochShares | None = None
    ready: EpochReady | None = None
    complaints: tuple[ShareComplaint, ...] = ()
    dealers: Names = ()
    sparse: bool = False
    last_slot: Int53 = -1


def epoch_secret(seed: bytes) -> bytes:
    """Return the content of an epoch's secret file before dealing."""
    return canonical.encode(_Secret(seed=seed.hex(), outgoing={}))


@dataclass(frozen=True, slots=True)
class MemberEpoch:
    """One member's part in one epoch."""

    group: Group
    me: MemberId
    state: _State
    # What was derived in an earlier step of this life, until the epoch is ready.
    derived: EpochSeed | None = field(default=None, repr=False, compare=False)

    @staticmethod
    def begin(
        group: Group,
        me: MemberId,
        opened: Verified[EpochOpened],
        *,
        plan: Digest,
        last_epoch: int,
        seed: bytes,
    ) -> tuple["MemberEpoch", tuple[Effect, ...]]:
        """Return the epoch that `opened` asks for, with fresh keys from `seed` (32 bytes).

        Raises `PolicyError`: ``epoch-not-new`` (a number this member has seen: an old backup or
        a replay), ``wrong-plan``, ``wrong-parameters``, ``too-many-slots``;
        `VerificationError` ``not-a-member``.
        """
        ask = opened.predicate
        index = group.index(me)
        if ask.epoch <= last_epoch:
            raise PolicyError(
                f"expected an epoch after {last_epoch}, got {ask.epoch}", code="epoch-not-new"
            )
        if ask.plan != plan:
            raise PolicyError("the epoch is for another plan", code="wrong-plan")
        if (ask.suite, ask.max_colluders, ask.min_survivors, ask.charter) != (
            group.suite,
            group.max_colluders,
            group.min_survivors,
            group.charter,
        ):
            raise PolicyError(
                "the epoch's parameters are not those that the charter derives",
                code="wrong-parameters",
            )
        if ask.slots > group.slots_max:
            raise PolicyError(
                f"expected at most {group.slots_max} slots in an epoch, got {ask.slots}",
                code="too-many-slots",
            )
        secrets = EpochSeed(seed, group.charter, ask.epoch, index)
        keys = EpochKeys(
            charter=group.charter,
            author=me,
            epoch=ask.epoch,
            opened=opened.digest,
            transport=secrets.transport_key().public.hex(),
            kem=secrets.encapsulation_key().public.hex() if group.hybrid else None,
            round_keys=tuple(secrets.agreement_key(slot).public.hex() for slot in range(ask.slots)),
            commitments=tuple(secrets.commitment(slot) for slot in range(ask.slots)),
            graph=nonce_commitment(
                secrets.graph_nonce(), bytes.fromhex(group.charter), ask.epoch, index
            )
            if group.large
            else None,
        )
        state = _State(
            phase=EpochPhase.INIT,
            charter=group.charter,
            epoch=ask.epoch,
            opened=opened.digest,
            plan=plan,
            slots=ask.slots,
            keys=keys,
        )
        begun = MemberEpoch(group, me, state, secrets)
        return begun, (
            StoreSecret(begun.secret_name, epoch_secret(seed)),
            begun._persist(EpochPhase.KEYS_SENT),
        )

    @staticmethod
    def restore(group: Group, me: MemberId, data: bytes) -> "MemberEpoch":
        """Return the epoch of a stored record; then perform `repeat`.

        Raises `FormatError` for other bytes, `PolicyError` (code ``charter-changed``) when the
        record is of another charter: such an epoch is closed, its secrets are erased.
        """
        state = canonical.decode(data, _State, limit=1 << 24)
        if state.charter != group.charter:
            raise PolicyError("the stored epoch is of another charter", code="charter-changed")
        return MemberEpoch(group, me, state)

    @property
    def phase(self) -> EpochPhase:
        """Return where the epoch stands."""
        return self.state.phase

    @property
    def number(self) -> int:
        """Return the epoch's number."""
        return self.state.epoch

    @property
    def epoch_hash(self) -> Digest | None:
        """Return the hash of the roster, once there is one."""
        return None if self.state.epoch_hash is None else Digest(self.state.epoch_hash)

    @property
    def dealers(self) -> tuple[str, ...]:
        """Return the members whose shares this one holds, itself included."""
        return self.state.dealers

    @property
    def sparse(self) -> bool:
        """Say whether members chose holders: then every set of survivors is confirmed first."""
        return self.state.sparse

    @property
    def last_slot(self) -> int:
        """Return the highest slot that was ever used, or -1."""
        return self.state.last_slot

    @property
    def secret_name(self) -> str:
        """Return the name of the secret file that stands until the epoch is ready."""
        return f"epoch-{self.state.epoch:06d}"

    def slot_secret_name(self, slot: int) -> str:
        """Return the name of a slot's secret file."""
        return f"epoch-{self.state.epoch:06d}-slot-{slot:04d}"

    def encode(self) -> bytes:
        """Return the canonical record of the state; it holds no secret."""
        return canonical.encode(self.state)

    def with_slot_used(self, slot: int) -> "MemberEpoch":
        """Return the epoch in which `slot` is spent."""
        if slot <= self.state.last_slot:
            raise UsageError(f"slot {slot} was used before")
        return self._with(last_slot=slot)

    def repeat(self) -> tuple[Effect, ...]:
        """Return what to do again after a restart: idempotent, the same bytes."""
        match (state := self.state).phase:
            case EpochPhase.KEYS_SENT if state.keys is not None:
                return (Send(state.keys),)
            case EpochPhase.DEALT if state.shares is not None:
                return (Send(state.shares, _digests(state.shares)),)
            case EpochPhase.READY if state.ready is not None and state.last_slot < 0:
                wraps = (Digest(state.ready.wraps),) if state.ready.wraps else ()
                return (
                    EraseSecret(self.secret_name),
                    Send(state.ready, wraps),
                    *map(Send, state.complaints),
                )
            case EpochPhase.CLOSED:
                return self._erase()
            case _:
                return ()

    def step(self, event: EpochEvent) -> tuple["MemberEpoch", tuple[Effect, ...]]:
        """Return the next state and what the caller must now do; a refusal raises.

        See the handlers' codes in docs/spec/secagg.md, section 9.
        """
        expect(EPOCH_TRANSITIONS, self.phase, event)
        match event:
            case Persisted():
                return self._on_persisted(event)
            case RosterFixed():
                return self._on_roster(event)
            case DealingSealed():
                return self._on_sealed(event)
            case EpochEnded():
                return self._close(event)

    def _on_persisted(self, event: Persisted) -> tuple["MemberEpoch", tuple[Effect, ...]]:
        if event.token != self._token():
            raise UsageError(f"nothing was to be stored under {event.token}")
        following = {
            EpochPhase.INIT: EpochPhase.KEYS_SENT,
            EpochPhase.DEALING: EpochPhase.DEALT,
            EpochPhase.OPENING: EpochPhase.READY,
        }.get(self.phase, EpochPhase.CLOSED)
        moved = self._with(phase=advance(EPOCH_TRANSITIONS, self.phase, event, following))
        return moved, moved.repeat() if following is not EpochPhase.CLOSED else ()

    def _on_roster(self, event: RosterFixed) -> tuple["MemberEpoch", tuple[Effect, ...]]:
        """Deal to a roster, having checked: 1 it is of this epoch; 2 every entry (`check_roster`);
        3 the member's own entry is the one it sent, or it is not listed and the epoch ends here.
        """
        state, roster = self.state, event.roster.predicate
        if (roster.epoch, roster.opened) != (state.epoch, state.opened):  # 1
            raise VerificationError("the roster is of another epoch", code="wrong-epoch")
        peers = check_roster(  # 2
            self.group, roster, {one.digest: one for one in event.keys}, state.slots
        )
        if self.me not in peers:  # 3
            return self._close(event)
        if peers[self.me] != state.keys:
            raise VerificationError(
                "the roster holds other keys of this member than it sent", code="own-keys-differ"
            )
        secret = canonical.decode(event.secret, _Secret)
        epoch_hash = epoch_hash_of(self.group.charter, state.epoch, roster.keys)
        seed, size = self._seed(secret), len(peers)
        sparse = self.group.degree(size) is not None
        nonce = seed.graph_nonce().hex() if sparse else None
        holders = chosen_holders(self.group, self.me, tuple(peers), epoch_hash, nonce)
        dealt = deal(
            self.group,
            self.me,
            seed,
            {name: keys for name, keys in peers.items() if name == self.me or name in holders},
            epoch_hash,
            state.slots,
            threshold_in(self.group, size),
        )
        shares = EpochShares(
            charter=self.group.charter,
            author=self.me,
            epoch_hash=epoch_hash,
            columns={name: canonical.sha256(column) for name, column in dealt.columns.items()},
            nonce=nonce,
        )
        moved = self._with(
            phase=advance(EPOCH_TRANSITIONS, self.phase, event, EpochPhase.DEALING),
            epoch_hash=epoch_hash,
            peers=peers,
            shares=shares,
            sparse=sparse,
        )
        effects: list[Effect] = []
        if self.group.hybrid:
            # Their ciphertexts cannot be made again: the secrets behind them are kept until
            # the columns of the others are open.
            outgoing = {name: key.hex() for name, key in dealt.outgoing.items()}
            kept = canonical.encode(_Secret(seed=secret.seed, outgoing=outgoing))
            effects.append(StoreSecret(self.secret_name, kept))
        effects.append(moved._persist(EpochPhase.DEALT, tuple(dealt.columns.values())))
        return moved, tuple(effects)

    def _on_sealed(self, event: DealingSealed) -> tuple["MemberEpoch", tuple[Effect, ...]]:
        """Open the columns, having checked: 1 the epoch; 2 the dealers are of the roster, in
        order, enough, this member among them; 3 each one dealt to its holders, and the column for
        this member, if it is one, is there and is what the dealer signed.
        """
        state, sealed = self.state, event.sealed.predicate
        if sealed.epoch_hash != state.epoch_hash or state.shares is None:  # 1
            raise VerificationError("dealing was sealed for another roster", code="wrong-epoch")
        self.group.check_order(sealed.dealers, "dealers")  # 2
        if not set(sealed.dealers) <= set(state.peers):
            raise VerificationError("a dealer is not in the roster", code="not-in-roster")
        if len(sealed.dealers) < self.group.min_survivors:
            raise PolicyError(
                f"expected at least {self.group.min_survivors} dealers, got {len(sealed.dealers)}",
                code="too-few-members",
            )
        if self.me not in sealed.dealers:
            return self._close(event)
        for dealer in sealed.dealers:  # 3
            if dealer != self.me:
                check_dealt(
                    self.group,
                    self.me,
                    state.peers,
                    sealed.epoch_hash,
                    dealer,
                    event.shares.get(dealer),
                    event.columns.get(dealer),
                )
        secret = canonical.decode(event.secret, _Secret)
        graph = Graph.of(
            self.group,
            tuple(state.peers),
            {
                dealer: state.shares if dealer == self.me else event.shares[dealer].predicate
                for dealer in sealed.dealers
            },
        )
        seed = self._seed(secret)
        opened = {
            dealer: open_column(
                self.group,
                self.me,
                dealer,
                seed,
                state.peers[dealer],
                sealed.epoch_hash,
                state.slots,
                event.columns[dealer],
            )
            for dealer in sealed.dealers
            if dealer != self.me and graph.holds(self.me, dealer)
        }
        good = {name: one for name, one in opened.items() if isinstance(one, Opened)}
        complaints = tuple(
            ShareComplaint(
                charter=self.group.charter,
                author=self.me,
                epoch_hash=sealed.epoch_hash,
                dealer=dealer,
                slot=one.slot,
                key=one.key.hex(),
            )
            for dealer, one in opened.items()
            if isinstance(one, BadShare)
        )
        usable = tuple(name for name in sealed.dealers if name in good or name not in opened)
        partners = graph.partners(self.me)
        slots = slot_secrets(
            self.group,
            self.me,
            seed,
            {name: state.peers[name] for name in partners if name in usable},
            {self.me, *state.shares.columns},
            state.slots,
            graph.threshold,
            good,
            {name: bytes.fromhex(key) for name, key in secret.outgoing.items()},
        )
        ready, blobs = ready_statement(
            self.group, self.me, seed, sealed.epoch_hash, partners, slots
        )
        moved = self._with(
            phase=advance(EPOCH_TRANSITIONS, self.phase, event, EpochPhase.OPENING),
            keys=None,
            peers={},
            shares=None,
            ready=ready,
            complaints=complaints,
            dealers=usable,
        )
        files = (
            StoreSecret(self.slot_secret_name(one.slot), canonical.encode(one)) for one in slots
        )
        return moved, (*files, moved._persist(EpochPhase.READY, blobs))

    def _close(self, event: EpochEvent) -> tuple["MemberEpoch", tuple[Effect, ...]]:
        moved = self._with(
            phase=advance(EPOCH_TRANSITIONS, self.phase, event, EpochPhase.CLOSED),
            keys=None,
            peers={},
            shares=None,
            ready=None,
            complaints=(),
            dealers=(),
        )
        return moved, (*moved._erase(), moved._persist(EpochPhase.CLOSED))

    def _erase(self) -> tuple[Effect, ...]:
        slots = range(max(self.state.last_slot, 0), self.state.slots)
        return (
            EraseSecret(self.secret_name),
            EraseSecret(noise_secret_name(self.state.epoch)),
            *(EraseSecret(self.slot_secret_name(slot)) for slot in slots),
        )

    def _seed(self, secret: _Secret) -> EpochSeed:
        seed = bytes.fromhex(secret.seed)
        if self.derived is not None and self.derived.is_of(seed):
            return self.derived
        return EpochSeed(seed, self.group.charter, self.state.epoch, self.group.index(self.me))

    def _token(self) -> str:
        return f"epoch-{self.state.epoch}-{self.state.phase.value}"

    def _persist(self, following: EpochPhase, blobs: tuple[bytes, ...] = ()) -> Persist:
        record = canonical.encode(msgspec.structs.replace(self.state, phase=following))
        return Persist(((EPOCH_KEY, record),), self._token(), blobs)

    def _with(self, **changes: object) -> "MemberEpoch":
        state = msgspec.structs.replace(self.state, **changes)
        # Past the dealing the seed is erased, and what followed from it goes with it.
        return MemberEpoch(self.group, self.me, state, self.derived if state.keys else None)


def _digests(shares: EpochShares) -> tuple[Digest, ...]:
    return tuple(Digest(digest) for digest in shares.columns.values())
