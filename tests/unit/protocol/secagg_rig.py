"""A small federation of the secure-aggregation machines, for tests.

Statements are wrapped without signatures: what a signature proves is tested elsewhere. Every
member has a disk (records, blobs, secret files) that survives `restart`, and performs its
effects in order, so a test sees exactly what would have left the member.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import msgspec
import numpy as np

from treaty.aggregation.masking import MaskPlan, mask_input, recompute_sum
from treaty.aggregation.quantization import RING_TYPES, RingVector
from treaty.crypto import canonical
from treaty.ids import Digest, MemberId
from treaty.privacy.distributed import noise_commitment
from treaty.privacy.surplus import NoiseKeys, noise_keys
from treaty.protocol import secagg_coordinator as coordinator
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_coordinator import CoordinatorEpoch, CoordinatorRound
from treaty.protocol.secagg_degree import Degree
from treaty.protocol.secagg_effects import (
    Effect,
    EraseSecret,
    NeedInput,
    Persist,
    Persisted,
    Send,
    StoreSecret,
)
from treaty.protocol.secagg_epoch import MemberEpoch
from treaty.protocol.secagg_keys import NO_RESULT, Group
from treaty.protocol.secagg_lifecycle import (
    EPOCH_KEY,
    SLOT_KEY,
    DealingSealed,
    EpochEnded,
    EpochEvent,
    RosterFixed,
    SlotEvent,
    lock_key,
    noise_secret_name,
)
from treaty.protocol.secagg_lifecycle import EpochPhase as MemberPhase
from treaty.protocol.secagg_member import (
    ConfirmationLogged,
    Expected,
    InputLogged,
    InputReady,
    MemberSlot,
    SurvivorsAnnounced,
)
from treaty.protocol.secure_round import RoundPhase, RoundRecord
from treaty.protocol.statements import Predicate, Verified
from treaty.protocol.surplus import surplus_secrets

P = TypeVar("P", bound=Predicate)


def verified(predicate: P) -> Verified[P]:
    """Return `predicate` as `open_statement` would, without a signature."""
    return Verified(predicate, canonical.digest_of(predicate), frozenset())


def tag(text: str) -> Digest:
    """Return a digest that stands for some object."""
    return canonical.sha256(text.encode())


def group_of(
    size: int,
    colluders: int = 1,
    *,
    hybrid: bool = False,
    least: int = 0,
    profile: Degree | None = None,
) -> Group:
    """Return a group of `size` members with the thresholds that a charter derives.

    With a `profile` every member chooses holders, as in a large group.
    """
    threshold = (size + colluders) // 2 + 1
    return Group(
        charter=tag("charter"),
        coordinator=MemberId("hub"),
        members=tuple(MemberId(f"m{k:02d}") for k in range(1, size + 1)),
        profile=profile,
        share_threshold=threshold,
        min_survivors=max(threshold, colluders + 2, least),
        max_colluders=colluders,
        suite="cesa1-x25519-mlkem768" if hybrid else "cesa1-x25519",
        slots_max=8,
    )


def expected_of(
    length: int = 5, bits: int = 64, number: int = 0, tiers: tuple[int, ...] = ()
) -> Expected:
    """Return what everybody derived for round `number`."""
    return Expected(
        plan=tag("plan"),
        query=tag(f"query {number}"),
        question=tag(f"question {number}"),
        code=tag("code"),
        model=tag(f"model {number}"),
        length=length,
        ring_bits=bits,
        round=number,
        previous=NO_RESULT,
        tiers=tiers,
    )


@dataclass
class Disk:
    """What survives a crash of one member."""

    records: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    secrets: dict[str, bytes] = field(default_factory=dict)


@dataclass
class Node:
    """One member: machines, disk, and everything it ever sent."""

    group: Group
    me: MemberId
    disk: Disk = field(default_factory=Disk)
    epoch: MemberEpoch | None = None
    slot: MemberSlot | None = None
    sent: list[Predicate] = field(default_factory=list)

    def perform(self, effects: Iterable[Effect]) -> list[Predicate]:
        """Perform `effects` in order; return what was sent."""
        out: list[Predicate] = []
        for effect in effects:
            match effect:
                case StoreSecret():
                    self.disk.secrets[effect.name] = effect.data
                case EraseSecret():
                    self.disk.secrets.pop(effect.name, None)
                case Persist():
                    self.disk.records.update(effect.records)
                    for blob in effect.blobs:
                        self.disk.blobs[canonical.sha256(blob)] = blob
                    out += self.persisted(effect.token)
                case Send():
                    self.check_written(effect.predicate)
                    out.append(effect.predicate)
                case NeedInput():
                    raise AssertionError("an order for input has its own path")
        self.sent += [one for one in out if one not in self.sent]
        return out

    def check_written(self, statement: Predicate) -> None:
        """Check the write-ahead rule: what leaves is on the disk, except a decline."""
        if not isinstance(statement, messages.InputDeclined):
            data = canonical.encode(statement)
            assert any(data in record for record in self.disk.records.values()), statement
        if isinstance(statement, messages.MaskedInput) and self.slot is not None:
            # Whoever ends here takes the slot for spent, and looks at no earlier one again.
            earlier = {self.slot.epoch.slot_secret_name(one) for one in range(self.slot.slot)}
            assert not earlier & set(self.disk.secrets), statement

    def persisted(self, token: str) -> list[Predicate]:
        """Tell the machine that its order is durable."""
        if token.startswith("epoch"):
            assert self.epoch is not None
            self.epoch, effects = self.epoch.step(Persisted(token))
        else:
            assert self.slot is not None
            self.slot, effects = self.slot.step(Persisted(token))
        kept = len(self.sent)
        out = self.perform(effects)
        del self.sent[kept:]
        return out

    def join(self, opened: Verified[messages.EpochOpened], *, last: int = 0) -> list[Predicate]:
        """Begin an epoch."""
        seed = hashlib.sha256(f"seed {self.me} {opened.predicate.epoch}".encode()).digest()
        self.epoch, effects = MemberEpoch.begin(
            self.group, self.me, opened, plan=tag("plan"), last_epoch=last, seed=seed
        )
        return self.perform(effects)

    def on_epoch(self, event: EpochEvent) -> list[Predicate]:
        """Give the epoch one event and perform what follows."""
        assert self.epoch is not None
        self.epoch, effects = self.epoch.step(event)
        return self.perform(effects)

    @property
    def secret(self) -> bytes:
        """Return the content of the epoch's secret file."""
        assert self.epoch is not None
        return self.disk.secrets[self.epoch.secret_name]

    def begin(
        self,
        opened: Verified[messages.RoundOpened],
        expected: Expected,
        *,
        floor: int = -1,
        freed: Iterable[str] = (),
    ) -> NeedInput:
        """Begin a round."""
        assert self.epoch is not None
        ask = opened.predicate
        name = self.epoch.slot_secret_name(ask.slot)
        self.slot, (need,) = MemberSlot.begin(
            self.epoch,
            opened,
            expected,
            secret=self.disk.secrets.get(name, b""),
            lock=self.disk.records.get(lock_key(ask.plan, expected.question, ask.model)),
            floor=floor,
            freed=freed,
        )
        return need

    def contribute(self, need: NeedInput, values: RingVector, **noise: object) -> list[Predicate]:
        """Mask `values` and send the header; `noise` are fields of `InputReady`."""
        vector = canonical.sha256(values.tobytes())
        masked = values.copy()
        root = mask_input(masked, need.plan, need.ring_bits)
        blob = canonical.sha256(masked.tobytes())
        self.disk.blobs[blob] = masked.tobytes()
        return self.on_slot(InputReady(vector, root, blob, **noise))  # type: ignore[arg-type]  # its fields

    def on_slot(self, event: SlotEvent) -> list[Predicate]:
        """Give the round one event and perform what follows."""
        assert self.slot is not None
        self.slot, effects = self.slot.step(event)
        self.epoch = self.slot.epoch
        return self.perform(effects)

    @property
    def slot_secret(self) -> bytes | None:
        """Return the content of the slot's secret file, if it is still there."""
        assert self.slot is not None and self.epoch is not None
        return self.disk.secrets.get(self.epoch.slot_secret_name(self.slot.slot))

    @property
    def noise_secret(self) -> bytes | None:
        """Return the content of the file of noise keys, if there is one."""
        assert self.epoch is not None
        return self.disk.secrets.get(noise_secret_name(self.epoch.number))

    def restart(self) -> list[Predicate]:
        """Lose the memory, keep the disk; return what is sent again."""
        self.epoch = self.slot = None
        out: list[Predicate] = []
        if EPOCH_KEY in self.disk.records:
            self.epoch = MemberEpoch.restore(self.group, self.me, self.disk.records[EPOCH_KEY])
            out += self.perform(self.epoch.repeat())
            if SLOT_KEY in self.disk.records and self.epoch.last_slot >= 0:
                self.slot = MemberSlot.restore(self.epoch, self.disk.records[SLOT_KEY])
                out += self.perform(self.slot.repeat())
        return out


@dataclass
class Federation:
    """Members and a coordinator in one process."""

    group: Group
    nodes: dict[str, Node]
    hub: CoordinatorEpoch
    columns: dict[str, bytes] = field(default_factory=dict)
    shares: dict[str, Verified[messages.EpochShares]] = field(default_factory=dict)
    keys: tuple[Verified[messages.EpochKeys], ...] = ()
    roster: Verified[messages.EpochRoster] | None = None
    sealed: Verified[messages.EpochSealed] | None = None

    def sealed_event(self, name: str) -> DealingSealed:
        """Return the event that ends dealing for member `name`."""
        assert self.sealed is not None
        columns = {
            dealer: self.columns[self.shares[dealer].predicate.columns[name]]
            for dealer in self.sealed.predicate.dealers
            if name in self.shares[dealer].predicate.columns
        }
        return DealingSealed(self.sealed, self.shares, columns, self.nodes[name].secret)


def published(effects: Iterable[object], kind: type[P]) -> Verified[P]:
    """Return the one statement of `kind` that `effects` order to append."""
    found = [
        effect.predicate
        for effect in effects
        if isinstance(effect, coordinator.Publish) and isinstance(effect.predicate, kind)
    ]
    assert len(found) == 1, effects
    return verified(found[0])


def dealt(
    group: Group,
    *,
    slots: int = 2,
    lost_keys: Iterable[str] = (),
    lost_shares: Iterable[str] = (),
    before: Federation | None = None,
) -> Federation:
    """Return a federation whose members have dealt their shares; some are lost on the way.

    It is the first epoch, or the one after that of `before`, whose members close theirs.
    """
    nodes = {str(name): Node(group, name) for name in group.members}
    number = 1
    if before is not None:
        nodes, number = before.nodes, before.hub.number + 1
        for node in nodes.values():
            if node.epoch is not None and node.epoch.phase is not MemberPhase.CLOSED:
                node.on_epoch(EpochEnded())
            node.epoch = node.slot = None
    hub, effects = CoordinatorEpoch.begin(group, tag("plan"), number, slots)
    opened = published(effects, messages.EpochOpened)
    hub, _ = hub.step(coordinator.OpenedLogged(opened))
    keys: list[Verified[messages.EpochKeys]] = []
    last: tuple[object, ...] = ()
    for name, node in nodes.items():
        (statement,) = node.join(opened, last=number - 1)
        assert isinstance(statement, messages.EpochKeys)
        if name not in lost_keys:
            keys.append(verified(statement))
            hub, last = hub.step(coordinator.KeysLogged(keys[-1]))
    if lost_keys:
        hub, last = hub.step(coordinator.Deadline())
    roster = published(last, messages.EpochRoster)
    hub, _ = hub.step(coordinator.RosterLogged(roster))
    made = Federation(group, nodes, hub, keys=tuple(keys), roster=roster)
    for name in hub.peers:
        node = nodes[name]
        (statement,) = node.on_epoch(RosterFixed(roster, tuple(keys), node.secret))
        assert isinstance(statement, messages.EpochShares)
        if name not in lost_shares:
            made.shares[name] = verified(statement)
            made.columns |= node.disk.blobs
            made.hub, last = made.hub.step(coordinator.SharesLogged(made.shares[name]))
    if lost_shares:
        made.hub, last = made.hub.step(coordinator.Deadline())
    made.sealed = published(last, messages.EpochSealed)
    made.hub, _ = made.hub.step(coordinator.SealedLogged(made.sealed))
    return made


def ready(federation: Federation) -> Federation:
    """Let every dealer open its columns."""
    for name in federation.hub.dealers:
        node = federation.nodes[name]
        for statement in node.on_epoch(federation.sealed_event(name)):
            feed_ready(federation, statement)
    return federation


def feed_ready(federation: Federation, statement: Predicate) -> None:
    """Log what a member says after opening its columns."""
    if isinstance(statement, messages.EpochReady):
        blob = federation.nodes[statement.author].disk.blobs.get(statement.wraps or "")
        event: object = coordinator.ReadyLogged(verified(statement), blob)
    else:
        assert isinstance(statement, messages.ShareComplaint)
        digest = federation.shares[statement.dealer].predicate.columns[statement.author]
        event = coordinator.ComplaintLogged(verified(statement), federation.columns[digest])
    federation.hub, _ = federation.hub.step(event)  # type: ignore[arg-type]  # one of the two


@dataclass
class Round:
    """A round under way: the coordinator's view and the logged statements."""

    federation: Federation
    hub: CoordinatorRound
    opened: Verified[messages.RoundOpened]
    expected: Expected
    effects: list[object] = field(default_factory=list)
    headers: dict[str, Verified[messages.MaskedInput]] = field(default_factory=dict)
    sealed: Verified[messages.SurvivorsSealed] | None = None
    inputs: dict[str, RingVector] = field(default_factory=dict)

    def give(self, event: object) -> None:
        """Give the coordinator an event and keep its orders."""
        self.hub, effects = self.hub.step(event)  # type: ignore[arg-type]  # any of its events
        self.effects += effects

    def node(self, name: str) -> Node:
        """Return a member."""
        return self.federation.nodes[name]

    def record(self, phase: RoundPhase, **fields: object) -> RoundRecord:
        """Return the round as the fold holds it in `phase`; `fields` are what came by then."""
        hub = self.federation.hub
        assert hub.graph is not None
        return RoundRecord(
            hub.group,
            self.opened,
            self.expected.question,
            self.hub.context,
            hub.graph,
            phase=phase,
            inputs=self.headers,  # type: ignore[arg-type]  # by name
            sealed=self.sealed,
            members_in=self.hub.survivor_names,  # type: ignore[arg-type]  # names
            **fields,  # type: ignore[arg-type]  # of the record
        )


def noise_keys_of(name: str, expected: Expected) -> NoiseKeys:
    """Return the keys of a member's noise in its vector."""
    entropy = hashlib.sha256(f"noise {name} {expected.question}".encode()).digest()
    return noise_keys(entropy, len(expected.tiers))


def noise_of(name: str, expected: Expected) -> dict[str, object]:
    """Return what a member's input says of its noise; nothing where none can come off."""
    if not expected.tiers:
        return {}
    keys = noise_keys_of(name, expected)
    return {
        "noise": noise_commitment(keys.base, expected.query),
        "surplus": keys.commitments(expected.query),
        "keys": surplus_secrets(expected.question, keys.surplus),
    }


def values_of(name: str, expected: Expected) -> RingVector:
    """Return the vector of a member: pseudo-random over the whole ring."""
    seed = int.from_bytes(hashlib.sha256(f"{name} {expected.round}".encode()).digest()[:8], "big")
    width = expected.ring_bits // 8
    data = np.random.Generator(np.random.PCG64(seed)).bytes(width * expected.length)
    return np.frombuffer(data, RING_TYPES[expected.ring_bits])


def open_round(
    federation: Federation, expected: Expected, *, attempt: int = 0, exclude: Iterable[str] = ()
) -> Round:
    """Open a round at the coordinator."""
    ask = federation.hub.next_round(expected, attempt=attempt, exclude=frozenset(exclude))
    opened = verified(ask)
    federation.hub, _ = federation.hub.step(coordinator.RoundLogged(opened))
    hub = CoordinatorRound.begin(federation.hub, ask, surplus=bool(expected.tiers))
    return Round(federation, hub, opened, expected)


def send_inputs(turn: Round, lost: Iterable[str] = ()) -> Round:
    """Let the participants send their inputs; `lost` ones mask and send, but nothing arrives."""
    for name in turn.opened.predicate.participants:
        node = turn.node(name)
        need = node.begin(turn.opened, turn.expected)
        turn.inputs[name] = values_of(name, turn.expected)
        (header,) = node.contribute(need, turn.inputs[name], **noise_of(name, turn.expected))
        assert isinstance(header, messages.MaskedInput)
        if name not in lost:
            turn.headers[name] = verified(header)
            turn.give(coordinator.InputArrived(turn.headers[name]))
    if set(lost):
        turn.give(coordinator.Deadline())
    return turn


def unmasked(turn: Round) -> tuple[list[int], messages.RoundResult, MaskPlan]:
    """Compute and publish the ordered sum; return its words, the result and the plan."""
    (order,) = [effect for effect in turn.effects if isinstance(effect, coordinator.NeedSum)]
    vectors = [
        np.frombuffer(turn.node(name).disk.blobs[blob], RING_TYPES[order.ring_bits])
        for name, blob in zip(order.survivors, order.blobs, strict=True)
    ]
    total = recompute_sum(vectors, order.plan, order.ring_bits)
    turn.give(coordinator.SumReady(canonical.sha256(total.tobytes())))
    result = published(turn.effects[-1:], messages.RoundResult)
    return [int(word) for word in total], result.predicate, order.plan


def plain_sum(turn: Round, names: Iterable[str]) -> list[int]:
    """Return the sum that plain integers give."""
    vectors = [turn.inputs[name] for name in names]
    modulus = 1 << turn.expected.ring_bits
    return [sum(int(v[k]) for v in vectors) % modulus for k in range(turn.expected.length)]


def changed(statement: Verified[P], **fields: object) -> Verified[P]:
    """Return the statement with other fields, as another signed statement."""
    return verified(msgspec.structs.replace(statement.predicate, **fields))


def announce(
    turn: Round, sealed: Verified[messages.SurvivorsSealed], names: Iterable[str]
) -> Mapping[str, list[Predicate]]:
    """Show the headers and a set of survivors to members; return what each sends."""
    out: dict[str, list[Predicate]] = {}
    for name in names:
        node = turn.node(name)
        first, *rest = turn.headers.values()
        node.on_slot(InputLogged(first, tuple(rest)))
        out[name] = node.on_slot(SurvivorsAnnounced(sealed, node.slot_secret, node.noise_secret))
    return out


def finish(turn: Round, silent: Iterable[str] = ()) -> None:
    """Seal, confirm where needed, and collect answers of all survivors but `silent` ones."""
    turn.sealed = published(turn.effects, messages.SurvivorsSealed)
    turn.give(coordinator.SurvivorsLogged(turn.sealed))
    talking = [name for name in turn.hub.survivor_names if name not in set(silent)]
    said = announce(turn, turn.sealed, talking)
    confirmations = [
        verified(one)
        for sent in said.values()
        for one in sent
        if isinstance(one, messages.SurvivorsConfirmed)
    ]
    answers = [one for sent in said.values() for one in sent if isinstance(one, messages.Reveal)]
    for confirmation in confirmations:
        turn.give(coordinator.ConfirmationLogged(confirmation))
    for name in talking if confirmations else ():
        node, (first, *more) = turn.node(name), confirmations
        noise = node.noise_secret
        sent = node.on_slot(ConfirmationLogged(first, node.slot_secret, tuple(more), noise))
        answers += [one for one in sent if isinstance(one, messages.Reveal)]
    for answer in answers:
        if turn.hub.phase is not coordinator.RoundPhase.ABANDONED:
            turn.give(coordinator.RevealLogged(verified(answer)))


def without(group: Group, **fields: object) -> Group:
    """Return the group with other fields."""
    return replace(group, **fields)  # type: ignore[arg-type]  # named by the test
