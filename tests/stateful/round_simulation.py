"""Whole rounds of secure aggregation under faults, driven directly and fast: thousands a minute.

One `Simulation` is a group of members with disks, a coordinator that folds its own log, and a
network that a seeded `random.Random` runs: posts are dropped, delayed, repeated, reordered and
corrupted; members hear any prefix of the log, crash before and after every durable write, and start
again; one member may lie (false shares, spoiled columns, a second input, repeated keys) or be put
back to an old backup; the coordinator shows single members other survivors, or another opening in
the same slot, and at times goes for as many cancelled members as it can (`attack`). Up to c members
misbehave, so all seven invariants must hold for the others:

  I1 no honest member ever emits shares of both kinds for one (slot, owner);
  I2 one input digest per slot and member, over all crashes (after an old backup: per context);
  I3 a result is what plain integers give over its survivors, and its offline check holds;
  I4 all headers of accepted survivors carry one context;
  I5 from all it was ever sent and all the colluders know, the coordinator rebuilds never both seeds
     of a member, bares no sum of fewer than `min_honest` honest inputs, and one per question;
  I6 once a slot or epoch is over no secret of it is on the disk, and no record ever holds one;
  I7 replaying any prefix again changes nothing: a member sends the same bytes or nothing, the
     coordinator's fold of its log is the state that it has.
"""

import copy
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec
import numpy as np

from tests.unit.protocol.secagg_rig import Disk, expected_of, group_of, tag, values_of, verified
from treaty.aggregation.masking import mask_input, recompute_sum
from treaty.aggregation.quantization import RING_TYPES
from treaty.crypto import canonical
from treaty.errors import FormatError, PeerError, PolicyError
from treaty.ids import Digest, MemberId
from treaty.protocol import secagg_coordinator as coordinator
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_coordinator import CoordinatorEpoch, CoordinatorRound, RoundPhase
from treaty.protocol.secagg_effects import (
    Effect,
    EraseSecret,
    Persist,
    Persisted,
    Send,
    StoreSecret,
)
from treaty.protocol.secagg_enrolment import EnrolmentPhase
from treaty.protocol.secagg_epoch import EpochEnded, MemberEpoch
from treaty.protocol.secagg_keys import Group, SlotSecrets
from treaty.protocol.secagg_lifecycle import (
    EPOCH_KEY,
    SLOT_KEY,
    DealingSealed,
    EpochPhase,
    RosterFixed,
)
from treaty.protocol.secagg_member import (
    ConfirmationLogged,
    InputLogged,
    InputReady,
    MemberSlot,
    RoundEnded,
    SlotPhase,
    SurvivorsAnnounced,
    lock_key,
)
from treaty.protocol.secagg_opening import check_result
from treaty.protocol.statements import Predicate, Verified

SLOTS = 8
WORDS = 4
BITS = (16, 32, 64)


class CrashedError(Exception):
    """The member's process ended here."""


@dataclass
class Log:
    """Entries of one epoch, then those of its present round."""

    epoch: list[Verified[Predicate]] = field(default_factory=list)
    round: list[Verified[Predicate]] = field(default_factory=list)

    def of(self, kind: type[Predicate], count: int, *, round_: bool = False) -> list[Verified]:
        """Return the entries of `kind` among the first `count`."""
        return [
            e for e in (self.round if round_ else self.epoch)[:count] if type(e.predicate) is kind
        ]


class Member:
    """One member: machines, disk, what it has seen of the log, and everything it ever sent."""

    def __init__(self, sim: "Simulation", name: str) -> None:
        self.sim, self.me, self.disk = sim, MemberId(name), Disk()
        self.epoch: MemberEpoch | None = None
        self.slot: MemberSlot | None = None
        self.seen_epoch = self.seen_round = 0
        self.opening: Verified[messages.RoundOpened] | None = None
        self.refused: set[str] = set()
        self.sent: dict[bytes, Predicate] = {}
        self.fuse = -1
        self.backup: dict[str, bytes] | None = None
        self.restored = False
        self.last_epoch = 0
        self.quiet = False

    # --- effects, with a fuse ------------------------------------------------------------------

    def burn(self, point: str) -> None:
        """Pass a point at which the process may end."""
        if self.fuse == 0:
            self.sim.counts[f"crash {point}"] += 1
            raise CrashedError
        self.fuse -= 1 if self.fuse > 0 else 0

    def perform(self, effects: Iterable[Effect]) -> None:
        """Perform `effects` in order, as the node does."""
        effects = tuple(effects)
        secrets = {one.name: one.data for one in effects if isinstance(one, StoreSecret)}
        if secrets:
            self.burn("before secrets")
            self.disk.secrets.update(secrets)
            self.sim.remember(self, secrets)
            self.burn("after secrets")
        for effect in effects:
            match effect:
                case EraseSecret():
                    self.disk.secrets.pop(effect.name, None)
                case Persist():
                    label = effect.token.rstrip("0123456789").split("-", 1)[0]
                    phase = effect.token.split("-", 2 if label == "epoch" else 3)[-1]
                    self.burn(f"before {label} {phase}")
                    self.disk.records.update(effect.records)
                    for blob in effect.blobs:
                        self.disk.blobs[canonical.sha256(blob)] = blob
                    if self.epoch is not None:
                        self.last_epoch = self.epoch.number
                    self.burn(f"after {label} {phase}")
                    if label == "slot":
                        self.on_slot(Persisted(effect.token))
                    else:
                        self.on_epoch(Persisted(effect.token))
                case Send():
                    self.burn("before send")
                    self.send(effect.predicate)

    def send(self, statement: Predicate) -> None:
        """Sign and post; what leaves is on the disk first, but a decline."""
        data = canonical.encode(statement)
        if not isinstance(statement, messages.InputDeclined):
            assert any(data in record for record in self.disk.records.values())
        if isinstance(statement, messages.SurvivorsConfirmed | messages.Reveal):
            self.check_bound(statement.context)
        if not self.quiet:
            self.sent[data] = statement
            self.sim.post(self, statement)
        else:
            assert data in self.sent, "I7: a replay sent something new"

    def check_bound(self, context: str) -> None:
        """I4: what the member binds itself to has itself in it, and headers of one context."""
        assert self.slot is not None
        sealed = self.slot.state.sealed
        assert sealed is not None and context == self.slot.context
        known = {str(one.digest) for one in self.sim.headers.get(context, {}).values()}
        if self.slot.state.opened.epoch_hash == (self.sim.hub and self.sim.hub.epoch_hash):
            assert self.me in {one.member for one in sealed.survivors}, "T-07: left out"
            if self.sim.turn is not None and self.slot.slot == self.sim.turn.opened.slot:
                headers = {one.header for one in sealed.survivors}
                assert headers <= known, "I4: headers of two contexts"

    def on_epoch(self, event: object) -> None:
        assert self.epoch is not None
        self.epoch, effects = self.epoch.step(event)  # type: ignore[arg-type]  # one of its events
        self.perform(effects)

    def on_slot(self, event: object) -> None:
        assert self.slot is not None
        self.slot, effects = self.slot.step(event)  # type: ignore[arg-type]  # one of its events
        self.epoch = self.slot.epoch
        self.perform(effects)

    def reboot(self) -> None:
        """Lose the memory, keep the disk, do again what may have been lost."""
        self.fuse = -1
        self.epoch = self.slot = None
        self.refused = set()
        stored = self.disk.records.get(EPOCH_KEY)
        if stored is not None:
            self.epoch = MemberEpoch.restore(self.sim.group, self.me, stored)
        own = "" if self.epoch is None else self.epoch.secret_name
        for name in list(self.disk.secrets):
            if name != own and not name.startswith(f"{own}-slot-"):
                del self.disk.secrets[name]
        if self.epoch is None:
            return
        slot = self.disk.records.get(SLOT_KEY)
        if slot is not None and self.epoch.epoch_hash is not None:
            try:
                self.slot = MemberSlot.restore(self.epoch, slot)
            except FormatError:
                self.slot = None
        self.perform(self.epoch.repeat())
        if self.slot is not None:
            self.perform(self.slot.repeat())

    # --- following the log ---------------------------------------------------------------------

    def hear(self) -> None:
        """Follow what was seen of the log, as the node does; a crash ends in a reboot."""
        try:
            self.follow_epoch()
            self.follow_round()
        except CrashedError:
            self.reboot()
        except (PeerError, PolicyError) as refusal:
            self.sim.counts[f"member refuses {getattr(refusal, 'code', 'format')}"] += 1

    def follow_epoch(self) -> None:
        log, seen = self.sim.log, self.seen_epoch
        opened = log.of(messages.EpochOpened, seen)
        closed = bool(log.of(messages.EpochClosed, seen))
        if self.epoch is not None and (
            closed or not opened or opened[0].digest != self.epoch.state.opened
        ):
            if self.epoch.phase is not EpochPhase.CLOSED:
                self.on_epoch(EpochEnded())
            self.epoch = self.slot = None
        if not opened or closed:
            return
        keys = {str(one.author): one for one in log.of(messages.EpochKeys, seen)}
        shares = {str(one.author): one for one in log.of(messages.EpochShares, seen)}
        ready = {str(one.author) for one in log.of(messages.EpochReady, seen)}
        roster = log.of(messages.EpochRoster, seen)
        sealed = log.of(messages.EpochSealed, seen)
        if self.epoch is None:
            if roster or self.me in keys:
                return
            number = opened[0].predicate.epoch
            seed = hashlib.sha256(f"{self.sim.seed} {self.me} {number} {self.sim.fresh()}".encode())
            self.epoch, effects = MemberEpoch.begin(
                self.sim.group,
                self.me,
                opened[0],
                plan=tag("plan"),
                last_epoch=max(self.last_epoch, number - 1),
                seed=seed.digest(),
            )
            self.perform(effects)
        if (
            self.epoch.phase is EpochPhase.KEYS_SENT
            and roster
            and self.epoch.epoch_hash is None
            and self.me not in shares
        ):
            secret = self.disk.secrets.get(self.epoch.secret_name)
            if secret is None:
                return
            self.on_epoch(RosterFixed(roster[0], tuple(keys.values()), secret))
        if self.epoch.phase is EpochPhase.DEALT and sealed and self.me not in ready:
            secret = self.disk.secrets.get(self.epoch.secret_name)
            if secret is None:
                return
            columns = {
                dealer: self.sim.blobs[shares[dealer].predicate.columns[self.me]]
                for dealer in sealed[0].predicate.dealers
                if dealer != self.me
            }
            self.on_epoch(DealingSealed(sealed[0], shares, columns, secret))

    def follow_round(self) -> None:
        log, seen, opened = self.sim.log, self.seen_round, self.opening
        ended = bool(
            log.of(messages.RoundResult, seen, round_=True)
            or log.of(messages.RoundAbandoned, seen, round_=True)
        )
        if self.slot is not None and (
            opened is None or ended or self.slot.state.opened != opened.predicate
        ):
            if self.slot.phase is not SlotPhase.CLOSED:
                self.on_slot(RoundEnded())
            self.slot = None
        if opened is None or ended or self.epoch is None or not seen:
            return
        if self.me not in opened.predicate.participants:
            return
        inputs = [
            one
            for one in log.of(messages.MaskedInput, seen, round_=True)
            if self.slot is None or one.predicate.context == self.slot.context
        ]
        sealed = next(iter(log.of(messages.SurvivorsSealed, seen, round_=True)), None)
        if self.slot is None:
            if opened.digest in self.refused or sealed or any(i.author == self.me for i in inputs):
                return
            self.open_slot(opened)
        if self.slot is not None and sealed is not None:
            self.answer(sealed, log.of(messages.SurvivorsConfirmed, seen, round_=True))

    def open_slot(self, opened: Verified[messages.RoundOpened]) -> None:
        assert self.epoch is not None
        ask, expected = opened.predicate, self.sim.expected
        secret = self.disk.secrets.get(self.epoch.slot_secret_name(ask.slot))
        self.refused.add(opened.digest)
        if secret is None:
            return
        self.slot, (need,) = MemberSlot.begin(
            self.epoch,
            opened,
            expected,
            secret=secret,
            lock=self.disk.records.get(lock_key(ask.plan, expected.question, ask.model)),
            floor=self.sim.floor(self.me),
        )
        values = values_of(str(self.me), expected)
        vector = canonical.sha256(values.tobytes())
        masked = values.copy()
        root = mask_input(masked, need.plan, need.ring_bits)
        blob = canonical.sha256(masked.tobytes())
        self.sim.blobs[blob] = self.disk.blobs[blob] = masked.tobytes()
        self.on_slot(InputReady(vector, root, blob))

    def answer(
        self,
        sealed: Verified[messages.SurvivorsSealed],
        confirmed: list[Verified[messages.SurvivorsConfirmed]],
    ) -> None:
        assert self.slot is not None
        secret = None
        if self.slot.phase in (SlotPhase.INPUT_SENT, SlotPhase.CONFIRMED):
            secret = self.disk.secrets.get(self.slot.epoch.slot_secret_name(self.slot.slot))
            if secret is None:
                return
        if self.slot.phase is SlotPhase.INPUT_SENT:
            for header in self.sim.headers.get(self.slot.context, {}).values():
                self.on_slot(InputLogged(header))
            self.on_slot(SurvivorsAnnounced(sealed, secret))
        for one in confirmed:
            if self.slot is not None and self.slot.phase is SlotPhase.CONFIRMED:
                self.on_slot(ConfirmationLogged(one, secret))


class Simulation:
    """One group over its epochs; `play` runs rounds and checks every invariant after each."""

    def __init__(self, seed: int, *, size: int, colluders: int, hybrid: bool, evil: str) -> None:
        self.seed, self.draw = seed, random.Random(seed)
        self.group: Group = group_of(size, colluders, hybrid=hybrid)
        self.counts: Counter[str] = Counter()
        self.evil = evil
        self.corrupt = (
            frozenset(self.group.members[-colluders:]) if evil != "nobody" else frozenset()
        )
        self.members = {str(name): Member(self, name) for name in self.group.members}
        self.vault: dict[tuple[str, str], SlotSecrets] = {}
        self.log, self.blobs, self.bag = Log(), {}, []
        self.number = self.attempt = self.epochs = self.salt = 0
        self.inputs: dict[tuple[str, int, int], dict[str, set[str]]] = defaultdict(
            lambda: defaultdict(set)
        )
        self.bare: dict[str, set[frozenset[str]]] = defaultdict(set)
        self.slots_seen: dict[str, int] = {}
        self.turn: CoordinatorRound | None = None
        self.hub: CoordinatorEpoch | None = None
        self.headers: dict[str, dict[str, Verified[messages.MaskedInput]]] = {}
        self.sets: list[frozenset[str]] = []

    def fresh(self) -> int:
        """Return a number that was not there before: a seed is never drawn twice."""
        self.salt += 1
        return self.salt

    def remember(self, member: Member, secrets: dict[str, bytes]) -> None:
        """Keep, for the invariants only, what each slot's file held."""
        for name, data in secrets.items():
            if "-slot-" in name:
                self.vault[str(member.me), name] = canonical.decode(data, SlotSecrets)

    def floor(self, name: str) -> int:
        """Return the highest slot of this epoch in which the log has an input of the member."""
        return self.slots_seen.get(name, -1)

    # --- network -------------------------------------------------------------------------------

    def post(self, member: Member, statement: Predicate) -> None:
        """A member posts; a lying one posts something else."""
        for blob in (
            getattr(statement, "wraps", None),
            *getattr(statement, "columns", {}).values(),
        ):
            if blob:
                self.blobs[blob] = member.disk.blobs.get(blob) or self.blobs[blob]
        if isinstance(statement, messages.MaskedInput):
            self.note_input(member, statement)
        if member.me in self.corrupt and self.evil == "liar" and self.draw.random() < 0.25:
            for one in self.lies(member, statement):
                self.bag.append(one)
            return
        self.bag.append(statement)

    def lies(self, member: Member, statement: Predicate) -> list[Predicate]:
        """Return what a liar signs in place of `statement`."""
        self.counts[f"lie {type(statement).__name__}"] += 1
        match statement:
            case messages.Reveal():
                owner = self.draw.choice(sorted(statement.self_shares))
                shares = {**statement.self_shares, owner: tag(f"{self.draw.random()}")}
                return [msgspec.structs.replace(statement, self_shares=shares)]
            case messages.EpochShares():
                other = self.draw.choice(sorted(statement.columns))
                column = bytearray(self.blobs[statement.columns[other]])
                column[self.draw.randrange(len(column))] ^= 1
                digest = canonical.sha256(column)
                self.blobs[digest] = bytes(column)
                columns = {**statement.columns, other: digest}
                return [msgspec.structs.replace(statement, columns=columns)]
            case messages.MaskedInput():
                return [statement, msgspec.structs.replace(statement, root=tag("other root"))]
            case messages.SurvivorsConfirmed():
                return [msgspec.structs.replace(statement, survivors=tag("other set"))]
            case messages.EpochKeys():
                mine = msgspec.structs.replace(statement, transport=statement.round_keys[0])
                return [mine, statement]
            case _:
                return [statement]

    def note_input(self, member: Member, statement: messages.MaskedInput) -> None:
        """I2: one input digest per slot (per context after an old backup)."""
        assert member.slot is not None and member.epoch is not None
        place = (str(member.me), member.epoch.number, member.slot.slot)
        contexts = self.inputs[place]
        contexts[statement.context].add(canonical.digest_of(statement))
        assert all(len(digests) == 1 for digests in contexts.values()), "I2: two inputs"
        assert len(contexts) == 1 or member.restored, "I2: inputs in two contexts of a slot"
        self.headers.setdefault(statement.context, {})[str(member.me)] = verified(statement)

    def arrive(self, statement: Predicate) -> None:
        """The coordinator receives a statement whose signature holds."""
        hub, one = self.hub, verified(statement)
        event: object
        match statement:
            case messages.EpochKeys():
                event = coordinator.KeysLogged(one)
            case messages.EpochShares():
                event = coordinator.SharesLogged(one)
            case messages.EpochReady():
                event = coordinator.ReadyLogged(one, self.blobs.get(statement.wraps or ""))
            case messages.ShareComplaint():
                dealt = hub.shares.get(statement.dealer) if hub else None
                if dealt is None:
                    return
                column = self.blobs[dealt.predicate.columns[statement.author]]
                event = coordinator.ComplaintLogged(one, column)
            case messages.MaskedInput():
                if one.predicate.root == tag("other root"):
                    # Its blob does not have that root; the node refuses it before the machine.
                    return
                event = coordinator.InputArrived(one)
            case messages.InputDeclined():
                event = coordinator.DeclineLogged(one)
            case messages.SurvivorsConfirmed():
                event = coordinator.ConfirmationLogged(one)
            case messages.Reveal():
                event = coordinator.RevealLogged(one)
            case _:
                raise AssertionError(statement)
        in_round = hasattr(statement, "context")
        if in_round and self.turn is None:
            return
        try:
            if in_round:
                self.turn, effects = self.turn.step(event)
            else:
                self.hub, effects = self.hub.step(event)
        except (PeerError, PolicyError) as refusal:
            self.counts[f"coordinator refuses {getattr(refusal, 'code', 'format')}"] += 1
            return
        log = self.log.round if in_round else self.log.epoch
        if all(entry.digest != one.digest for entry in log):
            log.append(one)
            if isinstance(statement, messages.MaskedInput):
                self.slots_seen[statement.author] = self.turn.opened.slot
        self.follow(effects)

    def tick(self) -> None:
        """Let the present deadline pass."""
        if self.turn is not None:
            self.turn, effects = self.turn.step(coordinator.Deadline())
        else:
            assert self.hub is not None
            self.hub, effects = self.hub.step(coordinator.Deadline())
        self.follow(effects)

    def follow(self, effects: Iterable[object]) -> None:
        """Append what the coordinator ordered."""
        for effect in effects:
            if isinstance(effect, coordinator.NeedSum):
                self.publish(effect)
            if not isinstance(effect, coordinator.Publish):
                continue
            one = verified(effect.predicate)
            match effect.predicate:
                case messages.EpochRoster():
                    if self.hub.phase is EnrolmentPhase.COLLECTING_KEYS:
                        self.log.epoch.append(one)
                        self.hub, _ = self.hub.step(coordinator.RosterLogged(one))
                case messages.EpochSealed():
                    if self.hub.phase is EnrolmentPhase.COLLECTING_SHARES:
                        self.log.epoch.append(one)
                        self.hub, _ = self.hub.step(coordinator.SealedLogged(one))
                case messages.SurvivorsSealed():
                    if self.turn.phase is RoundPhase.COLLECTING:
                        self.log.round.append(one)
                        self.turn, _ = self.turn.step(coordinator.SurvivorsLogged(one))
                case _:
                    self.log.round.append(one)

    def publish(self, order: coordinator.NeedSum) -> None:
        """Compute the sum, publish it, and check it: I3 and I4."""
        turn = self.turn
        assert turn is not None and turn.sealed is not None and self.hub is not None
        vectors = [np.frombuffer(self.blobs[b], RING_TYPES[order.ring_bits]) for b in order.blobs]
        total = recompute_sum(vectors, order.plan, order.ring_bits)
        self.turn, effects = turn.step(coordinator.SumReady(canonical.sha256(total.tobytes())))
        self.follow(effects)
        plain = [values_of(name, self.expected) for name in order.survivors]
        modulus = 1 << order.ring_bits
        words = [sum(int(v[k]) for v in plain) % modulus for k in range(WORDS)]
        assert [int(word) for word in total] == words, "I3: the sum differs from plain integers"
        contexts = {turn.inputs[name].predicate.context for name in order.survivors}
        assert contexts == {turn.context}, "I4: two contexts in one sum"
        result = self.log.round[-1].predicate
        assert isinstance(result, messages.RoundResult)
        hub = self.hub
        check_result(
            self.group, turn.opened, hub.peers, hub.ready, hub.dealers, turn.sealed, result
        )
        self.counts["published"] += 1
        self.counts[f"lost {len(turn.opened.participants) - len(order.survivors)}"] += 1

    # --- the course of things ------------------------------------------------------------------

    def open_epoch(self) -> None:
        """Close the epoch, if any, and run the next one's set-up under faults."""
        if self.hub is not None:
            closed = messages.EpochClosed(
                charter=self.group.charter,
                author="hub",
                epoch=self.epochs,
                code=messages.CloseCode.SUPERSEDED,
            )
            self.log.epoch.append(verified(closed))
            for member in self.members.values():
                member.seen_epoch, member.opening = len(self.log.epoch), None
                member.hear()
                member.hear()
            self.check_closed()
        self.epochs += 1
        self.log, self.bag, self.slots_seen, self.turn = Log(), [], {}, None
        self.hub, effects = CoordinatorEpoch.begin(self.group, tag("plan"), self.epochs, SLOTS)
        opened = verified(effects[0].predicate)
        self.hub, _ = self.hub.step(coordinator.OpenedLogged(opened))
        self.log.epoch.append(opened)
        for member in self.members.values():
            member.seen_epoch = member.seen_round = 0
            member.opening = None
        gone = self.gone(0.05)
        for turn in range(9):
            if turn < 2:
                self.stir(gone, 4 * len(self.members))
            self.settle(gone)
            if self.hub.phase in (EnrolmentPhase.READY, EnrolmentPhase.FAILED):
                return
            if turn > 3:
                self.tick()

    def gone(self, share: float) -> frozenset[str]:
        """Return members that hear nothing for a while; mostly nobody."""
        return frozenset(n for n in self.members if self.draw.random() < share)

    def stir(self, gone: frozenset[str], steps: int) -> None:
        """Take random steps: hear, deliver, lose, repeat, corrupt, crash, restart, lie."""
        for _ in range(steps):
            pick, name = self.draw.random(), self.draw.choice(self.group.members)
            member = self.members[name]
            if self.turn is not None and self.sets and self.draw.random() < 0.3:
                self.deceive(member)
            elif pick < 0.45:
                if name not in gone:
                    self.show(member, self.draw.random())
            elif pick < 0.86:
                self.deliver(self.draw.randrange(6))
            elif pick < 0.92:
                member.fuse = self.draw.randrange(7)
            elif pick < 0.94:
                self.counts["restart"] += 1
                member.reboot()
            elif pick < 0.96 and name in self.corrupt and self.evil == "backup":
                self.put_back(member)
            elif pick < 0.98 or (self.turn is not None and self.sets and pick < 0.998):
                self.deceive(member)
            elif self.draw.random() < 0.2:
                self.counts["deadline"] += 1
                if self.turn is None or self.turn.phase is not RoundPhase.COLLECTING:
                    self.tick()

    def show(self, member: Member, part: float) -> None:
        """A member hears some more of the log: a random part of what is new, mostly all."""
        ahead = len(self.log.epoch) - member.seen_epoch
        member.seen_epoch += ahead if part > 0.3 else int(ahead * part * 3)
        if self.turn is not None and member.seen_epoch == len(self.log.epoch):
            if member.opening is None:
                member.opening = verified(self.turn.opened)
            ahead = len(self.log.round) - member.seen_round
            member.seen_round += ahead if part > 0.3 else int(ahead * part * 3)
        member.hear()

    def deliver(self, kind: int) -> None:
        """One post arrives, in any order: or is lost, repeated, or corrupted."""
        if not self.bag:
            return
        at = self.draw.randrange(len(self.bag))
        if kind == 0 and self.draw.random() < 0.4:
            self.counts["lost"] += 1
            self.bag.pop(at)
        elif kind == 1:
            self.counts["repeated"] += 1
            self.arrive(self.bag[at])
        elif kind == 2 and self.draw.random() < 0.4:
            self.corrupted(self.bag[at])
        else:
            self.arrive(self.bag.pop(at))

    def corrupted(self, statement: Predicate) -> None:
        """A bit flips on the way: other bytes than were signed, so nobody reads them as signed."""
        data = bytearray(canonical.encode(statement))
        data[self.draw.randrange(len(data))] ^= 1 << self.draw.randrange(8)
        self.counts["corrupted"] += 1
        try:
            other = canonical.decode(bytes(data), type(statement))
        except FormatError:
            return
        assert canonical.digest_of(other) != canonical.digest_of(statement)

    def put_back(self, member: Member) -> None:
        """Take a backup of the store, or put an old one back; secret files are outside of it."""
        if member.backup is None or self.draw.random() < 0.4:
            member.backup = dict(member.disk.records)
            return
        self.counts["old backup"] += 1
        member.restored = True
        member.disk.records = dict(member.backup)
        try:
            member.reboot()
        except (PeerError, PolicyError):
            member.epoch = member.slot = None

    def plot(self) -> None:
        """Choose what the coordinator will tell single members in this round, and how often."""
        assert self.turn is not None
        names = self.turn.opened.participants
        self.sets = []
        if self.draw.random() < 0.4:
            for _ in range(self.draw.choice((1, 1, 2))):
                size = self.draw.randrange(2, len(names) + 1)
                self.sets.append(frozenset(self.draw.sample(names, size)))
        some = tuple(n for n in names if self.draw.random() < 0.85)
        self.twin = verified(
            msgspec.structs.replace(
                self.turn.opened, attempt=self.turn.opened.attempt + 1, participants=some
            )
        )

    def deceive(self, member: Member) -> None:
        """Show one member survivors, or an opening, that are not in the log."""
        if self.turn is None:
            return
        if self.draw.random() < 0.2:
            self.counts["twin opening"] += 1
            member.opening = self.twin
            member.seen_epoch, member.seen_round = len(self.log.epoch), 1
            member.hear()
        elif member.slot is not None and member.slot.state.input is not None:
            self.deceive_with_set(member, member.slot)

    def deceive_with_set(self, member: Member, slot: MemberSlot) -> None:
        """Show one member survivors that are not in the log; it may refuse, or crash over it."""
        self.counts["other survivors"] += 1
        try:
            self.show_set(member, slot)
        except CrashedError:
            member.reboot()
        except (PeerError, PolicyError) as refusal:
            self.counts[f"member refuses {getattr(refusal, 'code', 'format')}"] += 1

    def attack(self) -> None:
        """Let everybody send, then show each its set: to cancel as many as can be, or two camps."""
        assert self.turn is not None
        names, least = self.turn.opened.participants, self.group.min_survivors
        spare = len(names) - least
        honest = [name for name in names if name not in self.corrupt]
        victims = self.draw.sample(honest, min(len(honest), spare + 1))
        turn = 0
        camps = [frozenset(self.draw.sample(names, least)) for _ in range(2)]
        cancel = self.draw.random() < 0.7
        self.counts["attack"] += 1
        for member in self.members.values():
            self.show(member, 1.0)
        told: dict[str, frozenset[str]] = {}
        for _ in range(2):
            for name in self.draw.sample(names, len(names)):
                member = self.members[name]
                if cancel and name not in told:
                    out = [n for n in victims if n != name]
                    if name not in victims:
                        # Those who are not cancelled count all of the victims out in turn.
                        out = (victims * 2)[turn : turn + spare]
                        turn = (turn + 1) % len(victims)
                    told[name] = frozenset(names) - set(out[:spare])
                elif name not in told:
                    told[name] = self.draw.choice([s for s in camps if name in s] or camps)
                if member.slot is not None and member.slot.state.input is not None:
                    self.sets, kept = [told[name]], self.sets
                    self.deceive_with_set(member, member.slot)
                    self.sets = kept

    def show_set(self, member: Member, slot: MemberSlot) -> None:
        """Give the member's machine a set of survivors, then every confirmation there is of it."""
        known = dict(self.headers.get(slot.context, {}))
        if self.draw.random() < 0.1:
            # Headers of the other context of this slot, if there is one.
            for headers in self.headers.values():
                known |= headers
        if self.sets:
            names = self.draw.choice(self.sets)
        else:
            names = frozenset(n for n in known if self.draw.random() < 0.85)
        sealed = messages.SurvivorsSealed(
            charter=self.group.charter,
            author="hub",
            context=slot.context,
            survivors=tuple(
                messages.Survivor(member=n, header=known[n].digest, root=known[n].predicate.root)
                for n in self.group.members
                if n in names and n in known
            ),
        )
        secret = member.disk.secrets.get(slot.epoch.slot_secret_name(slot.slot))
        if secret is None and slot.phase in (SlotPhase.INPUT_SENT, SlotPhase.CONFIRMED):
            return
        for header in known.values():
            member.on_slot(InputLogged(header))
        member.on_slot(SurvivorsAnnounced(verified(sealed), secret))
        given = [one for other in self.members.values() for one in other.sent.values()]
        mine = member.slot.state.survivors if member.slot is not None else None
        confirmed = [
            one
            for one in given
            if isinstance(one, messages.SurvivorsConfirmed) and one.survivors == mine
        ]
        confirmed += [
            msgspec.structs.replace(one, author=str(name))
            for one in confirmed[:1]
            for name in self.corrupt & names
        ]
        for one in confirmed:
            if member.slot is not None and member.slot.phase is SlotPhase.CONFIRMED:
                member.on_slot(ConfirmationLogged(verified(one), secret))

    def settle(self, gone: frozenset[str]) -> None:
        """Everything under way arrives; what was lost is sent again."""
        for name, member in self.members.items():
            if name in gone:
                continue
            self.show(member, 1.0)
            for machine in (member.epoch, member.slot):
                if machine is not None:
                    try:
                        member.perform(machine.repeat())
                    except CrashedError:
                        member.reboot()
            self.show(member, 1.0)
        self.draw.shuffle(self.bag)
        posts, self.bag = self.bag, []
        for one in posts:
            self.arrive(one)

    def play(self, rounds: int) -> None:
        """Run `rounds` rounds, each to its result or its end without one."""
        for _ in range(rounds):
            for _ in range(30):
                hub = self.hub
                if (
                    hub is not None
                    and hub.phase is EnrolmentPhase.READY
                    and not hub.exhausted
                    and len(hub.able) >= self.group.min_survivors
                ):
                    break
                self.open_epoch()
            self.play_round()

    def play_round(self) -> None:
        """One round."""
        assert self.hub is not None
        self.expected = expected_of(WORDS, BITS[self.number % 3], self.number)
        ask = self.hub.next_round(self.expected, attempt=self.attempt)
        opened = verified(ask)
        self.log.round = [opened]
        self.hub, _ = self.hub.step(coordinator.RoundLogged(opened))
        self.turn, self.bag, self.headers = CoordinatorRound.begin(self.hub, ask), [], {}
        self.plot()
        for member in self.members.values():
            member.seen_round, member.opening = 0, None
            if member.me in self.corrupt and self.evil == "backup" and self.draw.random() < 0.3:
                self.put_back(member)
        gone = self.gone(self.draw.choice((0, 0, 0.1, 0.3, 0.45)))
        if self.draw.random() < (0.15 if len(ask.participants) > 5 else 0.05):
            self.attack()
        self.stir(gone, 5 * len(self.members))
        late = self.gone(self.draw.choice((0, 0, 0.2))) | gone
        for turn in range(8):
            if self.turn.phase in (RoundPhase.PUBLISHED, RoundPhase.ABANDONED):
                break
            self.settle(gone if turn < 2 else late)
            if turn % 2:
                self.tick()
        assert self.turn.phase in (RoundPhase.PUBLISHED, RoundPhase.ABANDONED)
        self.check_collected()
        if self.draw.random() < 0.1:
            self.check_replays()
        done = self.turn.phase is RoundPhase.PUBLISHED
        self.counts["rounds"] += 1
        self.counts["abandoned"] += not done
        for name, member in self.members.items():
            if name not in gone or self.draw.random() < 0.5:
                if member.opening is None or member.opening.predicate != ask:
                    member.opening = opened
                self.show(member, 1.0)
                member.fuse = -1
                self.show(member, 1.0)
                self.check_erased(member)
        if done or self.attempt >= 2:
            self.number, self.attempt = self.number + 1, 0
        else:
            self.attempt += 1
        self.turn = None

    # --- invariants ----------------------------------------------------------------------------

    def check_collected(self) -> None:
        """I1 and I5, from every answer that ever left an honest member in this slot."""
        assert self.turn is not None
        slot, group = self.turn.opened.slot, self.group
        honest = [n for n in group.members if n not in self.corrupt]
        asked = {self.turn.context: frozenset(self.turn.opened.participants)}
        own: dict[str, set[str]] = defaultdict(set)
        gone: dict[str, set[str]] = defaultdict(set)
        sent: dict[str, set[str]] = defaultdict(set)
        for name in honest:
            member = self.members[name]
            place = (name, self.epochs, slot)
            for context in self.inputs.get(place, {}):
                sent[context].add(name)
                if context not in asked and member.opening is not None:
                    asked[context] = frozenset(member.opening.predicate.participants)
            kinds: dict[str, set[str]] = defaultdict(set)
            for one in member.sent.values():
                if isinstance(one, messages.Reveal) and one.context in self.inputs.get(place, {}):
                    for owner in one.self_shares:
                        own[owner].add(name)
                        kinds[owner].add("self")
                    for owner in one.round_shares:
                        gone[owner].add(name)
                        kinds[owner].add("round")
            assert all(len(found) == 1 for found in kinds.values()), "I1: both kinds of share"
        # The colluders, if there are any, hold a share of everything.
        needed = group.share_threshold - len(self.corrupt)
        self_open = {n for n in honest if len(own[n]) >= needed}
        round_open = {n for n in honest if len(gone[n]) >= needed}
        assert not self_open & round_open, "I5: both seeds of one member"
        for context, participants in asked.items():
            closed = frozenset(honest) & participants - round_open
            if closed and closed <= self_open & sent[context]:
                assert len(closed) >= group.min_honest, "I5: a small bare sum"
                self.bare[f"{self.number}"].add(closed)
        assert len(self.bare[f"{self.number}"]) <= 1, "I5: two bare sums of one question"

    def check_erased(self, member: Member) -> None:
        """I6: a closed or answered slot has no file, and no record holds any slot's seeds."""
        assert self.turn is not None
        if member.epoch is None or member.slot is not None:
            return
        name = member.epoch.slot_secret_name(self.turn.opened.slot)
        used = member.epoch.last_slot >= self.turn.opened.slot and not member.restored
        assert not (used and name in member.disk.secrets), "I6: secrets of a closed slot"
        for (owner, file), secret in self.vault.items():
            if owner == member.me and file.startswith(member.epoch.secret_name):
                for hidden in (secret.self_seed, secret.agreement):
                    data = hidden.encode()
                    assert not any(data in one for one in member.disk.records.values()), "I6"

    def check_closed(self) -> None:
        """I6: an epoch that is over leaves no secret file and no share in a record."""
        for member in self.members.values():
            if member.epoch is None and not member.restored:
                prefix = f"epoch-{self.epochs:06d}"
                left = [name for name in member.disk.secrets if name.startswith(prefix)]
                assert not left, f"I6: {left} outlive their epoch"
        self.vault.clear()

    def check_replays(self) -> None:
        """I7: a copy of a member replays what it has seen; the coordinator folds its log again."""
        for member in self.members.values():
            if member.restored:
                continue
            member.fuse = -1
            member.hear()
            again = copy.copy(member)
            again.disk = copy.deepcopy(member.disk)
            again.quiet = True
            for _ in range(2):
                again.reboot()
                again.hear()
            self.counts["replayed"] += 1
        assert self.hub is not None and self.turn is not None
        hub, _ = CoordinatorEpoch.begin(self.group, tag("plan"), self.epochs, SLOTS)
        kinds = {
            messages.EpochOpened: coordinator.OpenedLogged,
            messages.EpochKeys: coordinator.KeysLogged,
            messages.EpochRoster: coordinator.RosterLogged,
            messages.EpochShares: coordinator.SharesLogged,
            messages.EpochSealed: coordinator.SealedLogged,
        }
        for entry in self.log.epoch:
            body = entry.predicate
            if isinstance(body, messages.EpochReady):
                event: object = coordinator.ReadyLogged(entry, self.blobs.get(body.wraps or ""))
            elif isinstance(body, messages.ShareComplaint):
                column = self.blobs[hub.shares[body.dealer].predicate.columns[body.author]]
                event = coordinator.ComplaintLogged(entry, column)
            else:
                event = kinds[type(body)](entry)
            hub, _ = hub.step(event)
        for name in ("keys", "peers", "epoch_hash", "shares", "dealers", "ready", "excluded"):
            assert getattr(hub, name) == getattr(self.hub, name), f"I7: {name}"
        turn = CoordinatorRound.begin(self.turn.epoch, self.turn.opened)
        steps = {
            messages.MaskedInput: coordinator.InputArrived,
            messages.InputDeclined: coordinator.DeclineLogged,
            messages.SurvivorsSealed: coordinator.SurvivorsLogged,
            messages.SurvivorsConfirmed: coordinator.ConfirmationLogged,
            messages.Reveal: coordinator.RevealLogged,
        }
        for entry in self.log.round[1:]:
            if type(entry.predicate) in steps:
                turn, _ = turn.step(steps[type(entry.predicate)](entry))
            elif isinstance(entry.predicate, messages.RoundResult):
                turn, _ = turn.step(coordinator.SumReady(Digest(entry.predicate.sum)))
        for name in ("inputs", "sealed", "survivors", "confirmed", "reveals", "liars", "seeds"):
            assert getattr(turn, name) == getattr(self.turn, name), f"I7: {name}"


EVILS = ("nobody", "liar", "backup")
POINTS = (
    *(
        f"{moment} {write}"
        for moment in ("before", "after")
        for write in (
            "secrets",
            "epoch init",
            "epoch dealing",
            "epoch opening",
            "epoch closed",
            "slot input-persisting",
            "slot confirm-persisting",
            "slot answer-persisting",
        )
    ),
    "before send",
)
"""Where a member's process may end: around every durable write, and between write and send."""


def group_play(seed: int, rounds: int) -> Simulation:
    """Return the group of a seed after `rounds` rounds; sizes, suites and misbehaviour rotate."""
    size = (3, 4, 5, 6, 4, 3)[seed % 6]
    colluders = 2 if size == 6 and seed % 12 == 3 else 1
    evil = EVILS[seed // 6 % 3]
    sim = Simulation(seed, size=size, colluders=colluders, hybrid=seed % 5 == 0, evil=evil)
    try:
        sim.play(rounds)
    except AssertionError as error:
        raise AssertionError(f"seed {seed} ({size} members, {evil}): {error}") from error
    return sim
