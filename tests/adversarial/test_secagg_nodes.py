"""T-02, T-05, T-07, T-08, T-24, T-30: a coordinator with all its keys against whole nodes.

Four sites run their real nodes. When all have sent their inputs of the first round the coordinator
turns: with the log key and its runner key, and the runner key of one colluding member, it shows
each node a log of its own. What a node's fold refuses is a row of a table: the feed is refused with
one code, and log, machines and secrets stay. What the fold must accept, because nobody can see it
from one log, is left to the member's machine: there nothing may leave that should not.

Planted faults that these tests caught: a feed taken without its checkpoint; survivors answered
without looking for the member's own name; the fold's check of the logged inputs taken out; a lock
that forgets the set it was answered for; a question answered in any number of rounds.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from tests.small_federation import SITES, SmallFederation, contract, found, small_plan
from treaty.contracts.schema import Contract, contract_bytes
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import PeerError, PolicyError
from treaty.governance.roles import Action
from treaty.ids import Digest, MemberId
from treaty.node.log_keeper import LogKeeper
from treaty.node.participant import Participant
from treaty.protocol.frames import Feed, decode_post, encode_frame
from treaty.protocol.messages import CharterPublished, TimeStated
from treaty.protocol.secagg_keys import context_of, survivors_digest
from treaty.protocol.secagg_messages import (
    CloseCode,
    EpochClosed,
    EpochOpened,
    InputDeclined,
    MaskedInput,
    Reveal,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    RoundResult,
    Survivor,
    SurvivorsConfirmed,
    SurvivorsSealed,
)
from treaty.protocol.statements import Predicate, peek, seal_statement
from treaty.simulation.federation import COORDINATOR
from treaty.stores.memory import MemorySecrets, MemoryStore
from treaty.studies.plan import Plan, plan_bytes, plan_digest
from treaty.wiring import load_key

VICTIM, OTHER, THIRD, COLLUDER = SITES


class Traitor:
    """A coordinator that has turned, in the middle of the first round."""

    def __init__(self, directory: Path) -> None:
        federation = found(directory, in_memory=True)
        self.turn(directory, federation, small_plan(federation), contract())

    def turn(
        self,
        directory: Path,
        federation: SmallFederation,
        plan: Plan,
        made: Contract,
        *,
        sums: int = 0,
    ) -> None:
        """Run `plan` until all have sent their inputs of the round after `sums` published ones."""
        self.federation = federation
        parties = directory / "parties"
        self.runner = load_key(parties / COORDINATOR, "coordinator")
        self.log_key = load_key(parties / COORDINATOR, "log")
        self.colluder = load_key(parties / COLLUDER, "runner")
        self.federation.decide(Action.CONTRACT_ADOPT, Digest(plan.contract), contract_bytes(made))
        self.federation.decide(Action.STUDY_APPROVE, plan_digest(plan), plan_bytes(plan))
        assert self.federation.run(
            lambda state: (
                state.running is not None
                and state.running.round is not None
                and state.running.progress.index == sums
            )
        )
        self.entries = self.federation.coordinator.entries
        self.state = self.federation.coordinator.state
        study = self.state.running
        assert study is not None and study.round is not None
        self.study, self.round = study, study.round
        sent = [peek(one) for one in self.posted()]
        assert {type(body) for _, body in sent} == {MaskedInput}
        self.inputs = dict(zip([MemberId(body.author) for _, body in sent], self._raw, strict=True))
        assert set(self.inputs) == set(SITES)

    def node(self, name: MemberId) -> Participant:
        """Return a member's node."""
        return self.federation.participants[name]

    def disk(self, name: MemberId) -> tuple[object, ...]:
        """Return a copy of what a member's store and its secret files hold."""
        kept = self.federation._storages[1 + self.federation.members.index(name)]
        assert isinstance(kept.store, MemoryStore) and isinstance(kept.secrets, MemorySecrets)
        store = kept.store
        return (
            {stream: tuple(entries) for stream, entries in store._streams.items()},
            dict(store._values),
            dict(store.blobs._objects),
            dict(kept.secrets._secrets),
        )

    def posted(self) -> list[bytes]:
        """Return the statements that wait in the coordinator's mailbox."""
        endpoint = self.federation.network.endpoint(COORDINATOR)
        self._raw: list[bytes] = []
        while (delivery := endpoint.receive()) is not None:
            self._raw += decode_post(delivery.frame).statements
            delivery.ack()
        return self._raw

    def sign(self, kind: type[Predicate], key: SigningKey | None = None, **fields: object) -> bytes:
        """Return a statement of the coordinator, or of whom `fields` name, under any key."""
        plain = {name: msgspec.to_builtins(value) for name, value in fields.items()}
        base = {"charter": self.state.members.directory.charter, "author": COORDINATOR}
        return seal_statement(msgspec.convert(base | plain, kind), key or self.runner)

    def survivors(self, names: Iterable[MemberId]) -> tuple[Survivor, ...]:
        """Return the survivors that the inputs of `names` make."""
        made = []
        for name in names:
            body = peek(self.inputs[name])[1]
            assert isinstance(body, MaskedInput)
            made.append(Survivor(member=name, header=sha256(self.inputs[name]), root=body.root))
        return tuple(made)

    def sealed(self, names: Iterable[MemberId]) -> list[bytes]:
        """Return the log's rest that calls `names` survivors and everybody else dropped."""
        names = tuple(names)
        announced = self.sign(
            SurvivorsSealed, context=self.round.context, survivors=self.survivors(names)
        )
        return [*(self.inputs[name] for name in names), announced]

    def feed(
        self,
        victim: MemberId,
        more: Iterable[bytes],
        *,
        blobs: Iterable[bytes] = (),
        first: int | None = None,
        covering: Iterable[bytes] | None = None,
        key: SigningKey | None = None,
    ) -> bytes:
        """Return a feed that shows `victim` the true log with `more` at its end."""
        more = tuple(more)
        shown = (*self.entries, *more)
        start = self.node(victim).size if first is None else first
        covered = shown if covering is None else tuple(covering)
        note = LogKeeper().extended(covered).note(self.state.members, key or self.log_key)
        attached = {sha256(data): data for data in blobs}
        return encode_frame(Feed(start, shown[start:], note, attached))

    def show(self, victim: MemberId, more: Iterable[bytes]) -> list[bytes]:
        """Show `victim` a log and return the statements that it answers with."""
        self.posted()
        self.node(victim).handle(COORDINATOR, self.feed(victim, more))
        return self.posted()


@pytest.fixture(scope="module")
def traitor(tmp_path_factory: pytest.TempPathFactory) -> Traitor:
    """One traitor for all moves that are refused: they change nothing."""
    return Traitor(tmp_path_factory.mktemp("traitor") / "federation")


@dataclass(frozen=True)
class Feint:
    """A feed that a node refuses."""

    threat: str
    name: str
    code: str
    make: Callable[[Traitor], bytes]
    sender: MemberId = COORDINATOR


def said(
    kind: type[Predicate], key: Callable[[Traitor], SigningKey] | None = None, **fields: object
) -> Callable[[Traitor], bytes]:
    """One statement at the end of the true log; functions in `fields` are asked for the value."""

    def make(t: Traitor) -> bytes:
        values = {name: one(t) if callable(one) else one for name, one in fields.items()}
        return t.feed(VICTIM, [t.sign(kind, key(t) if key else None, **values)])

    return make


def after_abandoning(**changes: object) -> Callable[[Traitor], bytes]:
    """The round is abandoned and opened again, with changes."""

    def make(t: Traitor) -> bytes:
        over = t.sign(RoundAbandoned, context=t.round.context, code=RoundCode.TOO_FEW_INPUTS)
        ask = t.round.opened.predicate
        fields = {name: getattr(ask, name) for name in ask.__struct_fields__}
        fields |= {"slot": 1, "attempt": 1} | changes
        return t.feed(VICTIM, [over, t.sign(RoundOpened, **fields)])

    return make


def context(t: Traitor) -> str:
    return t.round.context


def forged_input(t: Traitor) -> bytes:
    """The colluder signs an input in another member's name."""
    body = peek(t.inputs[OTHER])[1]
    assert isinstance(body, MaskedInput)
    return t.feed(VICTIM, [seal_statement(body, t.colluder)])


def second_input(t: Traitor) -> bytes:
    """The colluder signs two inputs in one round."""
    body = peek(t.inputs[COLLUDER])[1]
    assert isinstance(body, MaskedInput)
    other = msgspec.structs.replace(body, root="0" * 64)
    return t.feed(VICTIM, [t.inputs[COLLUDER], seal_statement(other, t.colluder)])


def logged_and_left_out(t: Traitor) -> bytes:
    names = (OTHER, THIRD, COLLUDER)
    announced = t.sign(SurvivorsSealed, context=context(t), survivors=t.survivors(names))
    return t.feed(VICTIM, [*(t.inputs[name] for name in SITES), announced])


def answered_for(t: Traitor, *, both: bool) -> bytes:
    """The colluder answers with shares that it should not show."""
    names = (VICTIM, OTHER, COLLUDER)
    made = t.survivors(names)
    answer = t.sign(
        Reveal,
        t.colluder,
        author=COLLUDER,
        context=context(t),
        survivors=survivors_digest(context(t), made, t.study.group),
        self_shares=dict.fromkeys(names if both else (THIRD,), "1" * 64),
        round_shares={THIRD: "1" * 64, VICTIM: "1" * 64} if both else {},
    )
    return t.feed(VICTIM, [*t.sealed(names), answer])


def result_without_answers(t: Traitor) -> bytes:
    names = (VICTIM, OTHER, COLLUDER)
    total = bytes(8 * t.round.opened.predicate.length)
    published = t.sign(
        RoundResult,
        context=context(t),
        survivors=survivors_digest(context(t), t.survivors(names), t.study.group),
        sum=sha256(total),
        self_seeds=dict.fromkeys(names, "1" * 64),
        round_seeds={THIRD: "1" * 64},
        pair_seeds={},
    )
    return t.feed(VICTIM, [*t.sealed(names), published], blobs=[total])


def rewritten(t: Traitor) -> bytes:
    """An entry that the node holds, replaced by another that the fold would accept."""
    at = len(t.entries) - 1
    ask = t.round.opened.predicate
    fields = {name: getattr(ask, name) for name in ask.__struct_fields__}
    other = t.sign(RoundOpened, **(fields | {"participants": SITES[:3]}))
    shown = (*t.entries[:at], other, t.inputs[OTHER])
    note = LogKeeper().extended(shown).note(t.state.members, t.log_key)
    return encode_frame(Feed(at, shown[at:], note, {}))


def far_ahead(t: Traitor) -> int:
    return t.state.at + 400 * 24 * 3600 * 1000


def clean(t: Traitor) -> list[bytes]:
    return [t.inputs[OTHER]]


EPOCH = {
    "epoch": lambda t: t.study.epochs + 1,
    "plan": lambda t: t.study.identity,
    "slots": 4,
    "suite": lambda t: t.study.group.suite,
    "max_colluders": 1,
    "min_survivors": 3,
}

F = Feint
FEINTS = (
    F("T-30", "history rewritten", "split-view", rewritten),
    F(
        "T-30",
        "checkpoint of another tree",
        "split-view",
        lambda t: t.feed(VICTIM, clean(t), covering=t.entries),
    ),
    F(
        "T-30",
        "checkpoint under another key",
        "unsigned",
        lambda t: t.feed(VICTIM, clean(t), key=t.runner),
    ),
    F("T-24", "a feed from a member", "wrong-author", lambda t: t.feed(VICTIM, clean(t)), COLLUDER),
    F(
        "T-24",
        "survivors under the log key",
        "wrong-key-kind",
        said(SurvivorsSealed, lambda t: t.log_key, context=context, survivors=()),
    ),
    F(
        "T-24",
        "survivors under a member's key",
        "wrong-key-kind",
        said(SurvivorsSealed, lambda t: t.colluder, context=context, survivors=()),
    ),
    F("T-24", "a member's input under another's key", "wrong-author", forged_input),
    F("T-05", "two inputs of the colluder", "equivocation", second_input),
    F("T-23", "a logged input left out", "unlogged", logged_and_left_out),
    F(
        "T-23",
        "survivors without any input",
        "unlogged",
        said(SurvivorsSealed, context=context, survivors=lambda t: t.survivors(SITES)),
    ),
    F("T-03", "two survivors", "too-few", lambda t: t.feed(VICTIM, t.sealed((VICTIM, COLLUDER)))),
    F(
        "T-08",
        "survivors of another round",
        "wrong-context",
        said(SurvivorsSealed, context="0" * 64, survivors=lambda t: t.survivors(SITES)),
    ),
    F("T-02", "both kinds of share", "both-shares", lambda t: answered_for(t, both=True)),
    F(
        "T-02",
        "a dropped member's self share",
        "wrong-shares",
        lambda t: answered_for(t, both=False),
    ),
    F("T-20", "a sum that nobody opened", "too-few", result_without_answers),
    F(
        "T-08",
        "confirmation before the survivors",
        "out-of-order",
        said(
            SurvivorsConfirmed,
            lambda t: t.colluder,
            author=COLLUDER,
            context=context,
            survivors="0" * 64,
        ),
    ),
    F(
        "T-05",
        "the epoch closed under an open round",
        "out-of-order",
        said(EpochClosed, epoch=1, code=CloseCode.SUPERSEDED),
    ),
    F("T-05", "a second epoch beside the first", "out-of-order", said(EpochOpened, **EPOCH)),
    F(
        "T-25",
        "the charter changed under an epoch",
        "study-runs",
        said(
            CharterPublished,
            charter="0" * 64,
            version=2,
            previous=lambda t: t.state.members.directory.charter,
        ),
    ),
    F("T-22", "the log's clock far ahead", "clock-skew", said(TimeStated, at=far_ahead)),
    F(
        "T-22",
        "the log's clock turned back",
        "clock-back",
        said(TimeStated, at=lambda t: t.state.at - 1),
    ),
    F("T-05", "the same slot again", "slot-used", after_abandoning(slot=0)),
    F("T-05", "a slot beyond the epoch", "slot-used", after_abandoning(slot=64)),
    F("T-06", "an attempt left out", "wrong-attempt", after_abandoning(attempt=0)),
    F("T-04", "a crafted model", "wrong-model", after_abandoning(model="0" * 64)),
    F("T-04", "a crafted query", "wrong-query", after_abandoning(query="0" * 64)),
    F("T-04", "another code", "wrong-code", after_abandoning(code="0" * 64)),
    F("T-21", "a longer vector", "wrong-length", after_abandoning(length=99)),
    F("T-03", "a group of two", "too-few", after_abandoning(participants=SITES[:2])),
    F(
        "T-01",
        "participants in another order",
        "member-order",
        after_abandoning(participants=SITES[::-1]),
    ),
    F(
        "T-01",
        "a participant twice",
        "member-order",
        after_abandoning(participants=(VICTIM, OTHER, OTHER, THIRD)),
    ),
    F(
        "T-01",
        "an invented participant",
        "not-a-member",
        after_abandoning(participants=(VICTIM, OTHER, "zihl")),
    ),
)


@pytest.mark.parametrize("feint", FEINTS, ids=lambda one: f"{one.threat} {one.name}")
def test_a_forged_feed_is_refused_by_the_node(traitor: Traitor, feint: Feint) -> None:
    node = traitor.node(VICTIM)
    frame = feint.make(traitor)
    before = (node.size, node.state, traitor.disk(VICTIM))
    with pytest.raises((PeerError, PolicyError)) as refusal:
        node.handle(feint.sender, frame)
    assert getattr(refusal.value, "code", "format") == feint.code, refusal.value
    assert (node.size, node.state, traitor.disk(VICTIM)) == before
    assert traitor.posted() == []


# --- what one log cannot show to be wrong -------------------------------------------------------


@pytest.fixture
def fresh(tmp_path: Path) -> Traitor:
    """A traitor of its own, for moves that the fold accepts."""
    return Traitor(tmp_path / "federation")


def reveals(statements: Iterable[bytes]) -> list[Reveal]:
    """Return the answers among some statements."""
    bodies = [peek(one)[1] for one in statements]
    return [body for body in bodies if isinstance(body, Reveal)]


def slot_secrets(traitor: Traitor, name: MemberId) -> set[str]:
    """Return the names of a member's secret files."""
    secrets = traitor.disk(name)[3]
    assert isinstance(secrets, dict)
    return set(secrets)


def test_a_node_whose_input_is_declared_lost_reveals_nothing(fresh: Traitor) -> None:
    """T-07: the coordinator holds the victim's input and shows it a log without it."""
    said = fresh.show(VICTIM, fresh.sealed((OTHER, THIRD, COLLUDER)))
    assert reveals(said) == []
    assert "refused.left-out" in fresh.federation.journal_of(VICTIM)
    assert "epoch-000001-slot-0000" in slot_secrets(fresh, VICTIM)
    # Asked again and again, and after a restart of its memory, it says the same: nothing.
    fresh.node(VICTIM).start()
    assert reveals(fresh.posted()) == []


def test_nodes_that_are_shown_different_survivors_open_one_sum(fresh: Traitor) -> None:
    """T-08, T-30: each honest node has a log of its own; what they answer never adds up to more.

    Four members, one colluder, threshold three: each set of three is enough for an answer.
    """
    views = {
        VICTIM: (VICTIM, OTHER, COLLUDER),
        OTHER: (OTHER, THIRD, COLLUDER),
        THIRD: (VICTIM, THIRD, COLLUDER),
    }
    answers = []
    for name, survivors in views.items():
        ordered = tuple(one for one in SITES if one in survivors)
        (answer,) = reveals(fresh.show(name, fresh.sealed(ordered)))
        assert set(answer.self_shares) == set(survivors)
        assert not set(answer.self_shares) & set(answer.round_shares)
        answers.append(answer)
    group = fresh.study.group
    needed = group.share_threshold - group.max_colluders
    for owner in (VICTIM, OTHER, THIRD):
        own = sum(owner in one.self_shares for one in answers)
        gone = sum(owner in one.round_shares for one in answers)
        assert not (own >= needed and gone >= needed)
    # The slot is spent at every node, and each has forgotten it.
    for name in views:
        assert "epoch-000001-slot-0000" not in slot_secrets(fresh, name)


def test_a_node_that_answered_is_not_asked_again_in_another_log(fresh: Traitor) -> None:
    """T-30: after an answer the node's own copy of the log contradicts every other set."""
    assert len(reveals(fresh.show(VICTIM, fresh.sealed((VICTIM, OTHER, COLLUDER))))) == 1
    node = fresh.node(VICTIM)
    other = fresh.feed(VICTIM, fresh.sealed((VICTIM, THIRD, COLLUDER)), first=len(fresh.entries))
    with pytest.raises(PeerError) as refusal:
        node.handle(COORDINATOR, other)
    assert getattr(refusal.value, "code", None) == "split-view"
    assert reveals(fresh.posted()) == []


def test_a_node_answers_the_same_question_for_no_smaller_set(fresh: Traitor) -> None:
    """T-06: the answer is kept out of the log, the round abandoned, one member called lost."""
    assert len(reveals(fresh.show(VICTIM, fresh.sealed(SITES)))) == 1
    over = fresh.sign(RoundAbandoned, context=fresh.round.context, code=RoundCode.TOO_FEW_REVEALS)
    ask = fresh.round.opened.predicate
    fields = {name: getattr(ask, name) for name in ask.__struct_fields__}
    fields |= {"slot": 1, "attempt": 1, "participants": SITES[:3]}
    again = fresh.sign(RoundOpened, **fields)
    said = fresh.show(VICTIM, [*fresh.sealed(SITES), over, again])
    assert not any(isinstance(peek(one)[1], MaskedInput) for one in said)
    assert "refused.locked-set" in fresh.federation.journal_of(VICTIM)


def test_a_node_keeps_no_secret_of_a_round_that_was_abandoned(fresh: Traitor) -> None:
    """T-05: whoever comes later for the slot's secrets finds none."""
    over = fresh.sign(RoundAbandoned, context=fresh.round.context, code=RoundCode.TOO_FEW_INPUTS)
    fresh.show(VICTIM, [over])
    assert "epoch-000001-slot-0000" not in slot_secrets(fresh, VICTIM)
    assert "epoch-000001-slot-0001" in slot_secrets(fresh, VICTIM)


@pytest.mark.parametrize(("times", "expected"), [(7, MaskedInput), (8, InputDeclined)])
def test_a_node_is_not_asked_the_same_without_end(
    fresh: Traitor, times: int, expected: type[Predicate]
) -> None:
    """T-50: every round of a question leaves a masked vector on a member's disk."""
    ask, more = fresh.round.opened.predicate, []
    for number in range(1, times + 1):
        over = context_of(Digest(ask.charter), ask)
        more.append(fresh.sign(RoundAbandoned, context=over, code=RoundCode.TOO_FEW_INPUTS))
        ask = msgspec.structs.replace(ask, slot=number, attempt=number)
        more.append(seal_statement(ask, fresh.runner))
    said = [peek(one)[1] for one in fresh.show(VICTIM, more)]
    assert [type(one) for one in said] == [expected]
