"""T-43, T-44, T-46: a coordinator with all its keys asks real sites for more than their plan gives.

It turns when all have sent their inputs of the first noised sum, and shows one site a log of its
own: the round again, the round over others, a study with other noise, rate or number of rounds, a
question too many. Each is refused with its own reason; log, ledger and store stay, and what is sent
again is the very bytes that were paid for.

Planted and caught: a vector that is noised anew for an attempt; a question asked of another set
after the site confirmed one; a plan opened without lint or without a vote; a query that is not
compared with the study's next; a number of attempts that is not compared; a stored share that is
too small for the group of now; a charge made after the vector was stored.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import msgspec
import pytest

from tests.adversarial.test_secagg_nodes import COLLUDER, OTHER, THIRD, VICTIM, Traitor
from tests.private_federation import found_private, private_contract, private_plan
from tests.small_federation import SITES
from treaty.crypto.canonical import sha256
from treaty.errors import PeerError, PolicyError, ResourceError
from treaty.governance.roles import Action
from treaty.node.performing import NOISE_KEY, PREMASK_KEY
from treaty.ports import Batch
from treaty.privacy.events import SAMPLING_UNIT
from treaty.privacy.ledger import LedgerState
from treaty.protocol.frames import decode_post
from treaty.protocol.messages import (
    BallotCast,
    HaltCode,
    ProposalOpened,
    StudyHalted,
    StudyOpened,
)
from treaty.protocol.secagg_messages import (
    DeclineCode,
    InputDeclined,
    MaskedInput,
    Reveal,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    SurvivorsConfirmed,
)
from treaty.protocol.statements import peek, seal_statement
from treaty.simulation.federation import COORDINATOR
from treaty.stores.memory import MemoryLedger
from treaty.studies.calibrating import Privacy
from treaty.studies.noise import noise_terms
from treaty.studies.plan import Plan, plan_bytes, plan_digest
from treaty.studies.queries import QueryKind, make_query


class PrivateTraitor(Traitor):
    """A coordinator that has turned in the first noised sum of a private study."""

    def __init__(self, directory: Path) -> None:
        federation = found_private(directory, in_memory=True, capture=False)
        self.plan = private_plan(federation, Privacy(epsilon=1.0, rounds=2))
        self.turn(directory, federation, self.plan, private_contract())

    def ledger(self) -> LedgerState:
        """Return what the victim's ledger adds up to."""
        budget = self.node(VICTIM).budget
        assert budget is not None
        return budget.state

    def again(self, **changes: object) -> list[bytes]:
        """Return the statements that abandon the round and open it again, with changes."""
        over = self.sign(RoundAbandoned, context=self.round.context, code=RoundCode.TOO_FEW_REVEALS)
        ask = self.round.opened.predicate
        fields = {name: getattr(ask, name) for name in ask.__struct_fields__}
        return [over, self.sign(RoundOpened, **(fields | {"slot": 1, "attempt": 1} | changes))]

    def opening(self, plan: Plan, voters: tuple[str, ...] = SITES[:3]) -> list[bytes]:
        """Return the statements that halt the study and open `plan` by the votes of `voters`."""
        parties = self.federation.directory / "parties"
        assert parties.exists()
        halted = self.sign(StudyHalted, plan=self.study.identity, code=HaltCode.TOO_FEW_MEMBERS)
        proposal = seal_statement(
            ProposalOpened(
                charter=self.state.members.directory.charter,
                author=COLLUDER,
                action=Action.STUDY_APPROVE.value,
                subject=plan_digest(plan),
            ),
            self.federation.officer(COLLUDER),
        )
        ballots = [
            seal_statement(
                BallotCast(
                    charter=self.state.members.directory.charter,
                    author=name,
                    proposal=sha256(proposal),
                    choice="approve",
                ),
                self.federation.officer(name),  # type: ignore[arg-type]  # a member's name
            )
            for name in voters
        ]
        opened = self.sign(StudyOpened, plan=plan_digest(plan), proposal=sha256(proposal))
        return [halted, proposal, *ballots, opened]

    def refuses(self, feed: bytes, code: str) -> None:
        """The victim refuses `feed` with `code`, and neither log, store nor ledger changes."""
        node = self.node(VICTIM)
        before = (node.size, node.state, self.disk(VICTIM), self.ledger())
        with pytest.raises((PeerError, PolicyError)) as caught:
            node.handle("coordinator", feed)  # type: ignore[arg-type]  # a party's name
        assert caught.value.code == code, str(caught.value)
        assert (node.size, node.state, self.disk(VICTIM), self.ledger()) == before
        assert not self.posted()


@pytest.fixture(scope="module")
def traitor(tmp_path_factory: pytest.TempPathFactory) -> PrivateTraitor:
    """One traitor for all moves that are refused: they change nothing."""
    return PrivateTraitor(tmp_path_factory.mktemp("hostile") / "federation")


def masked(answers: list[bytes]) -> list[MaskedInput]:
    return [body for _, body in map(peek, answers) if isinstance(body, MaskedInput)]


# --- the same sum again -----------------------------------------------------------------------


def test_a_repeated_round_gets_the_vector_that_was_paid_for(tmp_path: Path) -> None:
    """Other masks over the same noised words; nothing is charged, and nothing noised anew."""
    traitor = PrivateTraitor(tmp_path / "federation")
    first = peek(traitor.inputs[VICTIM])[1]
    assert isinstance(first, MaskedInput)
    before = traitor.ledger()
    answers = masked(traitor.show(VICTIM, traitor.again()))
    assert [one.noise for one in answers] == [first.noise]
    assert answers[0].root != first.root
    assert answers[0].ledger_count == first.ledger_count
    assert traitor.ledger().spend == before.spend
    assert traitor.ledger().slots == before.slots and len(before.slots) == 1


def test_a_round_that_is_said_to_be_the_first_again_is_refused(traitor: PrivateTraitor) -> None:
    traitor.refuses(traitor.feed(VICTIM, traitor.again(attempt=0)), "wrong-attempt")
    traitor.refuses(traitor.feed(VICTIM, traitor.again(slot=0)), "slot-used")


def test_a_changed_cohort_is_refused_once_a_set_was_confirmed(tmp_path: Path) -> None:
    """Two sums over sets that differ by one member would show that member under one share."""
    traitor = PrivateTraitor(tmp_path / "federation")
    confirmed = traitor.show(VICTIM, traitor.sealed(SITES))
    assert any(isinstance(peek(one)[1], SurvivorsConfirmed | Reveal) for one in confirmed)
    traitor.entries = (*traitor.entries, *traitor.sealed(SITES))
    before = traitor.ledger()
    answers = traitor.show(VICTIM, traitor.again(participants=(VICTIM, OTHER, THIRD)))
    assert not masked(answers)
    assert not any(isinstance(peek(one)[1], Reveal) for one in answers)
    assert traitor.ledger().slots == before.slots
    assert "refused.locked-set" in traitor.federation.journal_of(VICTIM)


def test_a_vector_with_the_noise_of_a_larger_group_is_not_sent_again(tmp_path: Path) -> None:
    """After a suspension fewer honest shares must carry the noise: the stored one is too small."""
    traitor = PrivateTraitor(tmp_path / "federation")
    store = traitor.node(VICTIM)._store
    kept = store.get(NOISE_KEY)
    assert kept is not None
    commitment, honest = kept.decode().split(" ")
    assert int(honest) == 2
    store.commit(Batch(puts=((NOISE_KEY, f"{commitment} 3".encode()),), label="test"))
    answers = traitor.show(VICTIM, traitor.again())
    assert not masked(answers)
    [declined] = [body for _, body in map(peek, answers) if isinstance(body, InputDeclined)]
    assert declined.code is DeclineCode.SITE_DECLINED
    assert '"declined.noise-share"' in traitor.federation.journal_of(VICTIM)


class _FailingLedger(MemoryLedger):
    """A ledger whose disk fails at the first charge."""

    def append(self, count: int, records: Sequence[bytes], label: str = "ledger") -> None:
        if label == "ledger-charge":
            raise ResourceError("the disk failed")
        super().append(count, records, label)


def test_nothing_is_stored_for_sending_before_its_charge_is_durable(tmp_path: Path) -> None:
    federation = found_private(tmp_path, in_memory=True, capture=False)
    entries = federation._ledger(VICTIM).read()
    federation._ledgers[VICTIM] = _FailingLedger(list(entries))
    node = federation._open_participant(VICTIM)
    federation.participants[VICTIM] = node
    node.start()
    with pytest.raises(ResourceError, match="the disk failed"):
        federation.run_study(
            private_plan(federation, Privacy(epsilon=1.0, rounds=1)), private_contract()
        )
    assert not node._store.get(PREMASK_KEY)
    assert not node._outgoing
    mailbox, posted = federation.network.endpoint(COORDINATOR), []
    while (delivery := mailbox.receive()) is not None:
        if delivery.sender == VICTIM:
            posted += decode_post(delivery.frame).statements
        delivery.ack()
    assert not masked(posted)
    logged = [peek(entry)[1] for entry in federation.coordinator.entries]
    assert not [one for one in logged if isinstance(one, MaskedInput) and one.author == VICTIM]


# --- other noise, rate and number of rounds ---------------------------------------------------


def _sixteenth(plan: Plan) -> Mapping[str, object]:
    return {"variance": f"{int(noise_terms(plan).variance, 16) // 16:x}"}


ALTERED: Mapping[str, tuple[Callable[[Plan], Mapping[str, object]], str]] = MappingProxyType(
    {
        "sigma": (_sixteenth, "epsilon-claim"),
        "T": (lambda _: {"rounds": 3}, "epsilon-claim"),
        "clip": (lambda _: {"grid_bits": 25}, "epsilon-claim"),
        "the promise": (lambda _: {"epsilon_milli": 3001}, "privacy-budget"),
        "delta": (lambda _: {"delta_inverse": 10**4}, "privacy-budget"),
    }
)


@pytest.mark.parametrize("what", ALTERED)
def test_altered_noise_is_refused_whoever_voted_for_it(what: str, traitor: PrivateTraitor) -> None:
    changes, code = ALTERED[what]
    terms = msgspec.structs.replace(noise_terms(traitor.plan), **changes(traitor.plan))
    other = msgspec.structs.replace(traitor.plan, study="other", privacy=terms)
    feed = traitor.feed(VICTIM, traitor.opening(other), blobs=[plan_bytes(other)])
    traitor.refuses(feed, code)


def test_an_altered_rate_is_refused(traitor: PrivateTraitor) -> None:
    """The noise of a quarter of the persons, and then half of them."""
    plan = private_plan(traitor.federation, Privacy(epsilon=1.0, rounds=2, sampling=0.25))
    terms = msgspec.structs.replace(noise_terms(plan), sampling=SAMPLING_UNIT // 2)
    other = msgspec.structs.replace(plan, study="other", privacy=terms)
    feed = traitor.feed(VICTIM, traitor.opening(other), blobs=[plan_bytes(other)])
    traitor.refuses(feed, "epsilon-claim")


def test_a_plan_that_too_few_voted_for_is_refused(traitor: PrivateTraitor) -> None:
    other = msgspec.structs.replace(traitor.plan, study="other")
    feed = traitor.feed(VICTIM, traitor.opening(other, SITES[:1]), blobs=[plan_bytes(other)])
    traitor.refuses(feed, "sub-quorum")


def test_the_control_a_plan_that_holds_opens(tmp_path: Path) -> None:
    traitor = PrivateTraitor(tmp_path / "federation")
    other = msgspec.structs.replace(traitor.plan, study="other")
    node = traitor.node(VICTIM)
    feed = traitor.feed(VICTIM, traitor.opening(other), blobs=[plan_bytes(other)])
    node.handle("coordinator", feed)  # type: ignore[arg-type]  # a party's name
    assert node.state.running is not None and node.state.running.identity == plan_digest(other)


@pytest.mark.parametrize("kind", [QueryKind.COUNT, QueryKind.DESCENT, QueryKind.EVALUATION])
def test_a_question_out_of_turn_is_refused(kind: QueryKind, traitor: PrivateTraitor) -> None:
    """After one attempt the same sum may be asked again, and no other."""
    asked = traitor.study.progress.expected_query()
    query = make_query(
        traitor.plan,
        private_contract(),
        kind,
        asked.index + 1,
        members=len(SITES),
        model=asked.model,
        normaliser=asked.normaliser,
    )
    more = traitor.again(
        query=query.digest, length=query.layout.length, ring_bits=query.layout.ring_bits
    )
    traitor.refuses(traitor.feed(VICTIM, more), "wrong-query")


# --- a second study over the cap --------------------------------------------------------------


def test_a_second_study_over_the_cap_gets_no_key_of_a_site(tmp_path: Path) -> None:
    """It is ratified by all and keeps its own promise; what the first spent it cannot know."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    first = private_plan(federation, Privacy(epsilon=2.9, rounds=1))
    federation.run_study(first, private_contract())
    budget = federation.participants[VICTIM].budget
    assert budget is not None
    before = budget.state
    second = private_plan(federation, Privacy(epsilon=2.9, rounds=1), study="second")
    study = federation.run_study(second, private_contract())
    assert study.halt_code is HaltCode.TOO_FEW_MEMBERS and not study.rounds
    assert budget.state == before
    assert '"refused.budget"' in federation.journal_of(VICTIM)
    bodies = [peek(entry)[1] for entry in federation.coordinator.entries]
    assert not any(isinstance(one, InputDeclined) for one in bodies), "nobody was even asked"
