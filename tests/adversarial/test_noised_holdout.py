"""T-43, T-45, T-46: the evaluation under noise of its own, through real nodes, to a bundle.

Planted and caught: the histogram without noise, or with the noise of the training sums; charged to
the training partition; not reserved; rows in place of persons; all rows one person; its claim or
its budget not looked at; a certificate that calls it exact; a verdict without it, one that counts
it among training sums, or adds both partitions; the kind taken for an exact one; a threshold inside
a bin.
"""

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.adversarial.test_fresh_releases import lose_two
from tests.adversarial.test_hostile_spending import VICTIM, keeper
from tests.chance import assert_within
from tests.forgery import Genuine, genuine_of
from tests.private_federation import ROUNDS, found_private, private_contract, private_plan
from tests.small_federation import SITES, SmallFederation
from treaty.aggregation.quantization import decode_sum, ring_vector
from treaty.errors import PolicyError, UsageError
from treaty.evaluation.metrics import figures_from_sums, local_cells, local_sums
from treaty.governance.exposure import Artefact, Form
from treaty.ids import MemberId
from treaty.node.noising import counted_cells
from treaty.node.spending import partition_of
from treaty.privacy.certificate import Cohort
from treaty.privacy.ledger_entries import HOLDOUT, TRAINING
from treaty.privacy.terms import HOLDOUT_CLIP, NoisedHoldout, check_holdout_claim, holdout_sum
from treaty.protocol.messages import HaltCode
from treaty.protocol.secagg_messages import MaskedInput
from treaty.protocol.statements import peek
from treaty.protocol.study import Phase, Study
from treaty.provenance.privacy import log_privacy, study_privacy
from treaty.provenance.verify import Status, verify_bundle
from treaty.reports.summary import report_data, report_html
from treaty.studies.calibrating import Privacy
from treaty.studies.lint import lint_plan
from treaty.studies.noise import noise_terms
from treaty.studies.plan import EvaluationSettings, Plan
from treaty.studies.queries import QueryKind, make_query

ASKED = Privacy(rounds=ROUNDS, holdout_epsilon=0.9)
Run = tuple[SmallFederation, Genuine, Study]


def noised_plan(federation: SmallFederation, asked: Privacy = ASKED, **changes: object) -> Plan:
    return private_plan(federation, asked, **changes)


def terms_of(plan: Plan) -> NoisedHoldout:
    found = noise_terms(plan).holdout
    assert isinstance(found, NoisedHoldout)
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made(tmp_path_factory.mktemp("holdout"))


def made(place: Path) -> Run:
    federation = found_private(place, in_memory=True, capture=False)
    study = federation.run_study(noised_plan(federation), private_contract())
    federation.release(study)
    return federation, genuine_of(federation), study


def opened(run: Run) -> np.ndarray:
    """Return the cells of the published histogram, negative before positive."""
    _, genuine, study = run
    query = make_query(
        study.plan,
        study.contract,
        QueryKind.SCORES,
        study.rounds[-1].round,
        members=4,
        model=study.progress.model_digest,
        normaliser=study.progress.normaliser_digest,
    )
    digest = study.rounds[-1].sum
    assert digest is not None and study.rounds[-1].query == query.digest
    sums = decode_sum(
        ring_vector(genuine.forge.find(digest), 64, query.layout.length), query.layout
    )
    assert set(sums) == {"federated.negative", "federated.positive", "rows", "contributors"}
    assert int(sums["rows"][0]) == 0, "no exact count of persons beside the noised ones"
    return np.concatenate([sums["federated.negative"], sums["federated.positive"]])


# --- what leaves ------------------------------------------------------------------------------


def test_no_sum_of_the_study_is_exact(run: Run) -> None:
    _, genuine, study = run
    inputs = [body for _, body in map(peek, genuine.forge.entries) if isinstance(body, MaskedInput)]
    assert len(inputs) == 4 * (1 + ROUNDS + 1)
    assert all(one.noise is not None and one.ledger is not None for one in inputs)
    assert len({one.noise for one in inputs}) == len(inputs)
    assert study.phase is Phase.COMPLETED


def test_the_histogram_is_that_of_the_persons_plus_four_shares_of_noise(
    run: Run, tmp_path: Path
) -> None:
    """Sixteen cells: chi-squared, outside 3 .. 45 with a probability of 3e-4, twice with 1e-7."""
    assert_within(3.0, 45.0, squares_of(run), lambda: squares_of(made(tmp_path)))


def squares_of(run: Run) -> float:
    """Return the sum of squares of what the histogram differs by, over its variance."""
    federation, _, study = run
    exact = np.zeros(16)
    for name in SITES:
        local = federation.local_study(name, study)
        held = local.data.holdout
        cells = local_cells(local.federated_scores(study.progress), held.label, 8)
        exact += np.bincount(cells, minlength=16)
    asked = holdout_sum(noise_terms(study.plan), Cohort(4, 3, 1))
    assert asked is not None
    gap = opened(run) / HOLDOUT_CLIP.units - exact
    share = asked.share_variance / HOLDOUT_CLIP.units**2
    assert abs(gap).max() > 0.1
    return float(np.square(gap).sum()) / (4 * share)


def test_a_site_counts_its_persons_and_adds_the_holdouts_own_noise(run: Run) -> None:
    """With next to no noise in the plan's holdout, and all of it in training: the counts."""
    federation, _, study = run
    local = federation.local_study(MemberId(SITES[0]), study)
    plan = altered(study.plan, variance=f"{1 << 22:x}")
    query = make_query(
        plan,
        study.contract,
        QueryKind.SCORES,
        1 + ROUNDS,
        members=4,
        model=study.progress.model_digest,
        normaliser=study.progress.normaliser_digest,
    )
    quiet = dataclasses.replace(local, plan=plan)
    answer = quiet.answer(query, study.progress, bytes(32), Cohort(4, 3, 1))
    sums = decode_sum(answer.vector, query.layout)
    found = np.concatenate([sums["federated.negative"], sums["federated.positive"]])
    held = local.data.holdout
    cells = local_cells(local.federated_scores(study.progress), held.label, 8)
    exact = np.bincount(cells, minlength=16)
    assert held.rows > 10 and len(set(held.persons)) == held.rows
    assert found / HOLDOUT_CLIP.units == pytest.approx(exact, abs=0.01)
    assert answer.noise is not None and answer.keys is not None and not answer.keys.surplus


def test_the_figures_come_with_errors_that_reach_the_exact_ones(run: Run) -> None:
    federation, _, study = run
    scores, labels = [], []
    for name in SITES:
        local = federation.local_study(name, study)
        scores.append(local.federated_scores(study.progress))
        labels.append(local.data.holdout.label)
    exact = figures_from_sums(local_sums(np.concatenate(scores), np.concatenate(labels), bins=8))
    outcome = study.progress.evaluation
    assert outcome is not None and outcome.verdict == "not-compared" and not outcome.calibration
    found = outcome.federated
    assert not isinstance(found.noised, msgspec.UnsetType)
    # Five deviations: by chance once in a million runs.
    assert abs(found.rows - exact.rows) < 5 * found.noised.rows
    assert abs(found.accuracy - exact.accuracy) < 5 * found.noised.accuracy
    assert found.accuracy != exact.accuracy
    if found.auc is not None and exact.auc is not None:
        assert found.auc_error is not None and abs(found.auc - exact.auc) < 5 * found.auc_error


# --- who pays, and what is said ---------------------------------------------------------------


def test_the_holdout_pays_for_it_and_nothing_is_named_as_exact(run: Run) -> None:
    federation, _, study = run
    for name in SITES:
        state = keeper(federation, MemberId(name)).state
        charged = {(partition, question) for _, partition, question, _, _ in state.slots}
        assert [partition for partition, _ in sorted(charged)].count(HOLDOUT) == 1
        assert (HOLDOUT, study.rounds[-1].question) in charged
        assert 0.89 < state.epsilon(HOLDOUT) <= 0.9
        assert 0.99 < state.epsilon(TRAINING) <= 1.0
        assert not state.disclosed
        assert not any(account.is_open for account in state.plans.values())


def test_certificate_verdict_and_report_state_its_epsilon(run: Run) -> None:
    federation, genuine, study = run
    statement = study_privacy(study)
    assert statement is not None
    training, holdout = statement.certificates
    assert not holdout.non_private and holdout.partition == HOLDOUT
    assert holdout.lines[0].add_remove_micro is not None
    assert 890_000 < holdout.lines[0].add_remove_micro <= 900_000
    assert training.lines[0].add_remove_micro != holdout.lines[0].add_remove_micro
    assert statement.accepted.startswith("evaluation-histogram as noised over at least 3")
    happened = statement.happened
    assert (happened.gradients, happened.counts, happened.fresh) == (ROUNDS, 1, 0)
    assert not isinstance(happened.holdout, msgspec.UnsetType)
    assert (happened.holdout.sums, happened.holdout.fewest_shares) == (1, 4)
    # The larger of both: nobody is in both partitions.
    spent = log_privacy(federation.coordinator.state).epsilon_micro
    assert spent == max(happened.epsilon_micro or 0, happened.holdout.epsilon_micro or 0)
    verdict = verify_bundle(genuine.files, genuine.forge.anchor)
    said = {one.name: one for one in verdict.record.guarantees}
    assert said["privacy-holdout"].statement.startswith("holdout: epsilon 0.900 at delta 1/")
    assert said["privacy-holdout"].status is Status.ATTESTED
    assert said["privacy-holdout-log"].status is Status.PROVED
    assert "1 noised histogram, each with noise of at least 4 of 4" in (
        said["privacy-holdout-log"].statement
    )
    assert not any("not differentially private" in one.statement for one in said.values())
    shown = report_data(verdict, genuine.files)
    assert [one.epsilon for one in shown.privacy] == ["1.000", "0.900"]
    page = report_html(verdict, genuine.files)
    assert "counts are estimates, and margins hold the noise" in page


def test_an_exact_holdout_is_said_as_before(tmp_path: Path) -> None:
    federation = found_private(tmp_path, in_memory=True, capture=False)
    study = federation.run_study(
        private_plan(federation, Privacy(one_round=True)), private_contract()
    )
    statement = study_privacy(study)
    assert statement is not None
    assert statement.certificates[1].non_private == ("evaluation-histogram",)
    assert isinstance(statement.happened.holdout, msgspec.UnsetType)
    assert b'"holdout":{' not in msgspec.json.encode(statement.happened)
    assert {name for _, _, name in keeper(federation).state.disclosed} == {"evaluation-histogram"}


def test_one_round_and_a_noised_holdout_leave_two_noised_sums(tmp_path: Path) -> None:
    federation = found_private(tmp_path, in_memory=True, capture=False)
    plan = noised_plan(federation, Privacy(one_round=True, holdout_epsilon=1.0))
    study = federation.run_study(plan, private_contract())
    assert study.phase is Phase.COMPLETED and len(study.rounds) == 2
    state = keeper(federation).state
    assert len(state.slots) == 2 and not state.disclosed
    assert 0.99 < state.epsilon(HOLDOUT) <= 1.0


# --- more than the holdout's budget -----------------------------------------------------------


def test_a_second_histogram_over_the_cap_gets_no_key_of_a_site(run: Run, tmp_path: Path) -> None:
    federation = found_private(tmp_path, in_memory=True, capture=False)
    first = federation.run_study(noised_plan(federation), private_contract())
    assert first.phase is Phase.COMPLETED
    before = keeper(federation).state
    again = noised_plan(
        federation, Privacy(epsilon=0.3, rounds=1, holdout_epsilon=0.9), study="second"
    )
    study = federation.run_study(again, private_contract())
    assert study.halt_code is HaltCode.TOO_FEW_MEMBERS and not study.rounds
    assert keeper(federation).state == before
    assert '"refused.budget"' in federation.journal_of(VICTIM)


def test_a_histogram_lost_between_input_and_answer_is_released_anew(tmp_path: Path) -> None:
    """Over who is there, with fresh noise that the holdout pays for."""
    federation = found_private(tmp_path, in_memory=True, capture=False)
    plan = noised_plan(federation, Privacy(rounds=1, holdout_epsilon=0.4))
    # The histogram is query 2, at which the hook loses two members.
    study = federation.run_study(plan, private_contract(), lose_two(federation))
    assert study.phase is Phase.COMPLETED and study.fresh == 1
    statement = study_privacy(study)
    assert statement is not None and not isinstance(statement.happened.holdout, msgspec.UnsetType)
    assert (statement.happened.fresh, statement.happened.holdout.sums) == (0, 2)
    assert statement.happened.holdout.fewest_shares == 3
    state = keeper(federation).state
    assert 0.4 < state.epsilon(HOLDOUT) <= 1.0
    assert not any(account.is_open for account in state.plans.values())


# --- plans that promise more than they give ---------------------------------------------------


def altered(plan: Plan, **changes: object) -> Plan:
    terms = noise_terms(plan)
    holdout = msgspec.structs.replace(terms_of(plan), **changes)
    return msgspec.structs.replace(plan, privacy=msgspec.structs.replace(terms, holdout=holdout))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"variance": "1000000000000"}, "epsilon-claim"),
        ({"epsilon_milli": 899}, "epsilon-claim"),
        ({"epsilon_milli": 3001}, "privacy-budget"),
        ({"variance": "1"}, "noise-range"),
    ],
)
def test_a_holdout_that_promises_more_than_it_gives_is_found(
    changes: dict[str, object], code: str, run: Run
) -> None:
    federation, _, study = run
    found = lint_plan(altered(study.plan, **changes), private_contract(), federation.charter)
    assert code in [one.code for one in found]


def test_a_threshold_that_the_histogram_cannot_tell_is_found(run: Run) -> None:
    federation, _, study = run
    settings_ = EvaluationSettings(bins=8, threshold_permille=450)
    plan = msgspec.structs.replace(study.plan, evaluation=settings_)
    assert [one.code for one in lint_plan(plan, private_contract(), federation.charter)] == [
        "threshold-edge"
    ]
    assert not lint_plan(study.plan, private_contract(), federation.charter)


def test_the_charter_must_have_a_row_for_the_noised_form(run: Run) -> None:
    federation, _, study = run
    charter = federation.charter
    rules = tuple(
        rule
        for rule in charter.exposure
        if (rule.artefact, rule.form) != (Artefact.EVALUATION_HISTOGRAM, Form.NOISED)
    )
    assert len(rules) == len(charter.exposure) - 1
    without = msgspec.structs.replace(charter, exposure=rules)
    found = [one.code for one in lint_plan(study.plan, private_contract(), without)]
    assert "exposure" in found


def test_what_cannot_be_asked_is_one_clear_refusal() -> None:
    with pytest.raises(UsageError, match="positive holdout_epsilon"):
        Privacy(holdout_epsilon=0.0)
    with pytest.raises(UsageError, match="positive holdout_epsilon"):
        Privacy(holdout_epsilon=float("nan"))


def test_a_noise_that_no_sampler_draws_is_a_refusal_of_policy(run: Run) -> None:
    terms = noise_terms(altered(run[2].plan, variance="f" * 30))
    with pytest.raises(PolicyError) as caught:
        check_holdout_claim(terms, Cohort(4, 3, 1))
    assert caught.value.code == "noise-range"


# --- one person is one ------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 4)), min_size=1, max_size=30),
    st.integers(0, 4),
)
def test_a_person_moves_the_histogram_by_at_most_one(
    rows: list[tuple[int, int]], gone: int
) -> None:
    """Whatever cells its rows are in, and however many they are."""

    def counted(chosen: list[tuple[int, int]]) -> np.ndarray:
        cells = np.array([cell for cell, _ in chosen], dtype=np.int64)
        return counted_cells(cells, [f"p{person}" for _, person in chosen], 8)

    whole = counted(rows)
    less = counted([one for one in rows if one[1] != gone])
    moved = sum(int(value) ** 2 for value in whole - less)
    assert moved <= HOLDOUT_CLIP.units**2
    persons = len({person for _, person in rows})
    assert abs(int(whole.sum()) - persons * HOLDOUT_CLIP.units) <= 64 * persons


def test_a_noised_histogram_is_of_the_holdout_alone() -> None:
    assert partition_of(QueryKind.SCORES) == HOLDOUT
    assert {partition_of(kind) for kind in (QueryKind.COUNT, QueryKind.DESCENT)} == {TRAINING}
    assert not QueryKind.SCORES.over_training_rows and QueryKind.SCORES.form is Form.NOISED
