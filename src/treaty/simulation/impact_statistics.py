"""What is assessed where a model follows from one noised sum of statistics.

The study's own path: activations and errors at zero coefficients from the trainer, each person's
statistics clipped, added and noised by `node.noising`, the model by
`studies.progress.sufficient_model`. What a party sees is that one sum and the model that follows
from it: nobody can choose at which model it is asked for, so that there are no trap weights.

Guarantees: everything that reaches an attack went through the product's own trainer or mechanism.
LIMIT: as `treaty.simulation.impact_targets`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import TensorSpec
from treaty.assessment.attributes import Predict
from treaty.assessment.canaries import AuditPlan, SiteRound
from treaty.assessment.inversion import hessian_candidates, unpacked_triangle
from treaty.models.linear_solve import upper_triangle
from treaty.models.quadratic import row_statistics
from treaty.models.specification import COEFFICIENTS, GRADIENT, HESSIAN
from treaty.models.task import GradientPart
from treaty.node.noising import clipped_statistics, noised_contribution
from treaty.privacy.mechanisms import Layer
from treaty.privacy.surplus import NoiseKeys
from treaty.simulation.impact_rows import AssessedRows
from treaty.simulation.impact_targets import RING_BITS, NoisedTarget
from treaty.studies.progress import sufficient_model

__all__ = ["StatisticsTarget"]

Matrix = NDArray[np.float64]
Integers = NDArray[np.int64]
Bits = NDArray[np.bool_]

_BLOCK = 64
"""Canaries of one execution: there is a word for every pair of their coordinates."""

_ROWS = 8
"""How often each row of a canary stands there: sixteen rows of length one in all, for one clip."""


class StatisticsTarget(NoisedTarget):
    """A logistic regression from one noised sum of statistics, under calibrated terms."""

    def train(self, rows: AssessedRows, inside: Bits, entropy: bytes) -> Predict:
        """See `Target.train`: the sum carries the honest shares that are counted on, no more."""
        total = self.statistics(rows, np.flatnonzero(rows.of(inside)))
        total = total + self.noise(len(total), entropy)
        size = len(self.start.flat())
        gradient, hessian = np.split(total, [size])
        found = {GRADIENT: gradient, HESSIAN: hessian}
        model = sufficient_model(self.plan, self.start, found, self.cohort.members)
        return lambda asked: self.trainer.predict(self.specification, model, asked)

    def statistics(self, rows: AssessedRows, chosen: Integers) -> Integers:
        """Return the sum of the persons' clipped statistics, without noise."""
        order = chosen[np.argsort(rows.person[chosen], kind="stable")]
        return clipped_statistics(
            self.plan,
            self.start.manifest,
            lambda asked: self.parts(self.start, rows, asked),
            order,
            rows.person[order],
        )

    def plain(self, rows: AssessedRows, chosen: Integers) -> Matrix:
        """Return the sum of the rows' statistics as they are, neither clipped nor on a grid."""
        layers = {part.weight: part.layer for part in self.parts(self.start, rows, chosen)}
        names = [spec.name for spec in self.start.manifest]
        design = np.concatenate([layers[name].inputs for name in names], axis=1)
        summed: Matrix = row_statistics(design, layers[names[0]].errors[:, 0]).sum(axis=0)
        return summed

    def candidates(self, total: Matrix) -> Matrix:
        """Return candidate records (k, columns) of a sum of statistics, in any unit.

        From the outer products, as of a Hessian, and from the words that labels enter: either is
        one row, up to its length, where that row is alone or dominates.
        """
        size = len(self.start.flat())
        gradient, packed = np.split(total.astype(np.float64), [size])
        first, second = upper_triangle(size)
        packed = np.where(first == second, packed, packed / np.sqrt(2.0))
        found = [hessian_candidates(unpacked_triangle(packed, size), has_intercept=True)]
        if gradient[-1] != 0.0:
            found.append(gradient[None, :-1] / gradient[-1])
        return np.concatenate(found)

    def audit_plan(self, canaries: int) -> AuditPlan:
        """Return the audit of the one sum, with the honest shares that are counted on."""
        return AuditPlan(
            self.terms.clip,
            self.share_variance,
            claimed_shares=self.honest_shares,
            honest=self.honest_shares,
            rounds=1,
            ring_bits=RING_BITS,
            canaries=canaries,
            block=_BLOCK,
        )

    def release(self, item: SiteRound) -> Integers:
        """Return a member's release on canaries: (width,), one number for each of them.

        A canary's rows are of length one, as the product makes them, along a column of its own.
        Clipped they are half in the word that its label enters and half in that of its column with
        itself; an attacker adds both, which loses nothing of either and keeps the noise as it is.
        """
        width = item.vectors.shape[1]
        lengths = np.sqrt(np.square(item.vectors).sum(axis=1))
        design = np.repeat(item.vectors / lengths[:, None], _ROWS, axis=0)
        persons = np.repeat(item.persons, _ROWS)

        def parts(rows: Integers) -> Sequence[GradientPart]:
            # Half minus one: every canary has the outcome.
            layer = Layer(design[rows], np.full((len(rows), 1), -0.5), has_bias=False)
            return [GradientPart(COEFFICIENTS, None, layer)]

        manifest = (TensorSpec(name=COEFFICIENTS, shape=(width,)),)
        found = noised_contribution(
            self.plan,
            manifest,
            [f"{person:08d}" for person in persons],
            parts,
            self.cohort,
            ring_bits=item.ring_bits,
            keys=NoiseKeys(item.key),
            sampling_key=item.key,
        )
        told, squares = np.split(found, [width])
        first, second = upper_triangle(width)
        both = (told.astype(np.float64) + squares[first == second]) / np.sqrt(2.0)
        whole: Integers = np.rint(both).astype(np.int64)
        return whole
