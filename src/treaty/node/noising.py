"""Noising: a site's clipped and noised contribution to one sum, as grid integers.

The order is fixed: gradients of the rows, clip each person, onto the grid, add up, add the site's
share of noise (docs/spec/privacy.md, section 9). Charging and masking come after.

Guarantees:
  * A person moves the result by at most the plan's sensitivity; the share of noise follows from
    the plan and the group alone.
  * The trainer gives activations and errors only. Clipping, adding and noise are done here, so
    a trainer cannot leave them out.

LIMIT: that a row's activations and errors depend on that row alone is the trainer's promise;
the plan names the digest of the code that keeps it.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import Manifest, element_count
from treaty.errors import PolicyError, UsageError
from treaty.models.quadratic import row_statistics, statistics_width
from treaty.models.task import GradientPart
from treaty.privacy.certificate import Cohort
from treaty.privacy.distributed import (
    count_units,
    ghost_person_sum,
    noised,
    person_sum,
    persons_in_order,
    sampled_persons,
)
from treaty.privacy.mechanisms import clipped_sum
from treaty.privacy.surplus import NoiseKeys, noised_in_parts
from treaty.privacy.terms import (
    HOLDOUT_CLIP,
    DistributedGaussian,
    NoisedHoldout,
    noise_tiers,
    share_of,
)
from treaty.studies.noise import descent_terms, noise_terms, uses_ghost_norms
from treaty.studies.plan import Plan

__all__ = [
    "clipped_gradient",
    "clipped_statistics",
    "counted_cells",
    "noised_contribution",
    "noised_histogram",
]

Integers = NDArray[np.int64]
Parts = Callable[[NDArray[np.int64]], Sequence[GradientPart]]
"""From row numbers to what their gradients are made of, in the same order."""


def noised_contribution(
    plan: Plan,
    manifest: Manifest,
    persons: Sequence[str],
    parts: Parts | None,
    cohort: Cohort,
    *,
    ring_bits: int,
    keys: NoiseKeys,
    sampling_key: bytes,
) -> Integers:
    """Return a site's noised words, int64: what the plan trains `manifest` from, or a count.

    Without `parts` persons are counted. `keys` are of the noise (for this vector only): with those
    of its parts the noise is such that they come off, without them all stays in. `sampling_key`
    decides who takes part where the plan samples. Raises `PolicyError` as
    `privacy.distributed`, ``contribution-names`` or ``contribution-shape``.
    """
    terms = noise_terms(plan)
    order, person = persons_in_order(persons)
    variance = terms.variance
    if parts is None:
        total, variance = count_units(person, terms.clip), descent_terms(plan).count_variance
    elif isinstance(terms, DistributedGaussian):
        chosen = sampled_persons(person, terms.rate, sampling_key)
        rows, person = order[chosen], person[chosen]
        total = clipped_gradient(plan, manifest, parts, rows, person)
    else:
        total = clipped_statistics(plan, manifest, parts, order, person)
    tiers = noise_tiers(terms, variance, cohort)
    return noised_in_parts(total, tiers, keys, ring_bits=ring_bits)


def noised_histogram(
    plan: Plan,
    cells: NDArray[np.int64],
    persons: Sequence[str],
    cohort: Cohort,
    *,
    ring_bits: int,
    key: bytes,
) -> Integers:
    """Return a site's noised histogram of the holdout, int64: one word for each cell.

    `cells` (n,) is the word of each row, `persons` who it is. A person is one, shared out evenly
    over its rows. `key` as in `noised_contribution`. Guarantee: one person added or removed moves
    it by at most `HOLDOUT_CLIP.units`, exactly. Raises `UsageError` where the holdout is exact.
    """
    terms = noise_terms(plan)
    if not isinstance(terms.holdout, NoisedHoldout):
        raise UsageError("the plan's holdout is exact: it has no noise")
    total = counted_cells(cells, persons, 2 * plan.evaluation.bins)
    share = share_of(terms, terms.holdout.variance, cohort)
    return noised(total, share_variance=share, ring_bits=ring_bits, key=key)


def counted_cells(cells: NDArray[np.int64], persons: Sequence[str], width: int) -> Integers:
    """Return the persons in each of `width` cells, in grid units. No noise is in it.

    Guarantee: as `noised_histogram`; also where cells are not those of the rows, it stays within
    the clip.
    """
    order, person = persons_in_order(persons)
    if not len(order):
        return np.zeros(width, dtype=np.int64)
    rows = np.bincount(person)

    def parts(start: int, stop: int) -> NDArray[np.float64]:
        found = np.zeros((stop - start, width))
        each = 1.0 / rows[person[start:stop]]
        found[np.arange(stop - start), cells[order[start:stop]]] = each
        return found

    return clipped_sum(parts, person, width, HOLDOUT_CLIP)


def clipped_gradient(
    plan: Plan,
    manifest: Manifest,
    parts: Parts,
    rows: NDArray[np.int64],
    person: NDArray[np.int64],
) -> Integers:
    """Return the sum of clipped gradients over persons, tensor after tensor of `manifest`.

    `rows` are row numbers sorted by `person`. No noise is in it: it stays at the site.
    """
    terms = noise_terms(plan)
    if not len(rows):
        return np.zeros(sum(element_count(spec) for spec in manifest), dtype=np.int64)
    found = parts(rows)
    layers = [part.layer for part in found]
    _check_names(found, manifest)
    adds = ghost_person_sum if uses_ghost_norms(plan.model) else person_sum
    return _in_manifest_order(adds(layers, person, terms.clip), found, manifest)


def clipped_statistics(
    plan: Plan,
    manifest: Manifest,
    parts: Parts,
    rows: NDArray[np.int64],
    person: NDArray[np.int64],
) -> Integers:
    """Return the sum of clipped statistics over persons, as `models.quadratic.row_statistics`.

    `parts` are those at zero coefficients; `rows` are row numbers sorted by `person`. No noise is
    in it: it stays at the site. Guarantee: one person's rows added or removed move it by at most
    the clip in grid units, exactly, whatever the trainer returned, if a row's activations and
    errors depend on that row alone.
    """
    clip, size = noise_terms(plan).clip, sum(element_count(spec) for spec in manifest)
    if not len(rows):
        return np.zeros(statistics_width(size), dtype=np.int64)
    found = parts(rows)
    _check_names(found, manifest)
    layers = {part.weight: part.layer for part in found}
    if any(layer.has_bias or layer.errors.shape[1] != 1 for layer in layers.values()):
        raise PolicyError(
            "expected one error for every row from the trainer", code="contribution-shape"
        )
    design = np.concatenate([layers[one.name].inputs for one in manifest], axis=1)
    errors = layers[manifest[0].name].errors[:, 0]
    if any(not np.array_equal(layer.errors[:, 0], errors) for layer in layers.values()):
        raise PolicyError("expected one error for every row", code="contribution-shape")

    def statistics(start: int, stop: int) -> NDArray[np.float64]:
        # Numbers out of range become infinite, and are refused by the clipping.
        with np.errstate(over="ignore", invalid="ignore"):
            return row_statistics(design[start:stop], errors[start:stop])

    return clipped_sum(statistics, person, statistics_width(size), clip)


def _check_names(parts: Sequence[GradientPart], manifest: Manifest) -> None:
    """Refuse parts that are not the plan's tensors, each once and in its shape."""
    wanted = {spec.name: spec for spec in manifest}
    names = [name for part in parts for name in (part.weight, part.bias) if name is not None]
    if sorted(names) != sorted(wanted):
        raise PolicyError(
            f"expected gradients of {', '.join(sorted(wanted))} from the trainer",
            code="contribution-names",
        )
    for part in parts:
        inputs, outputs = part.layer.inputs.shape[1], part.layer.errors.shape[1]
        shapes: set[tuple[int, ...]] = {(outputs, inputs) if part.transposed else (inputs, outputs)}
        if outputs == 1 and not part.transposed:
            shapes.add((inputs,))
        fits = wanted[part.weight].shape in shapes and part.layer.has_bias == (
            part.bias is not None
        )
        if not fits or (part.bias is not None and wanted[part.bias].shape != (outputs,)):
            raise PolicyError(
                f"expected a gradient of the shape of {part.weight} from the trainer",
                code="contribution-shape",
            )


def _in_manifest_order(
    total: Integers, parts: Sequence[GradientPart], manifest: Manifest
) -> Integers:
    """Return the words of `total`, which are in the order of `parts`, in that of `manifest`."""
    found: dict[str, Integers] = {}
    start = 0
    for part in parts:
        inputs, outputs = part.layer.inputs.shape[1], part.layer.errors.shape[1]
        weight = total[start : start + inputs * outputs].reshape(inputs, outputs)
        found[part.weight] = (weight.T if part.transposed else weight).ravel()
        start += inputs * outputs
        if part.bias is not None:
            found[part.bias] = total[start : start + outputs]
            start += outputs
    return np.concatenate([found[spec.name] for spec in manifest])
