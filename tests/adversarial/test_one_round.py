"""T-43, T-44: one noised sum of statistics, through real nodes, to a bundle that anyone checks.

Planted and caught: statistics without noise; a model of the exact rows; the count asked first; the
sum charged to the envelope of counts; the bundle's statement of another kind of training.
"""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.adversarial.test_hostile_spending import keeper
from tests.forgery import Genuine, genuine_of
from tests.private_federation import found_private, private_contract, private_plan
from tests.small_federation import SITES, SmallFederation
from treaty.aggregation.quantization import decode_sum, ring_vector
from treaty.governance.exposure import Artefact, Form
from treaty.models.specification import GRADIENT, HESSIAN
from treaty.node.contribution import LocalStudy
from treaty.node.noising import clipped_statistics
from treaty.privacy.distributed import persons_in_order
from treaty.privacy.ledger_entries import TRAINING
from treaty.protocol.statements import holds_something, peek, registered
from treaty.protocol.study import Phase, Study
from treaty.provenance.privacy import study_privacy
from treaty.provenance.verify import Status, verify_bundle
from treaty.reports.summary import report_data
from treaty.studies.calibrating import Privacy
from treaty.studies.noise import noise_terms
from treaty.studies.progress import begin
from treaty.studies.queries import QueryKind

Run = tuple[SmallFederation, Genuine, Study, dict[str, LocalStudy]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One study of one noised sum, released."""
    federation = found_private(tmp_path_factory.mktemp("once"), in_memory=True, capture=False)
    plan = private_plan(federation, Privacy(one_round=True))
    study = federation.run_study(plan, private_contract())
    assert study.phase is Phase.COMPLETED
    locals_ = {name: federation.participants[name].local_study(study) for name in SITES}
    federation.release(study)
    state = federation.coordinator.state.studies[study.identity]
    return federation, genuine_of(federation), state, locals_


def opened(study: Study, genuine: Genuine) -> dict[str, np.ndarray]:
    query = begin(study.plan, study.contract, members=4, least_support=3).expected_query()
    assert query.kind is QueryKind.SUFFICIENT and study.rounds[0].query == query.digest
    digest = study.rounds[0].sum
    assert digest is not None
    total = ring_vector(genuine.forge.find(digest), query.layout.ring_bits, query.layout.length)
    return dict(decode_sum(total, query.layout))


def test_two_sums_are_opened_and_only_the_holdouts_is_exact(run: Run) -> None:
    _, genuine, study, _ = run
    assert len(study.rounds) == 2
    assert {name.partition(".")[0] for name in opened(study, genuine)} == {
        GRADIENT,
        HESSIAN,
        "rows",
        "contributors",
    }
    for entry in genuine.forge.entries:
        body = peek(entry)[1]
        for name, (artefact, form) in registered(type(body)).classes.items():
            if holds_something(body, name) and artefact is Artefact.GRADIENT_HESSIAN_SUM:
                assert form is not Form.EXACT, name


def test_the_sum_is_that_of_the_clipped_rows_plus_four_shares_of_noise(run: Run) -> None:
    """Twenty words: chi-squared, outside 3 .. 60 with a probability below 1e-5 on either side."""
    _, genuine, study, sites = run
    sums = opened(study, genuine)
    progress = begin(study.plan, study.contract, members=4, least_support=3)
    exact = np.zeros(20)
    for local in sites.values():
        training = local.data.training
        order, person = persons_in_order(training.persons)

        def parts(rows: np.ndarray, local: LocalStudy = local) -> object:
            task = local._task(progress, progress.model, bytes(32))
            chosen = type(task)(
                task.specification, task.model, task.features[rows], task.label[rows], bytes(32)
            )
            return local.trainer.layers(chosen)

        exact += clipped_statistics(study.plan, progress.model.manifest, parts, order, person)  # type: ignore[arg-type]  # the test's own look inside
    gap = np.concatenate([sums[GRADIENT], sums[HESSIAN]]).astype(float) - exact
    assert (gap != 0).all()
    share = math.ceil(int(noise_terms(study.plan).variance, 16) / 2)
    assert 3.0 < float((gap**2).sum()) / (4 * share) < 60.0


def test_the_model_follows_from_the_opened_sum_alone(run: Run) -> None:
    """By another route: normal equations with a general solver."""
    _, genuine, study, _ = run
    sums, terms = opened(study, genuine), noise_terms(study.plan)
    step = terms.clip_micro / 1e6 / 2.0**terms.grid_bits
    matrix = np.zeros((5, 5))
    first, second = np.triu_indices(5)
    words = sums[HESSIAN].astype(float) * step
    matrix[first, second] = np.where(first == second, words, words / math.sqrt(2.0))
    matrix[second, first] = matrix[first, second]
    deviation = math.sqrt(2 * int(terms.variance, 16)) * step
    matrix = matrix / 4 + np.diag([1.0] * 4 + [0.0])
    reach = 1.5 * math.sqrt(5.0) * deviation / 4
    while np.linalg.eigvalsh(matrix + reach * np.eye(5)).min() <= 0:
        reach *= 2
    wanted = np.linalg.solve(matrix + reach * np.eye(5), sums[GRADIENT] * step / 2)
    assert study.progress.model.flat() == pytest.approx(wanted, abs=1e-9)
    assert study.final_model == study.progress.model_digest


def test_every_site_is_charged_for_one_release(run: Run) -> None:
    federation, _, study, _ = run
    for name in federation.members:
        state = keeper(federation, name).state
        assert len(state.slots) == 1
        [account] = [
            account
            for (plan, _, envelope), account in state.plans.items()
            if plan == study.identity
        ]
        assert not account.is_open
        assert [envelope for plan, _, envelope in state.plans if plan == study.identity] == [
            "training"
        ]
        assert 0.99 < state.epsilon(TRAINING) <= 1.0


def test_the_verdict_counts_the_one_sum(run: Run) -> None:
    _, genuine, study, _ = run
    verdict = verify_bundle(genuine.files, genuine.forge.anchor)
    said = {one.name: one for one in verdict.record.guarantees}
    assert said["privacy-training"].statement.startswith("training: epsilon 1.000 at delta")
    assert said["privacy-log"].status is Status.PROVED
    assert said["privacy-log"].statement.startswith(
        "in the log: 1 of 1 noised sums of statistics, each with noise of at least 4 of 4 members"
    )
    statement = study_privacy(study)
    assert statement is not None
    happened = statement.happened
    assert (happened.counts, happened.gradients, happened.planned_gradients) == (0, 1, 1)
    assert happened.epsilon_micro is not None and happened.epsilon_micro <= 1_000_000
    shown = report_data(verdict, genuine.files)
    assert "from one noised sum of statistics over everybody" in shown.model
    assert shown.noised


def test_a_member_lost_before_its_answer_leaves_a_sum_of_three(tmp_path: Path) -> None:
    federation = found_private(tmp_path, in_memory=True, capture=False)

    def lose_one() -> None:
        study = federation.coordinator.state.running
        if study is not None and not study.rounds:
            federation.network.sever(SITES[-1])

    plan = private_plan(federation, Privacy(one_round=True))
    study = federation.run_study(plan, private_contract(), lose_one)
    assert study.phase is Phase.COMPLETED
    assert [len(one.members_in) for one in study.rounds] == [3, 3]
    statement = study_privacy(study)
    assert statement is not None and statement.happened.fewest_shares == 3
