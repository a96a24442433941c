"""A site's noised words: real gradients, whole persons, the plan's order of tensors, its noise.

Planted and caught in statistics: a person's rows not added before clipping; the clip of another
plan; errors of one tensor taken for the other's; noise of the count's variance.

Planted and caught: the mean loss's gradient in place of each row's; tensors in the order of the
layers; a predictor by matrix product; a layer's bias left out; names of tensors not checked.
"""

import functools
import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds import refused, small_charter, small_contract, small_plan
from treaty.aggregation.tensors import NamedTensors
from treaty.errors import PolicyError
from treaty.models.quadratic import row_statistics
from treaty.models.specification import (
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
    initial_model,
    model_manifest,
)
from treaty.models.task import GradientPart, TrainingTask
from treaty.node.guarding import GuardedTrainer
from treaty.node.noising import clipped_gradient, clipped_statistics, noised_contribution
from treaty.ports import Trainer
from treaty.privacy.certificate import Cohort
from treaty.privacy.distributed import persons_in_order
from treaty.privacy.mechanisms import Layer
from treaty.privacy.surplus import NoiseKeys
from treaty.studies.calibrating import Privacy, private_model, terms_for
from treaty.studies.noise import noise_terms, uses_ghost_norms
from treaty.studies.plan import Plan
from treaty.trainers.linear_family import with_constant
from treaty.trainers.numpy_trainer import NumpyTrainer

CHARTER, DATA = small_charter(), small_contract()
COHORT = Cohort(4, 3, 1)
LOGISTIC = private_model(LogisticRegression())
PERCEPTRON = MultilayerPerceptron(hidden=(3, 2))
KEY, OTHER = bytes(range(32)), bytes(32)


@functools.cache
def plan_of(spec: ModelSpecification, **asked: float) -> Plan:
    terms = terms_for(
        Privacy(**asked),  # type: ignore[arg-type]  # numbers
        spec,
        DATA,
        CHARTER.privacy,
        members=4,
        max_persons_per_site=256,
    )
    return msgspec.structs.replace(small_plan(CHARTER, DATA, model=spec), privacy=terms)


def rows_of(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.Generator(np.random.PCG64(seed))
    return draw.normal(size=(count, 2)), draw.integers(0, 2, count).astype(float)


def model_of(spec: ModelSpecification, seed: int = 1) -> NamedTensors:
    start = initial_model(spec, 2)
    draw = np.random.Generator(np.random.PCG64(seed))
    return NamedTensors.from_flat(
        start.manifest, start.flat() + draw.normal(size=len(start.flat()))
    )


def parts_of(
    trainer: Trainer, spec: ModelSpecification, model: NamedTensors, x: np.ndarray, y: np.ndarray
) -> Callable[[np.ndarray], Sequence[GradientPart]]:
    return lambda rows: trainer.layers(TrainingTask(spec, model, x[rows], y[rows], bytes(32)))


def loss(spec: ModelSpecification, model: NamedTensors, x: np.ndarray, y: np.ndarray) -> float:
    p = NumpyTrainer().predict(spec, model, x)
    return float(-(y * np.log(p) + (1 - y) * np.log(1 - p)).sum())


def numeric_gradient(
    spec: ModelSpecification, model: NamedTensors, x: np.ndarray, y: np.ndarray
) -> np.ndarray:
    flat, step = model.flat(), 1e-6
    found = []
    for place in range(len(flat)):
        moved = [flat.copy(), flat.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (loss(spec, NamedTensors.from_flat(model.manifest, one), x, y) for one in moved)
        found.append((up - down) / (2 * step))
    return np.array(found)


@pytest.mark.parametrize("spec", [LOGISTIC, PERCEPTRON], ids=["logistic", "perceptron"])
def test_the_words_are_the_loss_gradient_clipped_by_person(spec: ModelSpecification) -> None:
    """Against finite differences of the loss that predictions give, person by person."""
    plan = plan_of(spec)
    terms = noise_terms(plan)
    x, y = rows_of(12)
    model = model_of(spec)
    persons = [f"p{number % 5}" for number in range(12)]
    order, person = persons_in_order(persons)
    found = clipped_gradient(
        plan, model.manifest, parts_of(NumpyTrainer(), spec, model, x, y), order, person
    )
    wanted = np.zeros(len(model.flat()))
    clip = terms.clip.norm
    for one in sorted(set(persons)):
        rows = [place for place, name in enumerate(persons) if name == one]
        each = [numeric_gradient(spec, model, x[[row]], y[[row]]) for row in rows]
        if uses_ghost_norms(spec):
            # Its rows first, then the person.
            each = [part * min(1.0, clip / np.linalg.norm(part)) for part in each]
        vector = np.sum(each, axis=0)
        wanted += vector * min(1.0, clip / np.linalg.norm(vector))
    assert found * terms.clip.step == pytest.approx(wanted, abs=1e-5)
    assert np.linalg.norm(wanted) > 0.1


def test_a_row_of_length_one_gives_a_gradient_within_one_half_at_the_start() -> None:
    """Why the default clip is one half: nothing is cut before the model has learned something."""
    plan = plan_of(LOGISTIC)
    x, y = rows_of(40)
    start = initial_model(LOGISTIC, 2)
    parts = NumpyTrainer().layers(TrainingTask(LOGISTIC, start, x, y, bytes(32)))
    vectors = np.concatenate([part.layer.inputs * part.layer.errors for part in parts], axis=1)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(0.5)
    assert noise_terms(plan).clip.norm == 0.5


def test_a_rows_own_numbers_do_not_depend_on_its_neighbours() -> None:
    """To the last bit, for generalised linear models: only then is the clip the sensitivity."""
    x, y = rows_of(37)
    model = model_of(LOGISTIC)
    whole = NumpyTrainer().layers(TrainingTask(LOGISTIC, model, x, y, bytes(32)))
    for row in range(37):
        alone = NumpyTrainer().layers(TrainingTask(LOGISTIC, model, x[[row]], y[[row]], bytes(32)))
        for one, other in zip(whole, alone, strict=True):
            assert one.layer.inputs[row].tobytes() == other.layer.inputs[0].tobytes()
            assert one.layer.errors[row].tobytes() == other.layer.errors[0].tobytes()


def test_the_order_of_rows_is_of_no_account() -> None:
    x, y = rows_of(30)
    persons = [f"p{number % 7}" for number in range(30)]
    model, plan = model_of(LOGISTIC), plan_of(LOGISTIC)
    shuffled = np.random.Generator(np.random.PCG64(3)).permutation(30)
    sums = []
    for places in (np.arange(30), shuffled):
        order, person = persons_in_order([persons[place] for place in places])
        parts = parts_of(NumpyTrainer(), LOGISTIC, model, x[places], y[places])
        sums.append(clipped_gradient(plan, model.manifest, parts, order, person))
    # Rows of one person are added in another order: a unit for each person at most.
    assert np.abs(sums[0] - sums[1]).max() <= 7


def contribution(spec: ModelSpecification, key: bytes = KEY, **asked: float) -> np.ndarray:
    x, y = rows_of(20)
    model = model_of(spec)
    return noised_contribution(
        plan_of(spec, **asked),
        model.manifest,
        [f"p{number}" for number in range(20)],
        parts_of(NumpyTrainer(), spec, model, x, y),
        COHORT,
        ring_bits=64,
        keys=NoiseKeys(key),
        sampling_key=OTHER,
    )


def test_noise_comes_from_its_key_and_nothing_else_does() -> None:
    assert (contribution(LOGISTIC) == contribution(LOGISTIC)).all()
    assert (contribution(LOGISTIC) != contribution(LOGISTIC, OTHER)).all()


def test_a_sampled_round_leaves_persons_out() -> None:
    whole, part = contribution(LOGISTIC), contribution(LOGISTIC, sampling=0.5)
    assert (whole != part).all()


def test_the_count_is_of_persons_and_noised() -> None:
    plan = plan_of(LOGISTIC)
    found = [
        noised_contribution(
            plan,
            model_manifest(LOGISTIC, 2),
            persons,
            None,
            COHORT,
            ring_bits=64,
            keys=NoiseKeys(KEY),
            sampling_key=OTHER,
        )
        for persons in (["a"] * 9, ["a", "b"] * 3, [])
    ]
    units = noise_terms(plan).clip.units
    assert (found[1] - found[0]).tolist() == [units]
    assert (found[2] - found[0]).tolist() == [-units]
    assert found[2].tolist() != [0]


ONCE = Privacy(one_round=True)


@functools.cache
def statistics_plan() -> Plan:
    terms = terms_for(ONCE, LOGISTIC, DATA, CHARTER.privacy, members=4, max_persons_per_site=256)
    return msgspec.structs.replace(small_plan(CHARTER, DATA, model=LOGISTIC), privacy=terms)


def statistics_of(
    x: np.ndarray, y: np.ndarray, persons: Sequence[str], trainer: Trainer | None = None
) -> np.ndarray:
    start = initial_model(LOGISTIC, 2)
    order, person = persons_in_order(list(persons))
    parts = parts_of(trainer or NumpyTrainer(), LOGISTIC, start, x, y)
    return clipped_statistics(statistics_plan(), start.manifest, parts, order, person)


tables = st.integers(1, 12).flatmap(
    lambda rows: st.tuples(
        st.lists(
            st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from((0.0, 1.0))),
            min_size=rows,
            max_size=rows,
        ),
        st.lists(st.sampled_from("abcde"), min_size=rows, max_size=rows),
    )
)


@given(tables, st.sampled_from("abcde"))
def test_a_person_of_any_rows_moves_the_statistics_by_the_clip_at_most(
    table: tuple[list[tuple[float, float, float]], list[str]], gone: str
) -> None:
    """Neighbouring tables, in exact integers: with all rows of one person and without them."""
    rows, persons = table
    values = np.array(rows)
    x, y = values[:, :2], values[:, 2]
    kept = np.array([one != gone for one in persons])
    whole = statistics_of(x, y, persons)
    rest = statistics_of(x[kept], y[kept], [one for one in persons if one != gone])
    units = noise_terms(statistics_plan()).clip.units
    moved = sum(int(word) ** 2 for word in (whole - rest).tolist())
    assert moved <= units**2
    assert (moved > 0) is (gone in persons)


def test_one_row_is_hardly_cut_and_more_rows_of_one_person_are() -> None:
    x, y = rows_of(3)
    units = noise_terms(statistics_plan()).clip.units
    alone = statistics_of(x[:1], y[:1], "a").astype(float)
    assert 0.9999 * units < np.linalg.norm(alone) <= units
    words = row_statistics(with_constant(LOGISTIC, x[:1]), 0.5 - y[:1])[0]
    assert np.abs(alone - words / noise_terms(statistics_plan()).clip.step).max() <= 1
    assert np.linalg.norm(statistics_of(x, y, "aaa").astype(float)) <= units
    assert np.linalg.norm(statistics_of(x, y, "abc").astype(float)) > 1.5 * units


def test_the_noise_of_statistics_is_one_share_and_from_its_key() -> None:
    """Nine words of each of 40 keys: chi-squared of 360 degrees within six deviations."""
    x, y = rows_of(20)
    persons = [f"p{number}" for number in range(20)]
    plan, start = statistics_plan(), initial_model(LOGISTIC, 2)
    exact = statistics_of(x, y, persons)
    share = -(-int(noise_terms(plan).variance, 16) // COHORT.min_honest)
    drawn = np.array(
        [
            noised_contribution(
                plan,
                start.manifest,
                persons,
                parts_of(NumpyTrainer(), LOGISTIC, start, x, y),
                COHORT,
                ring_bits=64,
                keys=NoiseKeys(bytes([number]) * 32),
                sampling_key=OTHER,
            )
            for number in range(40)
        ]
    )
    gaps = (drawn - exact).astype(float)
    assert gaps.shape == (40, 9) and (gaps != 0).all()
    assert abs(float((gaps**2).sum()) / share - 360) < 6 * math.sqrt(2 * 360)
    assert abs(float(gaps.sum()) / math.sqrt(share * 360)) < 6


def test_no_rows_give_noise_alone() -> None:
    assert statistics_of(np.zeros((0, 2)), np.zeros(0), "").tolist() == [0] * 9


class _Scripted:
    """A trainer that returns what it is told."""

    def __init__(self, parts: object) -> None:
        self.parts = parts

    def layers(self, task: TrainingTask) -> object:
        return self.parts


def _part(weight: str, shape: tuple[int, int], bias: str | None = None) -> GradientPart:
    inputs, outputs = shape
    layer = Layer(np.ones((4, inputs)), np.ones((4, outputs)), has_bias=bias is not None)
    return GradientPart(weight, bias, layer)


GOOD = (_part("coefficients", (2, 1)), _part("intercept", (1, 1)))


def _raw(rows: int, error: float) -> GradientPart:
    layer = Layer(np.ones((rows, 2)), np.full((4, 1), error), has_bias=False)
    return GradientPart("coefficients", None, layer)


@pytest.mark.parametrize(
    "parts, code",
    [
        ((GOOD[0],), "contribution-names"),
        ((*GOOD, GOOD[1]), "contribution-names"),
        ((_part("coefficients", (3, 1)), GOOD[1]), "contribution-shape"),
        ((_part("coefficients", (2, 2)), GOOD[1]), "contribution-shape"),
        ((_part("coefficients", (2, 1), bias="intercept"),), None),
        ("layers", "contribution-type"),
        ((1, 2), "contribution-type"),
        ((_raw(3, 1.0), GOOD[1]), "contribution-shape"),
        ((_raw(4, float("nan")), GOOD[1]), "contribution-not-finite"),
    ],
)
def test_what_a_trainer_returns_is_the_plans_or_refused(parts: object, code: str | None) -> None:
    plan, model = plan_of(LOGISTIC), model_of(LOGISTIC)
    trainer = GuardedTrainer(_Scripted(parts))  # type: ignore[arg-type]  # that is the test
    x, y = rows_of(4)
    order, person = persons_in_order(list("abcd"))

    def clipped() -> np.ndarray:
        return clipped_gradient(
            plan, model.manifest, parts_of(trainer, LOGISTIC, model, x, y), order, person
        )

    if code is None:
        assert len(clipped()) == 3
        return
    with refused(code):
        clipped()


def test_a_trainer_cannot_get_a_person_past_the_clip() -> None:
    """Errors a thousand times too large, and the sum stays within one clip per person."""
    huge = (
        GradientPart("coefficients", None, Layer(np.ones((4, 2)), np.full((4, 1), 1e3), False)),
        GradientPart("intercept", None, Layer(np.ones((4, 1)), np.full((4, 1), 1e3), False)),
    )
    plan, model = plan_of(LOGISTIC), model_of(LOGISTIC)
    order, person = persons_in_order(list("aabb"))
    found = clipped_gradient(plan, model.manifest, lambda _: huge, order, person)
    length = np.linalg.norm(found.astype(float))
    assert 2 * noise_terms(plan).clip.units * 0.999 < length <= 2 * noise_terms(plan).clip.units


def test_a_site_without_rows_sends_noise_alone() -> None:
    plan, model = plan_of(LOGISTIC), model_of(LOGISTIC)
    nothing = np.empty(0, np.int64)
    assert (
        clipped_gradient(plan, model.manifest, lambda _: (), nothing, nothing).tolist() == [0] * 3
    )


def test_site_intercepts_have_no_layers() -> None:
    x, y = rows_of(4)
    spec = LogisticRegression()
    with pytest.raises(PolicyError, match="unsupported-model"):
        NumpyTrainer().layers(TrainingTask(spec, initial_model(spec, 2), x, y, bytes(32)))


@pytest.mark.torch
def test_a_module_gives_the_gradients_of_the_perceptron() -> None:
    """The same weights in both: tensors transposed, words the same within single precision."""
    pytest.importorskip("torch", reason="needs the extra [torch]")
    from treaty.trainers.torch_trainer import TorchTrainer, module_specification

    spec = module_specification("mlp-tanh", 2, (3,))
    net = MultilayerPerceptron(hidden=(3,))
    model = initial_model(spec, 2)
    same = NamedTensors.from_arrays(
        {
            "layer.0.weight": model.float64("0.weight").T,
            "layer.0.bias": model.float64("0.bias"),
            "layer.1.weight": model.float64("2.weight").T,
            "layer.1.bias": model.float64("2.bias"),
        }
    )
    x, y = rows_of(15)
    order, person = persons_in_order([f"p{number % 4}" for number in range(15)])
    one = clipped_gradient(
        plan_of(spec), model.manifest, parts_of(TorchTrainer(), spec, model, x, y), order, person
    )
    other = clipped_gradient(
        plan_of(net), same.manifest, parts_of(NumpyTrainer(), net, same, x, y), order, person
    )
    first = dict(_segments(model, one))
    second = dict(_segments(same, other))
    for torch_name, own in (("0", "layer.0"), ("2", "layer.1")):
        weight = second[f"{own}.weight"].T
        assert np.abs(first[f"{torch_name}.weight"] - weight).max() < 32
        assert np.abs(first[f"{torch_name}.bias"] - second[f"{own}.bias"]).max() < 32


def _segments(model: NamedTensors, words: np.ndarray) -> list[tuple[str, np.ndarray]]:
    found, start = [], 0
    for name, array in zip(model.names, model.arrays, strict=True):
        found.append((name, words[start : start + array.size].reshape(array.shape)))
        start += array.size
    return found
