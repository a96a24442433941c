"""Model descriptions: the closed list of models that a plan may name, with everything derived.

A description fixes, together with the number of design columns, the manifest and the bytes of
the initial model, the manifest of a site's contribution and a public bound for each of its
tensors (docs/spec/training.md, section 2). Members and verifiers derive these themselves.

Guarantees:
  * All numbers of a description are integers with the unit in the name; a description is one
    member of a union tagged by `kind`.
  * `initial_model` is the same bytes on every machine: zeros, or SHA-256 in counter mode turned
    into numbers by exact operations and one correctly rounded square root.
  * `contribution_bounds` holds for every site that keeps the named premises. A contribution
    beyond it is refused by quantisation at the site, never clipped in the sum.

Left to others: which columns there are (contracts), the local computation (trainers), rings and
grids (studies).
"""

import hashlib
import math
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from treaty.aggregation.tensors import (
    Manifest,
    NamedTensors,
    Tensor,
    TensorSpec,
    check_manifest,
    manifest_elements,
)
from treaty.crypto.canonical import Name, Record, in_words
from treaty.errors import UsageError

__all__ = [
    "COEFFICIENTS",
    "DELTA_PREFIX",
    "GRADIENT",
    "HESSIAN",
    "INTERCEPT",
    "LOSS",
    "MAX_COLUMNS",
    "ROW_LOSS_BOUND",
    "WEIGHT",
    "AveragedModel",
    "LinearRegression",
    "LogisticRegression",
    "ModelSpecification",
    "MultilayerPerceptron",
    "NewtonModel",
    "PoissonRegression",
    "TorchModule",
    "check_specification",
    "contribution_bounds",
    "contribution_manifest",
    "family",
    "has_site_intercepts",
    "has_unit_rows",
    "initial_model",
    "known_model",
    "max_rounds",
    "model_manifest",
    "parameter_count",
]

COEFFICIENTS = "coefficients"
INTERCEPT = "intercept"
GRADIENT = "gradient"
HESSIAN = "hessian"
LOSS = "loss"
WEIGHT = "weight"
DELTA_PREFIX = "delta."

MAX_COLUMNS = 1024
ROW_LOSS_BOUND = 64
"""A row's log loss counts as at most this, in nats. It is reported, nothing is fitted to it."""

Rounds = Annotated[int, msgspec.Meta(ge=1, le=1000)]
NewtonRounds = Annotated[int, msgspec.Meta(ge=1, le=64)]
Milli = Annotated[int, msgspec.Meta(ge=0, le=10**9)]
Micro = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
Seed = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
Width = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Layers = Annotated[tuple[Width, ...], msgspec.Meta(max_length=8)]
Epochs = Annotated[int, msgspec.Meta(ge=1, le=100)]
BatchSize = Annotated[int, msgspec.Meta(ge=1, le=65536)]
WeightRows = Annotated[int, msgspec.Meta(ge=1, le=2**24)]
LabelBound = Annotated[int, msgspec.Meta(ge=1, le=2**20)]


class LogisticRegression(Record, frozen=True, tag_field="kind", tag="logistic-regression"):
    """Binary logistic regression by federated Newton.

    The objective is the sum of log losses plus half of `ridge_milli` / 1000 times the sum of
    squared coefficients, the site intercepts among them; a common intercept is not penalised.
    With `site_intercepts` every site keeps its own intercept at home. It ends when the step is
    negligible, mostly after 6 to 8 rounds; a level whose rows all have one label takes about a
    round more for each unit by which its log odds grow until the ridge holds them.

    With `unit_rows` every row, with the constant one of the intercept behind it, is scaled to
    length one, in training and in prediction: what private training needs, with a common
    intercept.
    """

    ridge_milli: Milli = 1000
    site_intercepts: bool = True
    max_rounds: NewtonRounds = 16
    unit_rows: bool = False


class LinearRegression(Record, frozen=True, tag_field="kind", tag="linear-regression"):
    """Linear regression: as `LogisticRegression`, with half the squared residual as loss.

    `label_bound` bounds the absolute label, in its own unit. One round and one to confirm it
    suffice.
    """

    ridge_milli: Milli = 1000
    site_intercepts: bool = True
    max_rounds: NewtonRounds = 2
    label_bound: LabelBound = 1024


class PoissonRegression(Record, frozen=True, tag_field="kind", tag="poisson-regression"):
    """Poisson regression with log link: as `LogisticRegression`; counts up to `label_bound`."""

    ridge_milli: Milli = 1000
    site_intercepts: bool = True
    max_rounds: NewtonRounds = 12
    label_bound: LabelBound = 1024


class MultilayerPerceptron(Record, frozen=True, tag_field="kind", tag="multilayer-perceptron"):
    """A binary classifier with `hidden` tanh layers, by federated averaging.

    Each round every site takes `local_epochs` passes of plain gradient descent over batches of
    `batch_size` rows. The whole update is cut to the Euclidean norm `clip_micro` / 1e6. A site
    weighs min(rows, `weight_rows`) / `weight_rows`.
    """

    hidden: Layers = (16,)
    rounds: Rounds = 40
    local_epochs: Epochs = 1
    batch_size: BatchSize = 32
    learning_rate_micro: Micro = 50_000
    clip_micro: Micro = 1_000_000
    weight_rows: WeightRows = 1000
    seed: Seed = 0


class TorchModule(Record, frozen=True, tag_field="kind", tag="torch-module"):
    """A PyTorch module from the trainer's fixed list, by federated averaging.

    `module` names the list's entry and `hidden` its widths; `manifest` is the module's
    parameters, which the trainer compares with the module it builds. The rest is as in
    `MultilayerPerceptron`.
    """

    module: Name
    manifest: tuple[TensorSpec, ...]
    hidden: Layers = (16,)
    rounds: Rounds = 40
    local_epochs: Epochs = 1
    batch_size: BatchSize = 32
    learning_rate_micro: Micro = 50_000
    clip_micro: Micro = 1_000_000
    weight_rows: WeightRows = 1000
    seed: Seed = 0


NewtonModel: TypeAlias = LogisticRegression | LinearRegression | PoissonRegression
AveragedModel: TypeAlias = MultilayerPerceptron | TorchModule
ModelSpecification: TypeAlias = NewtonModel | AveragedModel


def family(spec: ModelSpecification) -> Literal["newton", "averaging"]:
    """Return how the next model follows from the sum."""
    return "averaging" if isinstance(spec, MultilayerPerceptron | TorchModule) else "newton"


def max_rounds(spec: ModelSpecification) -> int:
    """Return the number of training rounds after which the model is final."""
    if isinstance(spec, MultilayerPerceptron | TorchModule):
        return spec.rounds
    return spec.max_rounds


def has_site_intercepts(spec: ModelSpecification) -> bool:
    """Return whether every site keeps an intercept of its own."""
    return not isinstance(spec, MultilayerPerceptron | TorchModule) and spec.site_intercepts


def has_unit_rows(spec: ModelSpecification) -> bool:
    """Return whether rows are scaled to length one, in training and in prediction."""
    return isinstance(spec, LogisticRegression) and spec.unit_rows


def known_model(value: object) -> ModelSpecification:
    """Return `value`, if it is a description of a model whose fields hold what they may.

    For descriptions that a program built: records do not look at what they are made of.
    """
    if isinstance(value, NewtonModel | AveragedModel):
        try:
            found: ModelSpecification = msgspec.convert(
                msgspec.to_builtins(value), ModelSpecification, strict=True
            )
            return found
        except msgspec.ValidationError as error:
            raise UsageError(f"{type(value).__name__} does not hold: {in_words(error)}") from error
    got = f"{value.__name__} itself: call it" if isinstance(value, type) else repr(value)
    raise UsageError(
        f"expected a description of a model such as treaty.LogisticRegression(), got {got}"
    )


def check_specification(spec: ModelSpecification, columns: int) -> None:
    """Raise `UsageError` unless `spec` makes sense for a design of `columns` columns.

    `FormatError` where the manifest of a module breaks a limit of `treaty.aggregation.tensors`.
    """
    if not 1 <= columns <= MAX_COLUMNS:
        raise UsageError(f"expected 1 to {MAX_COLUMNS} design columns, got {columns}")
    if has_site_intercepts(spec) and getattr(spec, "ridge_milli", 0) < 1:
        # A site whose labels are all equal would have an infinite intercept.
        raise UsageError("site intercepts need ridge_milli of at least 1, got 0")
    if has_unit_rows(spec) and has_site_intercepts(spec):
        raise UsageError("rows of length one need a common intercept: set site_intercepts = false")
    if isinstance(spec, TorchModule):
        check_manifest(spec.manifest)
        if not spec.manifest:
            raise UsageError("expected the module's parameters in manifest, got none")
        for tensor in spec.manifest:
            if tensor.dtype == "I64":
                raise UsageError(f"expected floating-point parameters, {tensor.name} is I64")


def model_manifest(spec: ModelSpecification, columns: int) -> Manifest:
    """Return names, shapes and element types of the model; raises `UsageError`.

    Newton models: ``coefficients`` (columns,), and ``intercept`` (1,) if it is common. The
    perceptron: ``layer.<i>.weight`` (inputs, outputs) and ``layer.<i>.bias`` (outputs,).
    """
    check_specification(spec, columns)
    match spec:
        case MultilayerPerceptron():
            widths = (columns, *spec.hidden, 1)
            tensors: list[TensorSpec] = []
            for layer, (inputs, outputs) in enumerate(pairwise(widths)):
                tensors.append(TensorSpec(name=f"layer.{layer}.bias", shape=(outputs,)))
                tensors.append(TensorSpec(name=f"layer.{layer}.weight", shape=(inputs, outputs)))
            return tuple(tensors)
        case TorchModule():
            return spec.manifest
        case LogisticRegression() | LinearRegression() | PoissonRegression():
            coefficients = TensorSpec(name=COEFFICIENTS, shape=(columns,))
            if spec.site_intercepts:
                return (coefficients,)
            return (coefficients, TensorSpec(name=INTERCEPT, shape=(1,)))


def parameter_count(spec: ModelSpecification, columns: int) -> int:
    """Return the number of parameters that all members share; raises `UsageError`."""
    return manifest_elements(model_manifest(spec, columns))


def contribution_manifest(spec: ModelSpecification, columns: int) -> Manifest:
    """Return names, shapes and element types of one site's contribution; raises `UsageError`.

    Newton with q shared parameters (a common intercept last): ``gradient`` (q,), ``hessian``
    (q (q + 1) / 2,), the upper triangle row by row, and ``loss`` (1,). Averaging: for each tensor
    its weighted change under the name ``delta.<name>``, and ``weight`` (1,). All are F64.
    """
    manifest = model_manifest(spec, columns)
    if family(spec) == "newton":
        size = manifest_elements(manifest)
        return (
            TensorSpec(name=GRADIENT, shape=(size,)),
            TensorSpec(name=HESSIAN, shape=(size * (size + 1) // 2,)),
            TensorSpec(name=LOSS, shape=(1,)),
        )
    changes = [
        TensorSpec(name=DELTA_PREFIX + tensor.name, shape=tensor.shape) for tensor in manifest
    ]
    return (*changes, TensorSpec(name=WEIGHT, shape=(1,)))


def contribution_bounds(
    spec: ModelSpecification, columns: int, *, max_persons: int, feature_clip: int
) -> dict[str, int]:
    """Return a bound on every element's absolute value, by tensor; raises `UsageError`.

    Premises: at most `max_persons` rows, features within plus or minus `feature_clip` (at least
    1), labels 0 or 1, or within `label_bound`. Then logistic bounds always hold: |y - p| <= 1,
    p (1 - p) <= 1/4, and profiling only takes away from the Hessian's diagonal. For linear and
    Poisson models they hold while residuals stay within four and means within two label bounds
    on average; a site beyond that declines with an overflow.
    """
    manifest = model_manifest(spec, columns)
    if max_persons < 1 or feature_clip < 1:
        raise UsageError(
            f"expected positive bounds, got {max_persons} persons and clip {feature_clip}"
        )
    rows, reach = max_persons, max_persons * feature_clip
    square = reach * feature_clip
    match spec:
        case LogisticRegression():
            return {GRADIENT: reach, HESSIAN: -(-square // 4), LOSS: rows * ROW_LOSS_BOUND}
        case LinearRegression():
            largest = 4 * spec.label_bound
            return {
                GRADIENT: reach * largest,
                HESSIAN: square,
                LOSS: rows * largest * largest // 2,
            }
        case PoissonRegression():
            largest = 2 * spec.label_bound
            return {
                GRADIENT: reach * largest,
                HESSIAN: square * largest,
                LOSS: rows * largest * ROW_LOSS_BOUND,
            }
        case MultilayerPerceptron() | TorchModule():
            clip = -(-spec.clip_micro // 10**6)
            return {DELTA_PREFIX + tensor.name: clip for tensor in manifest} | {WEIGHT: 1}


def initial_model(spec: ModelSpecification, columns: int) -> NamedTensors:
    """Return the model before the first round; raises `UsageError`.

    Newton models start at zero. Otherwise tensors of two and more dimensions are uniform in
    plus or minus 1 / sqrt(inputs), from SHA-256 over the seed, the tensor's place and a counter;
    the others are zero.
    """
    manifest = model_manifest(spec, columns)
    if not isinstance(spec, MultilayerPerceptron | TorchModule):
        return NamedTensors.zeros(manifest)
    arrays: list[Tensor] = []
    for place, tensor in enumerate(manifest):
        count = math.prod(tensor.shape)
        if len(tensor.shape) < 2 or count == 0:
            values = np.zeros(count)
        else:
            # Perceptron weights are (inputs, outputs); PyTorch's are (outputs, inputs...).
            inputs = count // tensor.shape[0 if isinstance(spec, TorchModule) else -1]
            values = _uniform(spec.seed, place, count) / math.sqrt(inputs)
        shaped = values.reshape(tensor.shape)
        arrays.append(shaped.astype(np.float32) if tensor.dtype == "F32" else shaped)
    return NamedTensors(manifest, arrays)


def _uniform(seed: int, place: int, count: int) -> npt.NDArray[np.float64]:
    """Return `count` multiples of 2^-52 in [-1, 1)."""
    prefix = b"treaty.initial-model/v1" + seed.to_bytes(8, "big") + place.to_bytes(8, "big")
    stream = b"".join(
        hashlib.sha256(prefix + block.to_bytes(8, "big")).digest()
        for block in range(-(-count // 4))
    )
    words = np.frombuffer(stream, np.dtype(">u8"))[:count].astype(np.uint64) >> np.uint64(11)
    # 53-bit integers are exact in a float, and so are the difference and the scaling.
    return (words.astype(np.float64) - 2.0**52) * 2.0**-52
