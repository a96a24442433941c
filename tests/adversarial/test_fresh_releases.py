"""T-44, T-46: the same noised question over another set of members is a release of its own.

Real nodes: members lost between their input and their answer, the study goes on; a coordinator that
asks twice, to drain budgets or to take a difference.

Planted and caught: the stored vector sent in another release; another release not reserved anew;
the lost member asked again and again; the fold's comparisons of noise and of ledgers left out;
releases without a most; a lock over all releases; sums without an answer in the log not counted;
the second release counted as the first; an earlier release asked again.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.adversarial.test_hostile_spending import keeper
from tests.forgery import Forge, Genuine, genuine_of
from tests.private_federation import ROUNDS, found_private, private_contract, private_plan
from tests.small_federation import SITES, SmallFederation
from treaty.crypto.canonical import sha256
from treaty.errors import FormatError, VerificationError
from treaty.ids import Digest, MemberId
from treaty.privacy.ledger_entries import TRAINING
from treaty.protocol.closed_round import ClosedRound
from treaty.protocol.messages import HaltCode
from treaty.protocol.releases import MAX_FRESH, asked_as, releases_of
from treaty.protocol.secagg_keys import context_of
from treaty.protocol.secagg_messages import MaskedInput, RoundOpened, Survivor, SurvivorsSealed
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase, Study
from treaty.provenance.privacy import log_privacy, study_privacy
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR
from treaty.studies.calibrating import Privacy

LOST, BACK = SITES[3], SITES[2]
AT = 2
"""The query at which two members are lost between input and answer."""


def lose_two(federation: SmallFederation) -> Callable[[], None]:
    """Return a hook: two members lost once all inputs are there, one of them comes back."""
    severed: list[str] = []

    def hook() -> None:
        study = federation.coordinator.state.running
        if study is None:
            return
        index = study.progress.index
        if index == AT and study.round is not None and len(study.round.inputs) == 4 and not severed:
            severed.extend((LOST, BACK))
            for name in severed:
                federation.network.sever(name)
        elif (
            severed
            and index == AT
            and any(one.round == AT and one.phase is RoundPhase.ABANDONED for one in study.rounds)
        ):
            federation.network.heal(BACK)
        elif severed and index > AT:
            federation.network.heal(LOST)

    return hook


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[SmallFederation, Study]:
    federation = found_private(tmp_path_factory.mktemp("fresh"), in_memory=True, capture=False)
    study = federation.run_study(private_plan(federation), private_contract(), lose_two(federation))
    return federation, study


def sent(federation: SmallFederation, study: Study) -> list[dict[str, MaskedInput]]:
    """Return the headers of every round of the question at `AT`, by member."""
    contexts = [one.context for one in study.rounds if one.round == AT]
    found: dict[str, dict[str, MaskedInput]] = {context: {} for context in contexts}
    for entry in federation.coordinator.entries:
        body = peek(entry)[1]
        if isinstance(body, MaskedInput) and body.context in found:
            found[body.context][body.author] = body
    return list(found.values())


def test_the_study_goes_on_without_the_lost_member(run: tuple[SmallFederation, Study]) -> None:
    _, study = run
    assert study.phase is Phase.COMPLETED and study.fresh == 1
    asked = [one for one in study.rounds if one.round == AT]
    assert [one.phase.value for one in asked] == ["abandoned", "abandoned", "published"]
    assert asked[0].reveals and set(asked[0].members_in) == set(SITES)
    assert asked[2].members_in == tuple(name for name in SITES if name != LOST)
    planned = asked[0].question
    assert [one.question for one in asked] == [planned, planned, releases_of(planned)[1]]
    # The lost member is asked again for what follows.
    assert all(LOST in one.members_in for one in study.rounds if one.round > AT)


def test_a_release_has_noise_of_its_own_and_one_attempt_more_the_same(
    run: tuple[SmallFederation, Study],
) -> None:
    first, second, third = sent(*run)
    assert set(first) == set(SITES) and set(second) == set(third) == set(SITES) - {LOST}
    for name in set(SITES) - {LOST}:
        assert first[name].noise == second[name].noise != third[name].noise
        counts = [one[name].ledger_count for one in (first, third)]
        assert None not in counts and counts[0] < counts[1]  # type: ignore[operator]  # as asserted


def test_every_ledger_holds_what_its_site_released(run: tuple[SmallFederation, Study]) -> None:
    """Who was in both releases has paid for both; the lost member for one."""
    federation, study = run
    for name in SITES:
        state = keeper(federation, MemberId(name)).state
        again = name != LOST
        assert len(state.slots) == 1 + ROUNDS + again
        beyond = {slot[0] for slot in state.slots} - {study.identity}
        assert len(beyond) == again
        assert (state.epsilon(TRAINING) > 1.0) is again
        assert not any(account.is_open for account in state.plans.values())
        releases = {slot[2] for slot in state.slots}
        assert (releases_of(planned_question(study))[1] in releases) is again


def planned_question(study: Study) -> str:
    return next(one.question for one in study.rounds if one.round == AT)


def test_certificate_and_verdict_count_both_releases(run: tuple[SmallFederation, Study]) -> None:
    federation, study = run
    statement = study_privacy(study)
    assert statement is not None
    happened = statement.happened
    assert (happened.counts, happened.gradients, happened.fresh) == (1, ROUNDS, 1)
    # The release over four and that over three, each with one share known: more than was promised.
    assert happened.fewest_shares == 3 and happened.epsilon_micro is not None
    assert happened.epsilon_micro > 900_000
    verdict = verify_bundle(federation.bundle(), federation.anchor)
    said = {one.name: one.statement for one in verdict.record.guarantees}
    assert (
        f"{ROUNDS} of {ROUNDS} noised gradient sums and 1 more release with fresh noise, for other "
        "members, each with noise of at least 3 of 4 members"
    ) in said["privacy-log"]
    assert log_privacy(federation.coordinator.state).epsilon_micro == happened.epsilon_micro
    fewer = [one for one in study.rounds if one.phase is RoundPhase.PUBLISHED]
    planned = study_privacy(replace(study, rounds=tuple(fewer)))
    assert planned is not None and planned.happened.epsilon_micro is not None
    assert planned.happened.epsilon_micro < happened.epsilon_micro


def test_without_budget_for_a_second_release_every_site_declines(tmp_path: Path) -> None:
    """The plan takes all that the charter allows: nothing is left to release once more."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    plan = private_plan(federation, Privacy(epsilon=3.0, rounds=ROUNDS))
    study = federation.run_study(plan, private_contract(), lose_two(federation))
    assert study.phase is Phase.HALTED and study.halt_code is HaltCode.TOO_FEW_MEMBERS
    assert not [one for one in study.rounds if one.round == AT and one.sum is not None]
    for name in set(SITES) - {LOST}:
        state = keeper(federation, MemberId(name)).state
        assert len(state.slots) == 1 + AT and state.epsilon(TRAINING) <= 3.0
        assert "declined.budget" in federation.journal_of(MemberId(name))
    statement = study_privacy(study)
    assert statement is not None and statement.happened.fresh == 0


# --- a hostile coordinator --------------------------------------------------------------------


@pytest.fixture(scope="module")
def genuine(run: tuple[SmallFederation, Study]) -> Genuine:
    federation, study = run
    federation.release(study)
    return genuine_of(federation)


def of_release(genuine: Genuine, study: Study, place: int) -> list[int]:
    """Return where in the log the inputs of one round of the question stand."""
    context = [one.context for one in study.rounds if one.round == AT][place]
    forge = genuine.forge
    return [
        at for at in forge.places(MaskedInput) if forge.said(at, MaskedInput).context == context
    ]


def code_of(forge: Forge) -> str:
    with pytest.raises((VerificationError, FormatError)) as caught:
        verify_bundle(forge.bundle(), forge.anchor)
    return getattr(caught.value, "code", "format")


def test_the_noise_of_one_release_is_refused_in_another(
    run: tuple[SmallFederation, Study], genuine: Genuine
) -> None:
    """Two sums with one noise would leave the input in the difference bare of all but one share."""
    _, study = run
    forge = genuine.forge
    old, at = of_release(genuine, study, 0)[0], of_release(genuine, study, 2)[0]
    before, after = forge.said(old, MaskedInput), forge.said(at, MaskedInput)
    assert before.author == after.author
    assert code_of(forge.until(at + 1).changed(at, noise=before.noise)) == "noise-reused"


def test_other_noise_in_one_release_is_refused(
    run: tuple[SmallFederation, Study], genuine: Genuine
) -> None:
    _, study = run
    at = of_release(genuine, study, 1)[0]
    forge = genuine.forge.until(at + 1).changed(at, noise="1" * 64)
    assert code_of(forge) == "noise-changed"


def test_fresh_noise_that_no_ledger_shows_is_refused(
    run: tuple[SmallFederation, Study], genuine: Genuine
) -> None:
    _, study = run
    forge = genuine.forge
    at = of_release(genuine, study, 2)[0]
    author = forge.said(at, MaskedInput).author
    shown = [
        forge.said(one, MaskedInput)
        for one in forge.places(MaskedInput)
        if one < at and forge.said(one, MaskedInput).author == author
    ][-1]
    same = forge.until(at + 1).changed(at, ledger=shown.ledger, ledger_count=shown.ledger_count)
    assert code_of(same) == "unpaid-noise"


def test_one_release_over_two_sets_is_refused(
    run: tuple[SmallFederation, Study], genuine: Genuine
) -> None:
    """The second attempt sealed over those who sent: their noise was answered for four."""
    _, study = run
    forge = genuine.forge
    at = of_release(genuine, study, 1)[-1]
    context = forge.said(at, MaskedInput).context
    places = of_release(genuine, study, 1)
    sealed = SurvivorsSealed(
        charter=forge.said(at, MaskedInput).charter,
        author=COORDINATOR,
        context=context,
        survivors=tuple(
            Survivor(
                member=forge.said(one, MaskedInput).author,
                header=sha256(forge.entries[one]),
                root=forge.said(one, MaskedInput).root,
            )
            for one in places
        ),
    )
    assert code_of(forge.until(at + 1).saying(sealed)) == "locked-set"


def test_answers_kept_back_are_counted(run: tuple[SmallFederation, Study]) -> None:
    """A sealed round without one answer in the log may have been opened by who kept them."""
    _, study = run
    quiet = tuple(
        one if one.round != AT else dataclasses.replace(one, reveals=(), confirmed=())
        for one in study.rounds
        if (one.round <= AT and one.sum is None) or one.round < AT
    )
    statement = study_privacy(replace(study, rounds=quiet))
    assert statement is not None
    assert (statement.happened.gradients, statement.happened.fresh) == (AT, 0)


def closed(study: Study, question: Digest, **changes: object) -> ClosedRound:
    [first, *_] = [one for one in study.rounds if one.round == AT]
    return dataclasses.replace(first, question=question, **changes)  # type: ignore[arg-type]  # fields


def test_which_release_is_asked_follows_from_the_log(run: tuple[SmallFederation, Study]) -> None:
    """The same while its members are asked in its epoch, and never an earlier one again."""
    _, study = run
    question = Digest(planned_question(study))
    names = releases_of(question)
    epoch, four, three = study.rounds[0].epoch_hash, SITES, SITES[:3]
    first = closed(study, question)
    silent = closed(study, question, inputs=(), reveals=(), members_in=())
    unanswered = closed(study, question, reveals=(), confirmed=(), members_in=())
    second = closed(study, names[1], members_in=SITES[:3], participants=SITES[:3])

    def asked(
        rounds: tuple[ClosedRound, ...], people: tuple[str, ...] = four, there: str = epoch
    ) -> int:
        answered: dict[Digest, tuple[ClosedRound, ...]] = {}
        for one in rounds:
            if one.reveals:
                answered[one.question] = (*answered.get(one.question, ()), one)
        return names.index(asked_as(question, rounds, answered, people, there))

    assert asked(()) == asked((silent,)) == asked((silent,), three, "0" * 64) == 0
    assert asked((first,)) == 0 and asked((first,), three) == 1
    assert asked((unanswered,), three) == 0, "nobody answered: the same vectors, of whom is there"
    assert asked((first,), four, "0" * 64) == asked((unanswered,), four, "0" * 64) == 1
    assert asked((first, second)) == asked((first, second), three) == 1
    assert asked((first, second), SITES[1:]) == 2
    last = closed(study, names[MAX_FRESH])
    with pytest.raises(VerificationError) as caught:
        asked((first, last), three)
    assert caught.value.code == "fresh-releases"


def test_a_study_has_few_releases_beyond_its_plan(
    run: tuple[SmallFederation, Study], genuine: Genuine
) -> None:
    """A coordinator that reports losses to drain a budget gets `MAX_FRESH` of them, in all."""
    _, study = run
    forge = genuine.forge
    context = [one.context for one in study.rounds if one.round == AT][2]
    at = next(one for one in forge.places(RoundOpened) if context_at(forge, study, one) == context)
    state = forge.state(at).studies[study.identity]
    people = forge.said(at, RoundOpened).participants
    epoch = forge.said(at, RoundOpened).epoch_hash
    assert state.asked_as(people, epoch) == releases_of(Digest(planned_question(study)))[1]
    spent = replace(state, fresh=MAX_FRESH)
    with pytest.raises(VerificationError) as caught:
        spent.asked_as(people, epoch)
    assert caught.value.code == "fresh-releases"


def context_at(forge: Forge, study: Study, at: int) -> str:
    return context_of(Digest(forge.said(at, RoundOpened).charter), forge.said(at, RoundOpened))
