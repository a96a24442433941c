"""Progress: the fold that turns published sums into a model, the same for everyone.

Planted and caught: contributors not compared with survivors; support halting one site too late;
a support above the survivors accepted; negative rows or squares accepted; statistics skipped; the
step counted one round late; training stopped one round early; the wrong scale of the sums.
"""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.worlds import (
    NAMES,
    Site,
    World,
    digest,
    newton_terms,
    refused,
    small_charter,
    small_contract,
    small_plan,
)
from treaty.aggregation.quantization import RingVector, encode
from treaty.aggregation.tensors import NamedTensors
from treaty.contracts.design import design_columns
from treaty.crypto.canonical import sha256
from treaty.errors import UsageError
from treaty.models.specification import LogisticRegression, MultilayerPerceptron
from treaty.studies.plan import Plan
from treaty.studies.progress import Stage, StudyProgress, begin
from treaty.studies.queries import NO_DIGEST, QueryKind

CHARTER, DATA = small_charter(), small_contract()
SITES = {name: Site(name) for name in NAMES[:4]}
ROWS = sum(site.rows for site in SITES.values())


def started(plan: Plan | None = None, least: int = 3) -> StudyProgress:
    made = small_plan(CHARTER, DATA) if plan is None else plan
    return begin(made, DATA, members=4, least_support=least)


def words(progress: StudyProgress, values: list[float]) -> RingVector:
    return encode(np.array(values), progress.expected_query().layout)


def absorb(progress: StudyProgress, total: RingVector, survivors: int = 4) -> StudyProgress:
    return progress.absorb(progress.expected_query(), total, survivors)


def total_of(progress: StudyProgress, parts: Sequence[Sequence[float]]) -> RingVector:
    layout = progress.expected_query().layout
    total = encode(np.zeros(layout.length), layout)
    for part in parts:
        total = total + encode(np.array(part, dtype=np.float64), layout)
    return total


def supported(progress: StudyProgress) -> StudyProgress:
    return absorb(progress, total_of(progress, [[1, 1, 0, 1]] * 4))


def statistics(progress: StudyProgress) -> RingVector:
    parts = []
    for site in SITES.values():
        units = (site.features - [50.0, 0.0]) / [25.0, 1.0]
        parts.append([*units.sum(axis=0), *(units**2).sum(axis=0), site.rows, 1])
    return total_of(progress, parts)


def training(plan: Plan | None = None) -> StudyProgress:
    ready = supported(started(plan))
    return absorb(ready, statistics(ready))


# --- before the first sum -------------------------------------------------------------------------


def test_a_study_begins_with_support_at_the_initial_model() -> None:
    progress = started()
    query = progress.expected_query()
    assert (progress.stage, progress.index) == (Stage.SUPPORT, 0)
    assert (query.kind, query.index) == (QueryKind.SUPPORT, 0)
    assert query.model == progress.model_digest
    assert query.normaliser == progress.normaliser_digest == NO_DIGEST
    assert progress.model.flat().tolist() == [0.0, 0.0, 0.0]


def test_another_contract_is_not_the_plans() -> None:
    with pytest.raises(UsageError, match="not the one"):
        started(msgspec.structs.replace(small_plan(CHARTER, DATA), contract=digest("another")))


# --- support --------------------------------------------------------------------------------------


@pytest.mark.parametrize("least", [2, 3, 4])
@pytest.mark.parametrize("counts", [(4, 4), (3, 4), (4, 3), (2, 4), (0, 0), (4, 1)])
def test_a_column_with_too_little_support_halts_the_study_by_name(
    least: int, counts: tuple[int, int]
) -> None:
    progress = started(least=least)
    ones = [[float(place < counts[0]), float(place < counts[1]), 0, 1] for place in range(4)]
    following = absorb(progress, total_of(progress, ones))
    names = [column.name for column in design_columns(DATA)]
    short = [name for name, count in zip(names, counts, strict=True) if count < least]
    assert following.support == counts
    if short:
        assert following.stage is Stage.HALTED
        assert following.halt_reason is not None
        assert all(name in following.halt_reason for name in short)
        assert following.finished
        with pytest.raises(UsageError, match="halted study asks nothing"):
            following.expected_query()
    else:
        assert following.stage is Stage.STATISTICS
        assert following.halt_reason is None


def test_a_support_that_no_sites_could_give_is_refused() -> None:
    progress = started()
    with refused("sum-implausible"):
        absorb(progress, total_of(progress, [[1, 1, 0, 1]] * 3 + [[1, 1, 0, 0]]), survivors=3)
    with refused("sum-implausible"):
        absorb(progress, total_of(progress, [[-1, 1, 0, 1]] * 4))


@pytest.mark.parametrize("survivors", [0, 3, 5])
def test_the_constant_word_is_the_number_of_survivors(survivors: int) -> None:
    progress = started()
    with refused("contributors-mismatch"):
        absorb(progress, total_of(progress, [[1, 1, 0, 1]] * 4), survivors)


def test_a_sum_of_another_shape_or_beyond_its_bounds_is_refused() -> None:
    progress = started()
    good = total_of(progress, [[1, 1, 0, 1]] * 4)
    for bad in (good[:-1], good.astype(np.uint32), np.concatenate([good, good])):
        with refused("sum-implausible"):
            absorb(progress, bad)
    for place, value in ((0, 5), (2, 1)):  # more sites than there are; rows, which it does not ask
        beyond = good.copy()
        beyond[place] = value
        with refused("sum-implausible"):
            absorb(progress, beyond)


# --- statistics -----------------------------------------------------------------------------------


def test_the_statistics_give_the_pooled_means_and_deviations() -> None:
    progress = training()
    pooled = np.concatenate([site.features for site in SITES.values()])
    assert progress.normaliser is not None
    assert progress.normaliser.mean == pytest.approx(pooled.mean(axis=0), abs=1e-4)
    assert progress.normaliser.scale == pytest.approx(pooled.std(axis=0), abs=1e-4)
    assert progress.normaliser_digest != NO_DIGEST
    assert progress.expected_query().normaliser == progress.normaliser_digest


def test_without_rows_the_study_halts() -> None:
    progress = supported(started())
    following = absorb(progress, total_of(progress, [[0, 0, 0, 0, 0, 1]] * 4))
    assert following.stage is Stage.HALTED
    assert following.halt_reason == "no site has training rows"


def test_negative_rows_and_squares_are_refused() -> None:
    progress = supported(started())
    with refused("sum-implausible"):
        absorb(progress, total_of(progress, [[0, 0, 0, 0, -1, 1]] * 4))
    with refused("sum-implausible"):
        absorb(progress, total_of(progress, [[0, 0, -1, 0, 5, 1]] * 4))


# --- training -------------------------------------------------------------------------------------


def newton_sum(progress: StudyProgress) -> RingVector:
    assert progress.normaliser is not None
    parts = []
    for site in SITES.values():
        scaled = progress.normaliser.apply(site.features)
        gradient, hessian, loss = newton_terms(scaled, site.labels, progress.model.flat())
        parts.append([*gradient, *hessian, *loss, 0.0, 1.0])
    return total_of(progress, parts)


def direct_newton(features: NDArray[np.float64], labels: NDArray[np.float64]) -> list[float]:
    """Fit in the open: pooled rows, numpy's solver, until nothing moves."""
    model = np.zeros(3)
    design = np.column_stack([features, np.ones(len(labels))])
    ridge = np.diag([1.0, 1.0, 0.0])
    for _ in range(50):
        chance = 1 / (1 + np.exp(-(design @ model)))
        hessian = (design * (chance * (1 - chance))[:, None]).T @ design + ridge
        model = model + np.linalg.solve(hessian, design.T @ (labels - chance) - ridge @ model)
    return [float(value) for value in model]


def test_training_equals_a_direct_newton_loop_on_the_pooled_rows() -> None:
    progress = training()
    normaliser = progress.normaliser
    assert normaliser is not None
    while progress.stage is Stage.TRAINING:
        before = progress
        progress = absorb(progress, newton_sum(progress))
        assert progress.index == before.index + 1
        assert np.isfinite(progress.model.flat()).all()
    features = normaliser.apply(np.concatenate([site.features for site in SITES.values()]))
    labels = np.concatenate([site.labels for site in SITES.values()])
    assert progress.model.flat().tolist() == pytest.approx(
        direct_newton(features, labels), abs=1e-8
    )
    assert progress.stage is Stage.EVALUATION
    trace = progress.trace
    assert trace[-1].step < 1e-5 < trace[-2].step
    assert all(one.rows == ROWS and one.survivors == 4 for one in trace)
    losses = [one.loss for one in trace if one.loss is not None]
    assert losses[0] == pytest.approx(np.log(2), abs=1e-8)
    assert losses == sorted(losses, reverse=True)


def test_a_step_knows_the_one_before_and_over_how_many_sites_it_was() -> None:
    progress = training()
    assert progress.memory is None
    second = absorb(progress, newton_sum(progress))
    assert second.memory is not None
    assert second.memory.contributors == 4
    third = absorb(second, newton_sum(second))
    assert third.memory is not None
    assert third.model != absorb(replace(second, memory=None), newton_sum(second)).model
    assert third.memory.retreats == 0
    # The same sums again, as if a great step had led from a far lower place.
    lower = replace(second.memory, objective=-1e6)
    assert absorb(replace(second, memory=lower), newton_sum(second)).memory == replace(
        lower,
        retreats=1,
        slope=lower.slope / 8,
        tensors=NamedTensors.from_arrays(
            {"hessian": lower.tensors["hessian"], "step": lower.step / 8}
        ),
    )
    while progress.stage is Stage.TRAINING:
        progress = absorb(progress, newton_sum(progress))
    assert progress.memory is None


@pytest.mark.parametrize("rounds", [1, 2, 3])
def test_training_stops_at_the_plans_last_round(rounds: int) -> None:
    model = LogisticRegression(site_intercepts=False, max_rounds=rounds)
    progress = training(small_plan(CHARTER, DATA, model=model))
    for done in range(rounds):
        assert (progress.stage, len(progress.trace)) == (Stage.TRAINING, done)
        progress = absorb(progress, newton_sum(progress))
    assert (progress.stage, len(progress.trace)) == (Stage.EVALUATION, rounds)


def test_a_hessian_that_no_data_gives_is_refused_and_changes_nothing() -> None:
    model = LogisticRegression(site_intercepts=False, ridge_milli=0)
    progress = training(small_plan(CHARTER, DATA, model=model))
    layout = progress.expected_query().layout
    empty = encode(np.array([0.0] * (layout.length - 2) + [0.0, 1.0]), layout)
    with refused("not-positive-definite"):
        absorb(progress, empty + encode(np.array([0.0] * (layout.length - 1) + [1.0]), layout), 2)
    assert progress.stage is Stage.TRAINING


def test_averaging_moves_by_the_weighted_mean() -> None:
    model = MultilayerPerceptron(hidden=(2,), rounds=1, clip_micro=10**6)
    progress = training(small_plan(CHARTER, DATA, model=model))
    size = progress.model.flat().size
    parts = [[0.25] * size + [0.5, 0.0, 1.0]] * 4
    following = absorb(progress, total_of(progress, parts))
    assert following.model.flat() == pytest.approx(progress.model.flat() + 0.5)
    assert following.trace[0].step == pytest.approx(0.5)
    assert following.trace[0].loss is None
    assert following.stage is Stage.EVALUATION
    with refused("no-weight"):
        absorb(progress, total_of(progress, [[0.0] * (size + 1) + [0.0, 1.0]] * 4))


# --- the whole ------------------------------------------------------------------------------------


def test_two_parties_arrive_at_the_same_digests() -> None:
    first, second = World(), World()
    for world in (first, second):
        world.start()
        world.run_study()
    one, other = first.study.progress, second.study.progress
    assert one == other
    assert one.model_digest == other.model_digest == sha256(one.model.to_bytes())
    assert one.normaliser_digest == other.normaliser_digest
    assert one.evaluation is not None
    assert one.evaluation == other.evaluation
    assert one.index == len(first.study.rounds)
    with pytest.raises(UsageError, match="completed study asks nothing"):
        one.expected_query()


def test_states_that_differ_in_the_normaliser_alone_differ() -> None:
    ready = supported(started())
    parts = [[0, 0, 10, 10, 40, 1]] * 4
    one = absorb(ready, total_of(ready, parts))
    other = absorb(ready, total_of(ready, [[1, 0, 10, 10, 40, 1], *parts[1:]]))
    assert one == absorb(ready, total_of(ready, parts))
    assert one != other
    assert one != "progress"


def test_a_state_made_from_another_asks_its_own_query() -> None:
    """What a state remembers is not handed on to states made from it, in either direction."""
    progress = training()
    changed = replace(progress, normaliser=None)
    assert changed.expected_query().normaliser == NO_DIGEST
    assert progress.expected_query().normaliser == progress.normaliser_digest
    assert replace(progress, members=3).expected_query().layout.contributors == 3
    assert progress.expected_query().layout.contributors == 4
    assert replace(progress).expected_query().layout.contributors == 4


@pytest.mark.parametrize("name", ["plan", "contract", "members", "normaliser"])
def test_what_an_earlier_state_asked_serves_no_other_study(name: str) -> None:
    """With another plan, contract, group or normaliser a query is made as if it were the first."""
    progress = training()
    progress.expected_query()
    other: object = 3
    if name == "plan":
        settings = msgspec.structs.replace(progress.plan.aggregation, max_persons_per_site=77)
        other = msgspec.structs.replace(progress.plan, aggregation=settings)
    elif name == "contract":
        features = progress.contract.features[:-1]
        other = msgspec.structs.replace(progress.contract, features=features)
    elif name == "normaliser":
        other = None
    changed = replace(progress, **{name: other})  # type: ignore[arg-type]  # one of its fields
    fresh = replace(changed, _asked={})
    assert changed.expected_query() == fresh.expected_query() != progress.expected_query()
    later = replace(progress, index=progress.index + 1)
    assert later.expected_query() == replace(later, _asked={}).expected_query()


def test_the_query_follows_from_plan_and_sums_alone() -> None:
    again = training().expected_query()
    assert again == training().expected_query()
    assert words(started(), [1, 1, 0, 1]).shape == (4,)
