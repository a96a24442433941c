"""T-43, T-44, T-46: a noised release that is not charged, not counted, or charged twice.

Real nodes and logs forged with every key. A coordinator halts a study while it holds the answers of
an open round; lets epochs end between input and answer; asks again of others, or for a vector that
is gone; a site shows no ledger, or one that did not pay; a process ends between reserving and
charging.

Planted and caught: a halt that forgets the open round; an input without a ledger taken; ledgers
compared within one question only; the same bytes charged once for every cohort; a vector drawn and
paid for although the one that was sent is gone; other bytes taken for those that were paid for;
what was reserved for another release kept for ever; the release in place of one that nobody could
open called one more; an epsilon above the promise not said; one release asked in two epochs.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from tests.adversarial.test_hostile_budgets import PrivateTraitor, masked
from tests.adversarial.test_hostile_spending import keeper
from tests.adversarial.test_secagg_nodes import OTHER, THIRD, VICTIM
from tests.forgery import Forge, Genuine, genuine_of
from tests.private_federation import ROUNDS, found_private, private_contract, private_plan
from tests.restartable_federation import CutOff, RestartableFederation, write_federation
from tests.small_federation import SITES
from treaty.crypto.canonical import decode
from treaty.errors import VerificationError
from treaty.ids import Digest, MemberId
from treaty.node.performing import PREMASK_KEY
from treaty.ports import Batch
from treaty.privacy.ledger_entries import TRAINING, Charged, Entry
from treaty.protocol.messages import HaltCode, StudyHalted
from treaty.protocol.releases import last_shown, releases_of, with_noise_shown
from treaty.protocol.secagg_messages import (
    DeclineCode,
    InputDeclined,
    LedgerMark,
    MaskedInput,
    Reveal,
    SurvivorsConfirmed,
)
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase, Study
from treaty.provenance.privacy import log_privacy, study_privacy
from treaty.provenance.record import replay
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR, Federation
from treaty.stores.memory import MemoryLedger
from treaty.studies.calibrating import Privacy
from treaty.studies.certificates import happened_line
from treaty.studies.plan import AggregationSettings, Plan, plan_digest

AT = 2
"""The query, the second gradient sum, at which something goes wrong."""


def few_slots(federation: Federation, asked: Privacy | None = None, slots: int = AT + 1) -> Plan:
    """Return a plan whose first epoch ends with its query `AT`."""
    plan = private_plan(federation, asked)
    settings = msgspec.structs.replace(plan.aggregation, slots_per_epoch=slots)
    assert isinstance(settings, AggregationSettings)
    return msgspec.structs.replace(plan, aggregation=settings)


def happened_in(study: Study) -> tuple[int, int, int, int]:
    statement = study_privacy(study)
    assert statement is not None and statement.happened.epsilon_micro is not None
    found = statement.happened
    return found.counts, found.gradients, found.fresh, found.epsilon_micro or 0


# --- a halt while answers are held ------------------------------------------------------------


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Genuine, Study]:
    federation = found_private(tmp_path_factory.mktemp("halt"), in_memory=True, capture=False)
    study = federation.run_study(private_plan(federation), private_contract())
    federation.release(study)
    return genuine_of(federation), study


def halted_after(genuine: Genuine, study: Study, kind: type[Reveal | SurvivorsConfirmed]) -> Forge:
    """Return the log up to the last answer of a round, and then a halt by the coordinator."""
    [context] = [one.context for one in study.rounds if one.round == AT]
    forge = genuine.forge
    last = [at for at in forge.places(kind) if forge.said(at, kind).context == context][-1]
    halt = StudyHalted(
        charter=forge.said(last, kind).charter,
        author=COORDINATOR,
        plan=study.identity,
        code=HaltCode.TOO_FEW_MEMBERS,
    )
    return forge.until(last + 1).saying(halt)


def with_its_blobs(forge: Forge) -> Forge:
    """Return the forge with the documents and inputs that its entries name."""
    record = replay(forge.entries, forge.anchor, forge.find, forge.blobs.__contains__)
    named = record.needed | record.inputs
    kept = {one: data for one, data in forge.blobs.items() if one in named}
    return dataclasses.replace(forge, blobs=kept)


def test_a_halt_does_not_hide_the_sum_whose_answers_are_in_the_log(
    genuine: tuple[Genuine, Study],
) -> None:
    """The coordinator can open it: halting before a result said that it was never asked."""
    forge = halted_after(*genuine, Reveal)
    before = forge.state(len(forge.entries) - 1).studies[genuine[1].identity]
    after = forge.state().studies[genuine[1].identity]
    assert before.round is not None and after.round is None and after.phase is Phase.HALTED
    assert happened_in(before) == happened_in(after)
    assert happened_in(after)[:3] == (1, AT, 0)
    assert after.rounds[-1].phase is RoundPhase.ABANDONED and after.rounds[-1].reveals
    verdict = verify_bundle(with_its_blobs(forge).bundle(), forge.anchor)
    said = {one.name: one.statement for one in verdict.record.guarantees}
    assert f"{AT} of {ROUNDS} noised gradient sums" in said["privacy-log"]
    spent = log_privacy(forge.state()).epsilon_micro
    assert spent == happened_in(after)[3]


def test_what_was_answered_before_a_halt_binds_after_it(genuine: tuple[Genuine, Study]) -> None:
    """A halt is no way to have one question answered for two sets of members."""
    study = halted_after(*genuine, Reveal).state().studies[genuine[1].identity]
    assert study.bound == frozenset(SITES)
    assert (
        study.asked_as(SITES[:3], study.rounds[-1].epoch_hash)
        == releases_of(study.rounds[-1].question)[1]
    )


# --- what a ledger shows ----------------------------------------------------------------------


def inputs_of(genuine: Genuine, study: Study, number: int) -> list[int]:
    [context] = [one.context for one in study.rounds if one.round == number]
    forge = genuine.forge
    return [
        at for at in forge.places(MaskedInput) if forge.said(at, MaskedInput).context == context
    ]


def refusal(forge: Forge) -> str:
    with pytest.raises(VerificationError) as caught:
        verify_bundle(forge.bundle(), forge.anchor)
    return caught.value.code


def test_noise_of_a_site_that_shows_no_ledger_is_refused(genuine: tuple[Genuine, Study]) -> None:
    """From its first input on: a site that keeps no ledger charges nobody."""
    log, study = genuine
    at = inputs_of(log, study, 0)[0]
    forge = log.forge.until(at + 1).changed(at, ledger=None, ledger_count=None)
    assert refusal(forge) == "ledger-missing"


def test_the_noise_of_every_question_is_paid_for(genuine: tuple[Genuine, Study]) -> None:
    """A site that shows the ledger of the sum before has not charged this one."""
    log, study = genuine
    at = inputs_of(log, study, AT)[0]
    author = log.forge.said(at, MaskedInput).author
    [before] = [
        log.forge.said(one, MaskedInput)
        for one in inputs_of(log, study, AT - 1)
        if log.forge.said(one, MaskedInput).author == author
    ]
    same = {"ledger": before.ledger, "ledger_count": before.ledger_count}
    assert refusal(log.forge.until(at + 1).changed(at, **same)) == "unpaid-noise"


def test_the_vector_of_a_question_that_a_sum_left_as_it_was_stays_the_same() -> None:
    """A published sum that moved nothing asks the same again: other noise is refused."""
    header = MaskedInput(
        charter="1" * 64,
        author="aare",
        context="2" * 64,
        length=1,
        root="3" * 64,
        blob="4" * 64,
        noise="5" * 64,
        ledger=LedgerMark(ledger="6" * 64, head="7" * 64),
        ledger_count=3,
    )
    question = Digest("8" * 64)
    shown = with_noise_shown({}, header, question, noised=True)
    kept = last_shown(shown)
    assert with_noise_shown(kept, header, question, noised=True) == kept
    other = replace(header, noise="9" * 64, ledger_count=4)
    with pytest.raises(VerificationError) as caught:
        with_noise_shown(kept, other, question, noised=True)
    assert caught.value.code == "noise-changed"


# --- the same vector again --------------------------------------------------------------------


def test_one_vector_is_charged_once_whoever_is_asked_with_it(tmp_path: Path) -> None:
    """A coordinator that asks of ever other members, and opens nothing, spends no budget so."""
    traitor = PrivateTraitor(tmp_path / "federation")
    first = peek(traitor.inputs[VICTIM])[1]
    assert isinstance(first, MaskedInput)
    before = traitor.ledger()
    [answer] = masked(traitor.show(VICTIM, traitor.again(participants=(VICTIM, OTHER, THIRD))))
    assert answer.noise == first.noise and answer.root != first.root
    assert traitor.ledger().slots == before.slots and len(before.slots) == 1
    assert traitor.ledger().spend == before.spend
    assert set(traitor.ledger().plans) == set(before.plans)


@pytest.mark.parametrize("asked", [SITES, SITES[:3]])
def test_a_vector_that_is_gone_is_not_drawn_again(
    asked: Sequence[MemberId], tmp_path: Path
) -> None:
    """It was sent under this release: another one would be a second answer. Nothing is charged."""
    traitor = PrivateTraitor(tmp_path / "federation")
    traitor.node(VICTIM)._store.commit(Batch(puts=((PREMASK_KEY, b""),), label="test"))
    before = traitor.ledger()
    answers = traitor.show(VICTIM, traitor.again(participants=tuple(asked)))
    [declined] = [body for _, body in map(peek, answers) if isinstance(body, InputDeclined)]
    assert declined.code is DeclineCode.SITE_DECLINED
    assert not masked(answers) and traitor.ledger() == before
    assert '"declined.vector-differs"' in traitor.federation.journal_of(VICTIM)


# --- an epoch that ends before the answer -----------------------------------------------------


def cut_off_once(federation: Federation, index: int) -> Callable[[], None]:
    """Return a hook: once all have sent their inputs of a query nobody is heard till it is over."""
    severed: list[MemberId] = []

    def hook() -> None:
        study = federation.coordinator.state.running
        if study is None:
            return
        record = study.round
        complete = record is not None and len(record.inputs) == len(SITES)
        if complete and not severed and study.progress.index == index:
            severed.extend(SITES)
            for name in severed:
                federation.network.sever(name)
        elif severed and record is None:
            for name in severed:
                federation.network.heal(name)

    return hook


def test_a_question_whose_epoch_ended_unanswered_is_released_anew(tmp_path: Path) -> None:
    """Its survivors were named, nobody answered in the log: counted, and asked with fresh noise."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    hook = cut_off_once(federation, AT)
    study = federation.run_study(few_slots(federation), private_contract(), hook)
    assert study.phase is Phase.COMPLETED
    asked = [one for one in study.rounds if one.round == AT]
    assert [one.phase for one in asked] == [RoundPhase.ABANDONED, RoundPhase.PUBLISHED]
    assert asked[0].members_in == SITES and not asked[0].confirmed and not asked[0].reveals
    assert asked[0].epoch_hash != asked[1].epoch_hash
    assert [one.question for one in asked] == list(releases_of(asked[0].question)[:2])
    assert happened_in(study)[:3] == (1, ROUNDS, 1)
    for name in SITES:
        state = keeper(federation, name).state
        assert len(state.slots) == 1 + ROUNDS + 1
        assert not any(account.is_open for account in state.plans.values())


def test_the_release_in_place_of_one_that_nobody_could_open_is_the_planned_one(
    tmp_path: Path,
) -> None:
    """Two inputs are no sum. Every site has drawn noise for it all the same, and pays twice."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    late = SITES[2:]

    def hook() -> None:
        study = federation.coordinator.state.running
        if study is not None and study.progress.index == AT:
            again = study.rounds[-1].round == AT
            for name in late:
                (federation.network.heal if again else federation.network.sever)(name)

    study = federation.run_study(few_slots(federation), private_contract(), hook)
    assert study.phase is Phase.COMPLETED
    asked = [one for one in study.rounds if one.round == AT]
    assert asked[0].inputs == SITES[:2] and not asked[0].members_in
    assert [one.question for one in asked] == list(releases_of(asked[0].question)[:2])
    assert happened_in(study)[:3] == (1, ROUNDS, 0)
    for name in SITES:
        assert len(keeper(federation, name).state.slots) == 1 + ROUNDS + 1


def test_a_statistics_sum_whose_epoch_ended_is_released_anew(tmp_path: Path) -> None:
    """It costs as much once more, and the line on the log says that the promise was passed."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    hook = cut_off_once(federation, 0)
    plan = few_slots(federation, Privacy(one_round=True, epsilon=1.0), slots=1)
    study = federation.run_study(plan, private_contract(), hook)
    assert study.phase is Phase.COMPLETED and study.fresh == 1
    statement = study_privacy(study)
    assert statement is not None
    for name in SITES:
        state = keeper(federation, name).state
        assert len(state.slots) == 2 and 1.0 < state.epsilon(TRAINING) <= 3.0
    assert statement.happened.fresh == 1
    assert "more than the 1.000 that the plan promised" in happened_line(statement)


# --- a process that ends ----------------------------------------------------------------------


class _EndsAt(MemoryLedger):
    """The victim's ledger; its process ends at a charge, before or `after` that is durable."""

    def __init__(self, entries: Sequence[bytes], last: int, *, after: bool) -> None:
        super().__init__(list(entries))
        self._left = last
        self._after = after

    def append(self, count: int, records: Sequence[bytes], label: str = "ledger") -> None:
        self._left -= label == "ledger-charge"
        ends = label == "ledger-charge" and self._left == 0
        if self._after or not ends:
            super().append(count, records, label)
        if ends:
            raise CutOff(VICTIM)


def ending_at(directory: Path, charge: int, *, after: bool) -> RestartableFederation:
    """Return a federation whose victim's process ends at that charge and is started anew."""
    write_federation(
        directory,
        site_figures=False,
        epsilon_budget_milli=3000,
        delta="1e-5",
        max_sites_per_person=2,
    )
    federation = RestartableFederation(directory)
    federation.establish()
    entries = federation._ledger(VICTIM).read()
    federation._ledgers[VICTIM] = _EndsAt(entries, charge, after=after)
    federation.reopen(VICTIM)
    return federation


def test_a_vector_that_was_lost_between_its_charge_and_the_store_is_not_free(
    tmp_path: Path,
) -> None:
    """The noise drawn in its place is paid for too, so that the plan's last sum goes without."""
    federation = ending_at(tmp_path, AT, after=True)
    study = federation.run_study(private_plan(federation), private_contract())
    assert study.phase is Phase.COMPLETED and federation.ended == [VICTIM]
    noises = {
        body.noise
        for _, body in map(peek, federation.coordinator.entries)
        if isinstance(body, MaskedInput) and body.author == VICTIM and body.noise is not None
    }
    paid = charges(federation)
    assert len({one.payload for one in paid}) == len(paid) == len(noises) + 1 == 1 + ROUNDS
    assert len({one.query for one in paid}) == ROUNDS
    assert '"declined.not-reserved"' in federation.journal_of(VICTIM)


def charges(federation: Federation) -> list[Charged]:
    """Return the charges in the victim's ledger."""
    found = [decode(one, Entry).action for one in federation._ledger(VICTIM).read()]
    return [one for one in found if isinstance(one, Charged)]


def test_what_was_reserved_for_a_release_that_was_not_charged_is_given_back(tmp_path: Path) -> None:
    """The process ends between the two and comes back when the study is over."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    # Charges: the count, two sums, and the second release of the latter.
    entries = federation._ledger(VICTIM).read()
    federation._ledgers[VICTIM] = _EndsAt(entries, AT + 2, after=False)
    started_anew(federation)
    plan, hook = few_slots(federation), cut_off_once(federation, AT)
    with pytest.raises(CutOff):
        federation.run_study(plan, private_contract(), hook)
    state = keeper(federation).state
    [own] = [key for key, one in state.plans.items() if one.is_open and key[0] != plan_digest(plan)]
    federation.network.sever(VICTIM)
    study = federation.run_study(plan, private_contract(), hook)
    assert study.phase is Phase.COMPLETED
    federation.network.heal(VICTIM)
    started_anew(federation)
    federation.settle()
    state = keeper(federation).state
    assert own in state.plans and not any(one.is_open for one in state.plans.values())
    assert len(state.slots) == 1 + AT


def started_anew(federation: Federation) -> None:
    """Start the victim's process anew, with its ledger and without its store."""
    federation.participants[VICTIM] = federation._open_participant(VICTIM)
    federation.participants[VICTIM].start()
