"""Bad input to secure aggregation, case by case, at real nodes: nobody hangs or sends twice.

Four sites run their nodes; the engine of one of them does to its posts of one kind what a case
names. The others go on, the study ends with a model, and whatever left a member is one statement
for each thing that it may say once, byte for byte. Which test shows which case:

  * a member answers garbage, be it a frame, a statement or its blobs:
    `test_garbage_of_a_member_costs_its_place_alone`,
    `test_blobs_of_another_size_than_their_kind_has_are_not_logged`;
  * late: `test_what_comes_late_is_refused_and_holds_nobody_up`;
  * twice: `test_a_second_answer_is_refused_whatever_it_says`;
  * not at all, and who is waited for since when:
    `test_a_silent_member_is_named_and_then_left_behind`, `stateful/test_dropouts.py`;
  * a coordinator asks out of order: `test_what_is_asked_out_of_order_is_not_answered`,
    `adversarial/test_secagg_nodes.py`;
  * slots are exhausted: `test_a_study_goes_on_when_slots_are_spent`,
    `test_a_spent_slot_is_not_answered`;
  * the disk of a member is full: `crash/test_full_disk_of_a_member.py`,
    `campaign/test_network_disk_full.py`.

Planted faults, each seen to fail here: shares logged without their columns, or with columns of
another size; a round opened in a spent slot; a deadline that never passes; the status without the
members that are missing. What comes twice or late is refused in two places, by the fold and by the
coordinator's machine, so that either alone is enough.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest

from tests.passing_engine import PassingEngine
from tests.restartable_federation import (
    RestartableFederation,
    assert_no_fork,
    assert_said_once,
    whole_study,
    write_federation,
)
from tests.small_federation import SITES, contract, site_files, small_plan
from tests.unit.cli.conftest import Command, treaty
from treaty.crypto.canonical import sha256
from treaty.errors import PeerError, code_of
from treaty.governance.charter import time_to_text
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId
from treaty.models.specification import LogisticRegression
from treaty.node.log_keeper import LogKeeper
from treaty.node.runtime import Node, deliver
from treaty.ports import Engine
from treaty.protocol.consortium import Consortium
from treaty.protocol.frames import Feed, Post, decode_post, encode_frame
from treaty.protocol.secagg_messages import (
    CloseCode,
    EpochClosed,
    EpochKeys,
    EpochOpened,
    EpochReady,
    EpochRoster,
    EpochSealed,
    EpochShares,
    MaskedInput,
    Reveal,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    RoundResult,
    SurvivorsSealed,
)
from treaty.protocol.statements import Body, Predicate, peek, seal_statement
from treaty.protocol.study import Phase
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR, Federation
from treaty.stores.system import SystemClock
from treaty.studies.plan import EvaluationSettings, Plan, plan_bytes, plan_digest
from treaty.wiring import load_key

__all__ = ["treaty"]

MEMBER = SITES[1]
KINDS = (EpochKeys, EpochShares, EpochReady, MaskedInput, Reveal)

Alter = Callable[[Post, bytes], Sequence[bytes]]
"""What becomes of a post of the case's kind: the frames that are sent in its place."""


class Altering(PassingEngine):
    """A member's engine that alters its posts of one kind."""

    def __init__(self, engine: Engine, kind: type[Body], alter: Alter) -> None:
        super().__init__(engine)
        self._kind, self._alter = kind, alter
        self.altered = 0
        self.kept: list[tuple[MemberId, bytes]] = []

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """Alter the post, if it is one of the kind."""
        post = decode_post(frame)
        if not any(isinstance(peek(one)[1], self._kind) for one in post.statements):
            self._engine.send(recipient, frame, key)
            return
        self.altered += 1
        self.kept.append((recipient, frame))
        for number, changed in enumerate(self._alter(post, frame)):
            self._engine.send(recipient, changed, f"{key}-{number}-{self.altered}")

    def release(self) -> None:
        """Send what was kept, as it was."""
        kept, self.kept = self.kept, []
        for number, (recipient, frame) in enumerate(kept):
            self._engine.send(recipient, frame, f"late-{number}-{self.altered}")


class Altered(RestartableFederation):
    """A federation one of whose members answers as a case says."""

    def __init__(self, directory: Path, kind: type[Body], alter: Alter, slots: int = 16) -> None:
        self.kind, self.alter = kind, alter
        self.engine: Altering | None = None
        super().__init__(directory, slots_per_epoch=slots)

    def _endpoint(self, name: MemberId) -> Engine:
        if name != MEMBER:
            return super()._endpoint(name)
        self.engine = Altering(super()._endpoint(name), self.kind, self.alter)
        return self.engine

    def logged(self, kind: type[Body], author: str = MEMBER) -> int:
        """Return how many entries of a kind the log has of a member."""
        bodies = [peek(entry)[1] for entry in self.coordinator.entries]
        return sum(isinstance(one, kind) and one.author == author for one in bodies)


def opened(
    directory: Path, kind: type[Body], alter: Alter, *, slots: int = 16, hybrid: bool = False
) -> Altered:
    write_federation(directory, post_quantum=hybrid)
    federation = Altered(directory, kind, alter, slots)
    federation.establish()
    return federation


def brief(federation: Federation) -> Plan:
    """Return the small plan with one training round: five sums."""
    return small_plan(federation, model=LogisticRegression(max_rounds=1))


def reframed(post: Post, **changes: object) -> bytes:
    fields = {name: getattr(post, name) for name in ("member", "size", "cosignature")}
    fields |= {"statements": post.statements, "blobs": post.blobs}
    return encode_frame(Post(**(fields | changes)))  # type: ignore[arg-type]  # as the post


def without_blobs(post: Post, frame: bytes) -> Sequence[bytes]:
    return [reframed(post, blobs={})]


def other_bytes(post: Post, frame: bytes) -> Sequence[bytes]:
    return [b"\x00\x00\x00\x02{}" + frame[:50]]


def other_statement(post: Post, frame: bytes) -> Sequence[bytes]:
    return [reframed(post, statements=(b"neither a statement nor JSON",))]


def broken_signature(post: Post, frame: bytes) -> Sequence[bytes]:
    """Alter a letter in the middle of each signature."""
    spoilt = [
        one[:-60] + (b"A" if one[-60:-59] != b"A" else b"B") + one[-59:] for one in post.statements
    ]
    return [reframed(post, statements=tuple(spoilt))]


def cut_off(post: Post, frame: bytes) -> Sequence[bytes]:
    return [frame[:-1]]


GARBAGE: dict[str, Alter] = {
    "other bytes": other_bytes,
    "cut off": cut_off,
    "other statement": other_statement,
    "broken signature": broken_signature,
    "no blobs": without_blobs,
}
CASES = [
    (kind, name)
    for kind in KINDS
    for name in GARBAGE
    if name != "no blobs" or kind not in (EpochKeys, Reveal)
]


@pytest.mark.parametrize(
    ("kind", "name"), CASES, ids=[f"{kind.__name__}-{name}" for kind, name in CASES]
)
def test_garbage_of_a_member_costs_its_place_alone(
    tmp_path: Path, kind: type[Body], name: str
) -> None:
    """The others train a model; nothing of the garbage is in the log, and its reason is noted."""
    hybrid = kind is EpochReady
    federation = opened(tmp_path, kind, GARBAGE[name], hybrid=hybrid)
    study = whole_study(federation, brief(federation))
    assert federation.engine is not None and federation.engine.altered
    assert study.phase is Phase.COMPLETED, federation.journal_of(COORDINATOR)[-500:]
    assert federation.logged(kind) == 0
    said = federation.journal_of(COORDINATOR)
    codes = [json.loads(line)["event"] for line in said.splitlines()]
    noted = ("refused.", "statement-refused.", "input-missing")
    assert any(code.startswith(noted) for code in codes), codes
    assert_no_fork(federation)
    assert verify_bundle(federation.bundle(), federation.anchor).record.model == study.final_model


@pytest.mark.parametrize("wrong", ["size", "wraps"])
def test_blobs_of_another_size_than_their_kind_has_are_not_logged(
    tmp_path: Path, wrong: str
) -> None:
    """Signed by the member, so that only their size tells."""
    kind = EpochShares if wrong == "size" else EpochReady

    def resized(post: Post, frame: bytes) -> Sequence[bytes]:
        body = next(one for one in (peek(each)[1] for each in post.statements))
        blobs = {sha256(data + b"x"): data + b"x" for data in post.blobs.values()}
        if isinstance(body, EpochShares):
            changed: Predicate = msgspec.structs.replace(
                body,
                columns={
                    name: sha256(post.blobs[Digest(one)] + b"x")
                    for name, one in body.columns.items()
                },
            )
        else:
            assert isinstance(body, EpochReady) and body.wraps is not None
            changed = msgspec.structs.replace(
                body, wraps=sha256(post.blobs[Digest(body.wraps)] + b"x")
            )
        key = load_key(tmp_path / "parties" / MEMBER, "runner")
        return [reframed(post, statements=(seal_statement(changed, key),), blobs=blobs)]

    federation = opened(tmp_path, kind, resized, hybrid=True)
    study = whole_study(federation, brief(federation))
    assert study.phase is Phase.COMPLETED and federation.logged(kind) == 0
    code = "shares-malformed" if wrong == "size" else "ready-malformed"
    assert f"statement-refused.{code}" in federation.journal_of(COORDINATOR)


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_what_comes_late_is_refused_and_holds_nobody_up(tmp_path: Path, kind: type[Body]) -> None:
    """Kept back until the next question is asked; the member takes part again when it can."""
    federation = opened(tmp_path, kind, lambda post, frame: [], slots=2)
    seen: list[int] = []

    def late() -> None:
        engine, study = federation.engine, federation.coordinator.state.running
        if engine is None or study is None or not engine.kept or study.round is None:
            return
        if kind in (MaskedInput, Reveal) and len(study.rounds) <= len(seen):
            return
        seen.append(len(study.rounds))
        engine.release()

    study = federation.run_study(brief(federation), contract(), late)
    assert study.phase is Phase.COMPLETED and seen
    if kind is EpochReady:
        # Who is ready only now takes part in the rounds that follow.
        assert federation.logged(kind) >= 1
        assert any(MEMBER in one.members_in for one in study.rounds[1:])
    else:
        assert federation.logged(kind) == 0
    if kind not in (EpochReady, Reveal):
        assert "statement-refused." in federation.journal_of(COORDINATOR)
    assert_said_once(federation)
    assert_no_fork(federation)


@pytest.mark.parametrize("kind", KINDS, ids=[kind.__name__ for kind in KINDS])
def test_a_second_answer_is_refused_whatever_it_says(tmp_path: Path, kind: type[Body]) -> None:
    """The same statement again lengthens no log, another one is equivocation; the first counts."""

    def twice(post: Post, frame: bytes) -> Sequence[bytes]:
        key = load_key(tmp_path / "parties" / MEMBER, "runner")
        others = [other_of(peek(one)[1]) for one in post.statements]
        second = tuple(seal_statement(one, key) for one in others if one is not None)
        return [frame, frame, reframed(post, statements=second)]

    federation = opened(tmp_path, kind, twice)
    study = whole_study(federation, brief(federation))
    assert study.phase is Phase.COMPLETED
    rounds = len(study.rounds)
    log = [sha256(entry) for entry in federation.coordinator.entries]
    assert len(set(log)) == len(log)
    assert federation.logged(kind) <= (rounds if kind in (MaskedInput, Reveal) else 1)
    codes = {
        json.loads(line)["event"]
        for line in federation.journal_of(COORDINATOR).splitlines()
        if json.loads(line)["event"].startswith("statement-refused.")
    }
    assert codes & {
        "statement-refused.replayed",
        "statement-refused.equivocation",
        "statement-refused.out-of-order",
    }
    assert_no_fork(federation)
    assert verify_bundle(federation.bundle(), federation.anchor).record.model == study.final_model


def other_of(body: Body) -> Predicate | None:
    """Return another statement in the same place, None for what may stand beside it."""
    match body:
        case EpochKeys():
            return msgspec.structs.replace(body, transport=body.round_keys[0])
        case EpochShares():
            names = sorted(body.columns)
            swapped = dict(zip(names, [body.columns[name] for name in names[::-1]], strict=True))
            return msgspec.structs.replace(body, columns=swapped)
        case EpochReady():
            return msgspec.structs.replace(body, epoch_hash="0" * 64)
        case MaskedInput():
            return msgspec.structs.replace(body, root="0" * 64)
        case Reveal():
            shares = dict.fromkeys(body.self_shares, "1" * 64)
            return msgspec.structs.replace(body, self_shares=shares)
        case _:
            return None


def test_a_silent_member_is_named_and_then_left_behind(treaty: Command, tmp_path: Path) -> None:
    """`study status` says who is waited for, and since when, before the deadline passes."""
    federation = Falling.founded(tmp_path)
    plan = small_plan(federation, evaluation=EvaluationSettings(bins=8))
    federation.adopt(contract())
    federation.decide(Action.STUDY_APPROVE, plan_digest(plan), plan_bytes(plan))

    def waiting(state: Consortium) -> bool:
        study = state.running
        return study is not None and study.round is not None and len(study.round.inputs) == 3

    began = SystemClock().now()
    assert federation.run(waiting)
    shown = treaty("study", "status", "--dir", tmp_path, "--format", "json")
    said = json.loads(shown.out)
    assert shown.code == 0
    assert said["waits_for"] == {"parties": [MEMBER], "what": "masked inputs"}
    assert time_to_text(began) <= said["waits_since"] <= time_to_text(SystemClock().now())
    text = treaty("study", "status", "--dir", tmp_path).out
    assert f"waits for masked inputs, from {MEMBER}, since " in text
    # The deadline passes: the others' sum is opened, and the study ends without the member.
    assert federation.run(lambda state: state.studies[plan_digest(plan)].finished)
    study = federation.coordinator.state.studies[plan_digest(plan)]
    assert study.phase is Phase.COMPLETED
    assert all(MEMBER not in one.members_in for one in study.rounds[1:])
    federation.close()


class Falling(Federation):
    """A federation on disk of which one member is never heard of again once a round opens."""

    @staticmethod
    def founded(directory: Path) -> "Falling":
        files = {name: site_files(name) for name in SITES}
        Federation.found(directory, files, consortium="rivers.example", post_quantum=False)
        federation = Falling(directory)
        federation.establish()
        return federation

    def nodes(self) -> tuple[Node, ...]:
        study = self.coordinator.state.running if self.coordinator.state.membership else None
        opened = study is not None and (study.round is not None or study.rounds)
        return tuple(one for one in super().nodes() if one.name != MEMBER or not opened)

    def run(self, until: Callable[[Consortium], bool], progress: object = None) -> bool:
        """Turn to those who are there, one turn after another."""
        for _ in range(20_000):
            if until(self.coordinator.state):
                return True
            nodes = self.nodes()
            moved = [deliver(node) for node in nodes]
            if True not in moved and True not in [node.on_quiet() for node in nodes]:
                return until(self.coordinator.state)
        raise AssertionError("the parties exchange frames without an end")


def test_a_study_goes_on_when_slots_are_spent(tmp_path: Path) -> None:
    """An epoch of one slot: another follows for every sum, each with keys of its own."""
    write_federation(tmp_path)
    federation = RestartableFederation(tmp_path, slots_per_epoch=1)
    federation.establish()
    study = whole_study(federation, brief(federation))
    bodies = [peek(entry)[1] for entry in federation.coordinator.entries]
    rounds = [body for body in bodies if isinstance(body, RoundOpened)]
    closed = [body.code for body in bodies if isinstance(body, EpochClosed)]
    assert study.phase is Phase.COMPLETED
    assert len({body.epoch_hash for body in rounds}) == len(rounds) == len(closed) > 3
    assert {body.slot for body in rounds} == {0}
    assert closed[:-1] == [CloseCode.EXHAUSTED] * (len(closed) - 1)
    assert_said_once(federation)
    verdict = verify_bundle(federation.bundle(), federation.anchor)
    assert verdict.record.model == study.final_model


class Halfway:
    """A federation that stops right after an entry of a kind, and what its coordinator can sign."""

    def __init__(self, directory: Path, kind: type[Body], slots: int = 16) -> None:
        write_federation(directory)
        self.federation = federation = RestartableFederation(directory, slots_per_epoch=slots)
        federation.establish()
        plan = small_plan(federation)
        federation.adopt(contract())
        federation.decide(Action.STUDY_APPROVE, plan_digest(plan), plan_bytes(plan))

        def there(_: Consortium) -> bool:
            return any(isinstance(peek(entry)[1], kind) for entry in federation.coordinator.entries)

        assert federation.run(there)
        place = directory / "parties" / COORDINATOR
        self.runner, self.log_key = load_key(place, "coordinator"), load_key(place, "log")
        kinds = [type(peek(entry)[1]) for entry in federation.coordinator.entries]
        self.entries = federation.coordinator.entries[: kinds.index(kind) + 1]
        self.state = Consortium(federation.anchor)
        for entry in self.entries:
            find = federation._storages[0].blobs.get
            self.state, _ = self.state.apply(entry, find)

    def ask(self, name: MemberId, *bodies: Predicate) -> str:
        """Show a member a log that goes on with `bodies`; return the code of its refusal."""
        entries = (*self.entries, *(seal_statement(body, self.runner) for body in bodies))
        note = LogKeeper().extended(entries).note(self.state.members, self.log_key)
        node = self.federation.participants[name]
        first = node.size
        assert first <= len(self.entries)
        sent = len(self.federation.network.egress)
        with pytest.raises(PeerError) as refusal:
            node.handle(COORDINATOR, encode_frame(Feed(first, entries[first:], note, {})))
        node.flush()
        said = [
            peek(one)[1]
            for record in self.federation.network.egress[sent:]
            for one in decode_post(record.content or b"").statements
        ]
        assert said == [] and node.size == first
        return code_of(refusal.value)


def the(entries: Sequence[bytes], kind: type[Body]) -> Predicate:
    found = [body for body in (peek(entry)[1] for entry in entries) if isinstance(body, kind)]
    assert found and isinstance(found[-1], Predicate)
    return found[-1]


def test_what_is_asked_out_of_order_is_not_answered(tmp_path: Path) -> None:
    """A member that is asked too early, again, or for what is over refuses and is silent."""
    plain = Halfway(tmp_path / "round", RoundOpened)
    opened = the(plain.entries, RoundOpened)
    assert isinstance(opened, RoundOpened)
    roster, sealed = the(plain.entries, EpochRoster), the(plain.entries, EpochSealed)
    keys = the(plain.entries, EpochOpened)
    base = {"charter": opened.charter, "author": opened.author}
    study = plain.state.running
    assert study is not None and study.round is not None
    context = study.round.context
    empty = SurvivorsSealed(**base, context=context, survivors=())
    result = RoundResult(
        **base,
        context=context,
        survivors="0" * 64,
        sum="0" * 64,
        self_seeds={},
        round_seeds={},
        pair_seeds={},
    )
    assert plain.ask(SITES[0], opened) == "out-of-order"
    assert plain.ask(SITES[0], msgspec.structs.replace(opened, slot=1)) == "out-of-order"
    assert plain.ask(SITES[0], roster) == "out-of-order"
    assert plain.ask(SITES[0], sealed) == "out-of-order"
    assert plain.ask(SITES[0], keys) == "out-of-order"
    assert plain.ask(SITES[0], result) == "out-of-order"
    assert plain.ask(SITES[0], empty) == "too-few"
    closed = EpochClosed(**base, epoch=1, code=CloseCode.FINISHED)
    assert plain.ask(SITES[0], closed) == "out-of-order"
    early = Halfway(tmp_path / "early", EpochOpened)
    assert early.ask(SITES[0], opened) == "wrong-charter"
    asked = the(early.entries, EpochOpened)
    assert isinstance(asked, EpochOpened)
    moved = msgspec.structs.replace(sealed, charter=asked.charter)
    assert early.ask(SITES[0], moved) == "out-of-order"
    running = early.state.running
    assert running is not None
    awaited = running.expected_round()
    moved = msgspec.structs.replace(
        opened, charter=asked.charter, plan=asked.plan, query=awaited.query, model=awaited.model
    )
    assert early.ask(SITES[0], moved) == "out-of-order"


def test_a_spent_slot_is_not_answered(tmp_path: Path) -> None:
    """Neither again, nor beyond the epoch's number of slots."""
    spent = Halfway(tmp_path, RoundOpened, slots=2)
    opened = the(spent.entries, RoundOpened)
    study = spent.state.running
    assert isinstance(opened, RoundOpened) and study is not None and study.round is not None
    abandoned = RoundAbandoned(
        charter=opened.charter,
        author=opened.author,
        context=study.round.context,
        code=RoundCode.TOO_FEW_INPUTS,
    )
    for slot in (0, 2, 63):
        again = msgspec.structs.replace(opened, slot=slot, attempt=1)
        assert spent.ask(SITES[0], abandoned, again) == "slot-used", slot
