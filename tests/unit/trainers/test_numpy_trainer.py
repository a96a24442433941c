"""Local computation, and that federated fits equal joint fits.

The oracle is a dense Newton method over all coefficients and all intercepts at once, on pooled
rows, with no profiling and no fixed point; scikit-learn is a second one.

Planted faults that these tests caught: ridge left out of the Schur complement; no Schur
complement; ridge left out of the site intercept (single-class site); intercept not at its optimum;
ridge counted once per site; update clipped per tensor; weight not applied to the change; error
sent through weights already stepped; batches without shuffling; rows of a batch not averaged.
"""

import dataclasses

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression as Oracle
from sklearn.metrics import roc_auc_score

from treaty.aggregation.tensors import NamedTensors
from treaty.errors import FormatError
from treaty.models.averaging import next_tensors
from treaty.models.newton import NewtonMemory, next_coefficients
from treaty.models.specification import (
    LinearRegression,
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
    PoissonRegression,
    TorchModule,
    contribution_bounds,
    contribution_manifest,
    family,
    initial_model,
    max_rounds,
)
from treaty.models.task import FailureCode, TrainerFailure, TrainingTask, check_contribution
from treaty.trainers.numpy_trainer import NumpyTrainer
from treaty.trainers.updates import ALONE_SCALE_BITS, batches, weighted_update

TRAINER = NumpyTrainer()
ENTROPY = bytes(range(32))
Site = tuple[np.ndarray, np.ndarray]


def logistic_sites(columns: int = 6, seed: int = 1) -> list[Site]:
    """Return five sites of unlike size and prevalence; the last has positive labels only."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(size=columns)
    sites: list[Site] = []
    for rows, shift in ((180, -1.0), (90, 0.0), (300, 1.5), (40, 0.5), (12, 0.0)):
        features = np.clip(generator.normal(size=(rows, columns)) + shift / 3, -10, 10)
        chance = 1 / (1 + np.exp(-(features @ truth + shift)))
        sites.append((features, (generator.random(rows) < chance).astype(float)))
    sites[-1][1][:] = 1.0
    return sites


def federate(
    spec: ModelSpecification, sites: list[Site], rounds: int | None = None, bits: int = 32
) -> tuple[NamedTensors, int]:
    """Run the rounds of a study with plain sums on the fixed-point grid."""
    columns = sites[0][0].shape[1]
    model = initial_model(spec, columns)
    manifest = contribution_manifest(spec, columns)
    bounds = contribution_bounds(spec, columns, max_persons=300, feature_clip=10)
    memory: NewtonMemory | None = None
    for index in range(rounds or max_rounds(spec)):
        sums = {tensor.name: 0 for tensor in manifest}
        for number, (features, label) in enumerate(sites):
            entropy = bytes([index, number]) * 16
            task = TrainingTask(spec, model, features, label, entropy)
            part = check_contribution(manifest, TRAINER.compute(task), bounds)
            for name in part.names:
                sums[name] = sums[name] + np.rint(part[name].ravel() * 2.0**bits).astype(np.int64)
        if family(spec) == "averaging":
            model = next_tensors(model, sums, bits)  # type: ignore[arg-type]  # arrays by now
        else:
            model, trace = next_coefficients(
                spec,
                model,
                sums,  # type: ignore[arg-type]  # arrays by now
                bits,
                contributors=len(sites),
                memory=memory,
            )
            memory = trace.memory
            if trace.converged:
                return model, index + 1
    return model, max_rounds(spec)


def joint_fit(spec: ModelSpecification, sites: list[Site]) -> tuple[np.ndarray, np.ndarray]:
    """Return coefficients and intercepts (one for each site, or a common one) of the pooled fit."""
    columns, many = sites[0][0].shape[1], getattr(spec, "site_intercepts", True)
    ridge = spec.ridge_milli / 1000
    label = np.concatenate([y for _, y in sites])
    membership = np.repeat(np.arange(len(sites)), [len(y) for _, y in sites])
    dummies = np.eye(len(sites))[membership] if many else np.ones((len(label), 1))
    design = np.hstack([np.vstack([x for x, _ in sites]), dummies])
    penalty = np.full(design.shape[1], ridge)
    if not many:
        penalty[columns:] = 0
    solution = np.zeros(design.shape[1])
    for _ in range(60):
        predictor = design @ solution
        if isinstance(spec, LogisticRegression):
            mean = 1 / (1 + np.exp(-predictor))
            weight = mean * (1 - mean)
        elif isinstance(spec, PoissonRegression):
            mean = weight = np.exp(predictor)
        else:
            mean, weight = predictor, np.ones(len(label))
        gradient = design.T @ (label - mean) - penalty * solution
        step = np.linalg.solve(design.T @ (design * weight[:, None]) + np.diag(penalty), gradient)
        solution = solution + step / max(1.0, np.max(np.abs(step)) if many else 1.0)
    return solution[:columns], solution[columns:]


@pytest.mark.parametrize("site_intercepts", [True, False])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_federated_fit_equals_the_joint_fit(seed: int, site_intercepts: bool) -> None:
    sites = logistic_sites(seed=seed)
    spec = LogisticRegression(site_intercepts=site_intercepts)
    model, rounds = federate(spec, sites)
    coefficients, intercepts = joint_fit(spec, sites)
    assert rounds <= 8
    np.testing.assert_allclose(model["coefficients"], coefficients, atol=1e-8, rtol=0)
    for number, (features, label) in enumerate(sites):
        state = TRAINER.site_state(TrainingTask(spec, model, features, label, ENTROPY))
        found = np.frombuffer(state, "<f8") if site_intercepts else model["intercept"]
        expected = intercepts[number if site_intercepts else 0]
        np.testing.assert_allclose(found, expected, atol=1e-7, rtol=0)
        chance = TRAINER.predict(spec, model, features, state)
        wanted = 1 / (1 + np.exp(-(features @ coefficients + expected)))
        np.testing.assert_allclose(chance, wanted, atol=1e-7, rtol=0)


def test_the_fit_with_a_common_intercept_equals_scikit_learn() -> None:
    sites = logistic_sites()
    model, _ = federate(LogisticRegression(site_intercepts=False), sites)
    oracle = Oracle(C=1.0, tol=1e-12, max_iter=10_000, solver="newton-cholesky").fit(
        np.vstack([x for x, _ in sites]), np.concatenate([y for _, y in sites])
    )
    np.testing.assert_allclose(model["coefficients"], oracle.coef_[0], atol=1e-6)
    np.testing.assert_allclose(model["intercept"], oracle.intercept_, atol=1e-6)


@pytest.mark.parametrize("site_intercepts", [True, False])
def test_linear_regression_needs_one_step(site_intercepts: bool) -> None:
    generator = np.random.default_rng(4)
    sites = [
        (x := generator.normal(size=(rows, 3)), x @ np.array([1.0, -2, 3]) + 50 + rows / 10)
        for rows in (30, 50, 9)
    ]
    spec = LinearRegression(site_intercepts=site_intercepts)
    model, rounds = federate(spec, sites)
    coefficients, _ = joint_fit(spec, sites)
    np.testing.assert_allclose(model["coefficients"], coefficients, atol=1e-6)
    assert rounds <= 2


@pytest.mark.parametrize("site_intercepts", [True, False])
def test_poisson_regression_equals_the_joint_fit(site_intercepts: bool) -> None:
    generator = np.random.default_rng(5)
    sites = []
    for rows, base in ((80, 0.0), (60, 2.0), (30, 1.0)):
        features = generator.normal(size=(rows, 3))
        rate = np.exp(features @ np.array([0.3, -0.2, 0.1]) + base)
        sites.append((features, generator.poisson(rate).astype(float)))
    sites.append((generator.normal(size=(5, 3)), np.zeros(5)))
    spec = PoissonRegression(site_intercepts=site_intercepts)
    model, _ = federate(spec, sites)
    coefficients, _ = joint_fit(spec, sites)
    np.testing.assert_allclose(model["coefficients"], coefficients, atol=1e-7)


def test_extreme_predictors_do_not_overflow() -> None:
    spec = LogisticRegression()
    model = NamedTensors.from_arrays({"coefficients": np.array([500.0, -500.0])})
    features = np.array([[10.0, -10.0], [-10.0, 10.0], [1.0, 1.0]])
    for label in (np.zeros(3), np.ones(3), np.array([0.0, 1.0, 0.0])):
        part = TRAINER.compute(TrainingTask(spec, model, features, label, ENTROPY))
        bounds = contribution_bounds(spec, 2, max_persons=3, feature_clip=10)
        check_contribution(contribution_manifest(spec, 2), part, bounds)


def test_nothing_in_a_single_class_contribution_is_infinite() -> None:
    features = np.zeros((7, 2))
    task = TrainingTask(
        LogisticRegression(), initial_model(LogisticRegression(), 2), features, np.ones(7), ENTROPY
    )
    assert np.all(np.isfinite(TRAINER.compute(task).flat()))
    intercept = np.frombuffer(TRAINER.site_state(task), "<f8")[0]
    # The optimum is where 7 (1 - p) equals the intercept.
    assert 7 / (1 + np.exp(intercept)) == pytest.approx(intercept)


def test_alone_is_a_federation_of_one() -> None:
    sites = logistic_sites()[:1]
    spec = LogisticRegression()
    task = TrainingTask(spec, initial_model(spec, 6), *sites[0], ENTROPY)
    assert TRAINER.alone(task) == federate(spec, sites, bits=ALONE_SCALE_BITS)[0]
    coefficients, _ = joint_fit(spec, sites)
    np.testing.assert_allclose(TRAINER.alone(task)["coefficients"], coefficients, atol=1e-8)


MLP = MultilayerPerceptron(hidden=(8, 4), rounds=30, local_epochs=2, learning_rate_micro=300_000)


def ring_sites() -> list[Site]:
    """Return three sites whose label no linear model can follow."""
    generator = np.random.default_rng(8)
    sites = []
    for rows in (300, 150, 200):
        features = generator.normal(size=(rows, 2))
        sites.append((features, (np.sum(features**2, axis=1) > 1.4).astype(float)))
    return sites


def test_federated_averaging_learns_what_a_line_cannot() -> None:
    sites = ring_sites()
    model, _ = federate(MLP, sites, bits=24)
    features = np.vstack([x for x, _ in sites])
    label = np.concatenate([y for _, y in sites])
    assert roc_auc_score(label, TRAINER.predict(MLP, model, features)) > 0.95
    line, _ = federate(LogisticRegression(), sites)
    assert roc_auc_score(label, TRAINER.predict(LogisticRegression(), line, features)) < 0.7


def test_one_full_batch_follows_the_numeric_gradient() -> None:
    features, label = ring_sites()[1]
    spec = MultilayerPerceptron(
        hidden=(5, 3),
        batch_size=1000,
        learning_rate_micro=1000,
        clip_micro=10**9,
        weight_rows=1,
    )
    model = initial_model(spec, 2)

    def loss(flat: np.ndarray) -> float:
        chance = TRAINER.predict(spec, NamedTensors.from_flat(model.manifest, flat), features)
        return float(-np.mean(np.log(np.where(label == 1, chance, 1 - chance))))

    part = TRAINER.compute(TrainingTask(spec, model, features, label, ENTROPY))
    change = np.concatenate([part[f"delta.{name}"].ravel() for name in model.names])
    flat = model.flat()
    for place in range(len(flat)):
        nudge = np.zeros(len(flat))
        nudge[place] = 1e-6
        slope = (loss(flat + nudge) - loss(flat - nudge)) / 2e-6
        assert change[place] == pytest.approx(-1e-3 * slope, abs=1e-9)


def test_the_update_is_cut_as_a_whole_and_weighted() -> None:
    spec = MultilayerPerceptron(clip_micro=500_000, weight_rows=1000)
    before = NamedTensors.from_arrays({"a": np.zeros(2), "b": np.zeros((2, 2))})
    after = NamedTensors.from_arrays({"a": np.array([3.0, 0]), "b": np.array([[0, 0], [4.0, 0]])})
    part = weighted_update(spec, before, after, 250)
    assert part["weight"].tolist() == [0.25]
    np.testing.assert_allclose(part["delta.a"], [0.25 * 0.3, 0])
    np.testing.assert_allclose(part["delta.b"], [[0, 0], [0.25 * 0.4, 0]])
    assert weighted_update(spec, before, after, 5000)["weight"].tolist() == [1.0]
    small = NamedTensors.from_arrays({"a": np.array([0.3, 0]), "b": np.zeros((2, 2))})
    np.testing.assert_array_equal(weighted_update(spec, before, small, 9999)["delta.a"], [0.3, 0])


def test_a_cut_update_stays_within_the_clip_after_rounding() -> None:
    spec = MultilayerPerceptron(clip_micro=3_000_000, weight_rows=1)
    before = NamedTensors.from_arrays({"a": np.zeros(1)})
    for value in np.random.default_rng(3).random(2000) * 100 + 3:
        part = weighted_update(spec, before, NamedTensors.from_arrays({"a": np.array([value])}), 1)
        assert abs(part["delta.a"][0]) <= 3.0


def test_batches_cover_every_row_once_an_epoch_in_an_order_of_the_entropy() -> None:
    spec = MultilayerPerceptron(local_epochs=3, batch_size=4)
    chosen = batches(spec, 10, ENTROPY)
    assert [len(batch) for batch in chosen] == [4, 4, 2] * 3
    for epoch in range(3):
        rows = np.concatenate(chosen[3 * epoch : 3 * epoch + 3])
        assert sorted(rows) == list(range(10))
        assert list(rows) != list(range(10))
    again = batches(spec, 10, ENTROPY)
    assert all(np.array_equal(a, b) for a, b in zip(chosen, again, strict=True))
    other = batches(spec, 10, bytes(32))
    assert not np.array_equal(np.concatenate(chosen), np.concatenate(other))


def _task(**changes: object) -> TrainingTask:
    spec = changes.pop("specification", LogisticRegression())
    assert isinstance(spec, LogisticRegression | PoissonRegression | MultilayerPerceptron)
    task = TrainingTask(spec, initial_model(spec, 2), np.ones((3, 2)), np.ones(3), ENTROPY)
    return dataclasses.replace(task, **changes)  # type: ignore[arg-type]  # a row of the table


FAILURES: dict[str, tuple[dict[str, object], FailureCode]] = {
    "no rows": ({"features": np.zeros((0, 2)), "label": np.zeros(0)}, FailureCode.NO_ROWS),
    "another width": ({"features": np.zeros((3, 3))}, FailureCode.MODEL_MISMATCH),
    "another model": (
        {"model": NamedTensors.from_arrays({"coefficients": np.zeros(1)})},
        FailureCode.MODEL_MISMATCH,
    ),
    "nan feature": ({"features": np.full((3, 2), np.nan)}, FailureCode.FEATURES_NOT_FINITE),
    "infinite feature": ({"features": np.full((3, 2), np.inf)}, FailureCode.FEATURES_NOT_FINITE),
    "label two": ({"label": np.full(3, 2.0)}, FailureCode.LABEL_OUT_OF_RANGE),
    "label nan": ({"label": np.full(3, np.nan)}, FailureCode.LABEL_OUT_OF_RANGE),
    "negative count": (
        {"specification": PoissonRegression(), "label": np.full(3, -1.0)},
        FailureCode.LABEL_OUT_OF_RANGE,
    ),
    "count too large": (
        {"specification": PoissonRegression(label_bound=5), "label": np.full(3, 6.0)},
        FailureCode.LABEL_OUT_OF_RANGE,
    ),
    "half a count": (
        {"specification": PoissonRegression(), "label": np.full(3, 0.5)},
        FailureCode.LABEL_OUT_OF_RANGE,
    ),
    "perceptron label": (
        {"specification": MultilayerPerceptron(), "label": np.full(3, 0.5)},
        FailureCode.LABEL_OUT_OF_RANGE,
    ),
    "perceptron diverges": (
        {
            "specification": MultilayerPerceptron(hidden=(), learning_rate_micro=10**9),
            "features": np.full((3, 2), 1e300),
            "label": np.array([0.0, 1.0, 0.0]),
        },
        FailureCode.RESULT_NOT_FINITE,
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_trainer_fails_with_a_code(name: str) -> None:
    changes, reason = FAILURES[name]
    task = _task(**dict(changes))
    with pytest.raises(TrainerFailure) as failure:
        TRAINER.compute(task)
    assert failure.value.reason is reason


def test_a_module_of_another_trainer_is_not_supported() -> None:
    manifest = _task().model.manifest
    spec = TorchModule(module="mlp-tanh", manifest=manifest)
    task = dataclasses.replace(_task(), specification=spec)
    for call in (
        lambda: TRAINER.compute(task),
        lambda: TRAINER.alone(task),
        lambda: TRAINER.site_state(task),
        lambda: TRAINER.predict(spec, task.model, task.features),
    ):
        with pytest.raises(TrainerFailure) as failure:
            call()
        assert failure.value.reason is FailureCode.UNSUPPORTED_MODEL


def test_a_site_state_of_another_kind_is_refused() -> None:
    task = _task()
    for state in (b"\0", np.array([np.nan]).tobytes()):
        with pytest.raises(FormatError):
            TRAINER.predict(task.specification, task.model, task.features, state)
    spec = MultilayerPerceptron()
    with pytest.raises(FormatError):
        TRAINER.predict(spec, initial_model(spec, 2), task.features, bytes(8))
