"""Probes: what can be read from an update, a sum over sites, and a noised sum.

Each probe plays the worst coordinator: it knows rows of the same population that are not in the
update, may set the model (by forging sums; `R-14` of the threat model), and tries again in
several rounds. Views are named by what is seen and with which weights:
``bare-update``, ``secure-sum``, ``noised-sum``; ``honest`` or ``trap``.

Guarantees: everything that reaches an attack went through the product's own trainer or mechanism;
the views that count are those that the coordinator would see under the plan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import NamedTensors, Tensor
from treaty.assessment.findings import RecoveryFinding, recovery_finding
from treaty.assessment.inversion import (
    count_recovered,
    hessian_candidates,
    layer_candidates,
    trap_layer,
    trap_plane,
    unpacked_triangle,
)
from treaty.crypto.derivation import labelled_hash
from treaty.models.specification import (
    COEFFICIENTS,
    DELTA_PREFIX,
    HESSIAN,
    INTERCEPT,
    ModelSpecification,
    MultilayerPerceptron,
    has_site_intercepts,
    initial_model,
)
from treaty.models.task import GradientPart, TrainingTask
from treaty.simulation.impact_rows import AssessedRows
from treaty.simulation.impact_statistics import StatisticsTarget
from treaty.simulation.impact_targets import NoisedTarget
from treaty.trainers.numpy_trainer import NumpyTrainer

__all__ = ["Setting", "probe_exact", "probe_noised", "probe_statistics", "statistics_views"]

Matrix = NDArray[np.float64]
Progress = Callable[[], None]

_NEWTON_BITS, _UPDATE_BITS = 32, 20
"""The grids of exact sums that a plan has by default."""

_PULL = 8.0
"""How much steeper than at the start the layers behind a trap are."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Who is attacked: `rows` at sites `place` (n,), and what the attacker has in hand.

    `strangers` (m, p) are rows of the same population outside the update. `attempts` models are
    tried for each kind of weights; `batch` rows a site take part, all when None.
    """

    rows: AssessedRows
    place: NDArray[np.int64] = field(repr=False)
    strangers: Matrix = field(repr=False)
    attempts: int
    entropy: bytes = field(repr=False)

    def sites(self) -> list[NDArray[np.int64]]:
        """Return the row numbers of each site that has any."""
        found = [np.flatnonzero(self.place == site) for site in np.unique(self.place)]
        return [rows for rows in found if len(rows)]


def probe_exact(
    specification: ModelSpecification,
    setting: Setting,
    generator: np.random.Generator,
    progress: Progress,
) -> tuple[RecoveryFinding, ...]:
    """Return what contributions to exact sums give away: one site's, and the sum over sites."""
    trainer, sites = NumpyTrainer(), setting.sites()
    findings = []
    for kind in ("honest", "trap"):
        seen: dict[str, list[Matrix]] = {"bare-update": [], "secure-sum": []}
        for model in _models(specification, setting, kind, generator):
            each = [
                trainer.compute(
                    TrainingTask(
                        specification,
                        model,
                        setting.rows.features[rows],
                        setting.rows.label[rows],
                        setting.entropy,
                    )
                )
                for rows in sites
            ]
            seen["bare-update"].append(_candidates(specification, each[:1]))
            seen["secure-sum"].append(_candidates(specification, each))
            progress()
        for view, found in seen.items():
            rows = sites[0] if view == "bare-update" else np.concatenate(sites)
            findings.append(
                recovery_finding(
                    count_recovered(
                        f"{view}.{kind}",
                        np.concatenate(found),
                        setting.rows.features[rows],
                        generator,
                        normalised=has_site_intercepts(specification),
                    ),
                    counts=view == "secure-sum",
                )
            )
    return tuple(findings)


def probe_noised(
    target: NoisedTarget, setting: Setting, generator: np.random.Generator, progress: Progress
) -> tuple[RecoveryFinding, ...]:
    """Return what gradient sums give away: bare, summed over sites, and clipped and noised."""
    sites, rows = setting.sites(), setting.rows
    findings = []
    for kind in ("honest", "trap"):
        seen: dict[str, list[Matrix]] = {"bare-update": [], "secure-sum": [], "noised-sum": []}
        for attempt, model in enumerate(_models(target.specification, setting, kind, generator)):
            plain, protected = [], []
            for chosen in sites:
                plain.append(_plain(model, target.parts(model, rows, chosen)))
                protected.append(target.clipped(model, rows, chosen))
            entropy = setting.entropy + attempt.to_bytes(4, "big") + kind.encode()
            total = np.sum(protected, axis=0)
            noised = total + target.noise(len(total), labelled_hash("probe noise", entropy))
            seen["bare-update"].append(_split(target.specification, model, plain[0]))
            seen["secure-sum"].append(_split(target.specification, model, np.sum(plain, axis=0)))
            seen["noised-sum"].append(_split(target.specification, model, noised.astype(float)))
            progress()
        for view, found in seen.items():
            numbers = sites[0] if view == "bare-update" else np.concatenate(sites)
            findings.append(
                recovery_finding(
                    count_recovered(
                        f"{view}.{kind}", np.concatenate(found), rows.features[numbers], generator
                    ),
                    counts=view == "noised-sum",
                )
            )
    return tuple(findings)


def probe_statistics(
    target: StatisticsTarget,
    setting: Setting,
    generator: np.random.Generator,
    progress: Progress,
) -> tuple[RecoveryFinding, ...]:
    """Return what one sum of statistics gives away: bare, summed over sites, and noised.

    It is asked for at zero coefficients, whatever the coordinator does: there are no trap weights.
    """
    seen = statistics_views(target, setting)
    progress()
    return tuple(
        recovery_finding(
            count_recovered(
                f"{view}.honest",
                target.candidates(total),
                setting.rows.features[numbers],
                generator,
            ),
            counts=view == "noised-sum",
        )
        for view, (total, numbers) in seen.items()
    )


def statistics_views(
    target: StatisticsTarget, setting: Setting
) -> dict[str, tuple[Matrix, NDArray[np.int64]]]:
    """Return by view what is seen, flat, and the numbers of the rows in it."""
    sites, rows = setting.sites(), setting.rows
    plain = [target.plain(rows, chosen) for chosen in sites]
    clipped = np.sum([target.statistics(rows, chosen) for chosen in sites], axis=0)
    noise = target.noise(len(clipped), labelled_hash("probe noise", setting.entropy))
    everybody = np.concatenate(sites)
    return {
        "bare-update": (plain[0], sites[0]),
        "secure-sum": (np.sum(plain, axis=0), everybody),
        "noised-sum": ((clipped + noise).astype(np.float64), everybody),
    }


def _models(
    specification: ModelSpecification,
    setting: Setting,
    kind: str,
    generator: np.random.Generator,
) -> list[NamedTensors]:
    """Return the models under which contributions are asked for."""
    start = initial_model(specification, setting.rows.features.shape[1])
    if kind == "honest":
        return [start]
    models = []
    for _ in range(setting.attempts):
        arrays = dict(zip(start.names, start.arrays, strict=True))
        if isinstance(specification, MultilayerPerceptron):
            units = specification.hidden[0]
            weights, bias = trap_layer(setting.strangers, units, generator)
            arrays = {
                # Strong errors from above keep what leaks well above the grid of the sum.
                name: array * _PULL if name.endswith(".weight") else array
                for name, array in arrays.items()
            }
            arrays |= {"layer.0.weight": weights, "layer.0.bias": bias}
        else:
            weights, offset = trap_plane(setting.strangers, generator)
            arrays[COEFFICIENTS] = weights
            if INTERCEPT in arrays:
                arrays[INTERCEPT] = np.array([offset])
        models.append(NamedTensors(start.manifest, [arrays[name] for name in start.names]))
    return models


def _candidates(specification: ModelSpecification, contributions: Sequence[NamedTensors]) -> Matrix:
    """Return candidate records of a sum of contributions, on the grid that sums have."""

    averaged = isinstance(specification, MultilayerPerceptron)

    def total(name: str) -> Matrix:
        grid = 2.0 ** (_UPDATE_BITS if averaged else _NEWTON_BITS)
        summed: Matrix = (
            np.sum([np.rint(one.float64(name) * grid) for one in contributions], axis=0) / grid
        )
        return summed

    if averaged:
        return layer_candidates(
            total(DELTA_PREFIX + "layer.0.weight"), total(DELTA_PREFIX + "layer.0.bias")
        )
    packed = total(HESSIAN)
    size = round((np.sqrt(8 * len(packed) + 1) - 1) / 2)
    return hessian_candidates(
        unpacked_triangle(packed, size), has_intercept=not has_site_intercepts(specification)
    )


def _plain(model: NamedTensors, parts: Sequence[GradientPart]) -> Matrix:
    """Return the sum of the rows' gradients as it is, flat in the order of the model's tensors."""
    found: dict[str, Matrix] = {}
    for part in parts:
        weight = part.layer.inputs.T @ part.layer.errors
        found[part.weight] = (weight.T if part.transposed else weight).ravel()
        if part.bias is not None:
            found[part.bias] = part.layer.errors.sum(axis=0)
    return np.concatenate([found[name] for name in model.names])


def _split(specification: ModelSpecification, model: NamedTensors, flat: Matrix) -> Matrix:
    """Return candidate records of a flat gradient sum over all tensors of `model`."""
    parts: dict[str, Tensor] = {}
    start = 0
    for tensor, array in zip(model.manifest, model.arrays, strict=True):
        parts[tensor.name] = flat[start : start + array.size].reshape(array.shape)
        start += array.size
    if isinstance(specification, MultilayerPerceptron):
        weight, bias = parts["layer.0.weight"], parts["layer.0.bias"]
    else:
        # The first dense layer is all there is: one unit.
        weight, bias = parts[COEFFICIENTS].reshape(-1, 1), parts[INTERCEPT]
    return layer_candidates(weight.astype(np.float64), bias.astype(np.float64))
