"""Contribution: what one site computes for one query, before masking.

The order of the pipeline is fixed: compute, check against the plan's manifest and bounds, quantise;
under noise compute, clip every person, quantise, add the site's share of noise
(`treaty.node.noising`). Charging comes after and before masking. Everything here happens inside
the site; the result leaves only under masks.

Guarantees (docs/spec/studies.md, section 2):
  * The vector has exactly the query's layout, or the site declines with a closed code.
  * The trainer is foreign code and is asked through a `GuardedTrainer` only. Nothing of the rows
    stands in an exception: callers journal the cause and send a closed code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.quantization import RingVector, encode, encode_grid, ring_vector
from treaty.aggregation.tensors import NamedTensors
from treaty.contracts.conformance import ConformedData, support_indicator
from treaty.contracts.design import design_columns
from treaty.contracts.normalisation import Normaliser, moments, normaliser_from_sums
from treaty.crypto.canonical import sha256
from treaty.errors import PolicyError, UsageError
from treaty.evaluation.metrics import (
    ModelFigures,
    ScoreSums,
    exact_figures,
    local_cells,
    local_sums,
)
from treaty.ids import Digest
from treaty.models.specification import contribution_bounds, contribution_manifest
from treaty.models.task import GradientPart, TrainingTask, check_contribution
from treaty.node.guarding import GuardedTrainer
from treaty.node.noising import noised_contribution, noised_histogram
from treaty.ports import SiteData, Trainer
from treaty.privacy.certificate import Cohort
from treaty.privacy.distributed import noise_commitment
from treaty.privacy.surplus import NoiseKeys, noise_keys
from treaty.privacy.terms import NoisedTerms
from treaty.protocol.secagg_claims import claim_of
from treaty.protocol.secagg_lifecycle import Lock
from treaty.protocol.secure_round import RoundRecord
from treaty.studies.plan import Plan
from treaty.studies.progress import StudyProgress
from treaty.studies.queries import CONTRIBUTORS, ROWS, Query, QueryKind
from treaty.studies.surplus import opening_numbers

__all__ = ["Answer", "LocalStudy", "claim_in"]

Matrix = NDArray[np.float64]

NO_ENTROPY = bytes(32)
"""For computations that draw nothing."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A site's unmasked contribution as ring integers. It stays at the site.

    Under noise, `noise` is the commitment to the key of the noise that is in it, `surplus` those of
    the parts that may come off again, and `keys` all these keys: whoever has them can take this
    site's noise off.
    """

    vector: RingVector = field(repr=False)
    noise: Digest | None = None
    surplus: tuple[Digest, ...] = ()
    keys: NoiseKeys | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class LocalStudy:
    """One site's side of a study: its rows, its trainer, the plan."""

    plan: Plan
    data: SiteData = field(repr=False)
    trainer: Trainer

    def __post_init__(self) -> None:
        """Put the guard around the trainer, once, where no caller can forget it."""
        if not isinstance(self.trainer, GuardedTrainer):
            object.__setattr__(self, "trainer", GuardedTrainer(self.trainer))

    def answer(
        self,
        query: Query,
        progress: StudyProgress,
        entropy: bytes,
        cohort: Cohort | None = None,
        *,
        opens: bool = False,
    ) -> Answer:
        """Return the contribution to `query` at the state `progress`.

        `cohort` is the group now, from which the share of noise follows; `entropy` 32 fresh bytes.
        Only with `opens` is noise drawn so that parts of it can come off again, as the plan says.

        Raises `PolicyError` (codes of `check_contribution`, ``overflow``, ``rows-over-bound``,
        of `GuardedTrainer`) when the site has nothing that may be sent.
        """
        training, holdout = self.data.training, self.data.holdout
        bound = self.plan.aggregation.max_persons_per_site
        if max(training.rows, holdout.rows) > bound:
            raise PolicyError(
                f"the site has more rows than max_persons_per_site = {bound}",
                code="rows-over-bound",
            )
        match query.kind:
            case QueryKind.COUNT | QueryKind.DESCENT | QueryKind.SUFFICIENT | QueryKind.SCORES:
                if cohort is None:
                    raise UsageError("a noised sum needs the group from which shares follow")
                if query.kind is QueryKind.SCORES:
                    return self._noised_scores(query, progress, entropy, cohort)
                return self._noised(query, progress, entropy, cohort, opens=opens)
            case QueryKind.SUPPORT:
                values: Mapping[str, object] = {
                    "support": support_indicator(training, self.plan.aggregation.support_rows)
                }
                rows = 0
            case QueryKind.STATISTICS:
                sums = moments(training)
                values, rows = {"sums": sums.sums, "squares": sums.squares}, training.rows
            case QueryKind.NEWTON | QueryKind.AVERAGING:
                tensors = self._trained(progress, entropy)
                values = {name: tensors.float64(name).ravel() for name in tensors.names}
                rows = 0
            case QueryKind.EVALUATION:
                values, rows = self._evaluated(progress, entropy), holdout.rows
        flat = [
            np.asarray(values[part.name], dtype=np.float64).ravel()
            for part in query.layout.segments
            if part.name not in (ROWS, CONTRIBUTORS)
        ]
        flat.append(np.array([rows, 1], dtype=np.float64))
        return Answer(encode(np.concatenate(flat), query.layout))

    def figures(
        self, progress: StudyProgress, entropy: bytes
    ) -> tuple[ModelFigures, ModelFigures] | None:
        """Return this site's exact figures on its own holdout: federated, and its own model alone.

        None when the holdout has no rows. They leave only where the matrix allows site figures.
        Raises `PolicyError` as `answer` does.
        """
        holdout = self.data.holdout
        if holdout.rows == 0:
            return None
        threshold = self.plan.evaluation.threshold_permille
        federated, alone = self.scores(progress, entropy)
        return (
            exact_figures(federated, holdout.label, threshold_permille=threshold),
            exact_figures(alone, holdout.label, threshold_permille=threshold),
        )

    def scores(self, progress: StudyProgress, entropy: bytes) -> tuple[Matrix, Matrix]:
        """Return predicted probabilities on the holdout: by the federated model, and alone."""
        return (
            self.federated_scores(progress, entropy),
            self.alone_scores(progress, self.data.holdout, entropy),
        )

    def federated_scores(self, progress: StudyProgress, entropy: bytes = NO_ENTROPY) -> Matrix:
        """Return the federated model's probabilities on the holdout, with the own intercept."""
        state = self.trainer.site_state(self._task(progress, progress.model, entropy))
        held = self._features(progress, self.data.holdout)
        return self.trainer.predict(self.plan.model, progress.model, held, state)

    def alone_scores(
        self, progress: StudyProgress, rows: ConformedData, entropy: bytes = NO_ENTROPY
    ) -> Matrix:
        """Return the probabilities of `rows` by this site's own model, trained on its rows only."""
        # Alone means alone: the site's own means and scales too.
        local = replace(progress, normaliser=self._own_normaliser(progress))
        own = self.trainer.alone(self._task(local, progress.model, entropy))
        state = self.trainer.site_state(self._task(local, own, entropy))
        return self.trainer.predict(self.plan.model, own, self._features(local, rows), state)

    def rows(self, progress: StudyProgress) -> tuple[tuple[Matrix, Matrix], tuple[Matrix, Matrix]]:
        """Return (features, labels) of training and of holdout, normalised. For the site itself."""
        training, holdout = self.data.training, self.data.holdout
        return (
            (self._features(progress, training), training.label),
            (self._features(progress, holdout), holdout.label),
        )

    def _own_normaliser(self, progress: StudyProgress) -> Normaliser:
        training = self.data.training
        own = moments(training)
        bits = self.plan.aggregation.statistics_scale_bits
        return normaliser_from_sums(
            progress.contract,
            count=training.rows,
            sums=[round(value * 2.0**bits) for value in own.sums.tolist()],
            squares=[round(value * 2.0**bits) for value in own.squares.tolist()],
            scale_bits=bits,
            contributors=1,
        )

    def _trained(self, progress: StudyProgress, entropy: bytes) -> NamedTensors:
        spec = self.plan.model
        columns = len(design_columns(progress.contract))
        settings = self.plan.aggregation
        return check_contribution(
            contribution_manifest(spec, columns),
            self.trainer.compute(self._task(progress, progress.model, entropy)),
            contribution_bounds(
                spec,
                columns,
                max_persons=settings.max_persons_per_site,
                feature_clip=settings.feature_clip,
            ),
        )

    def _evaluated(self, progress: StudyProgress, entropy: bytes) -> dict[str, object]:
        federated = self._sums("federated", self.federated_scores(progress, entropy))
        if isinstance(self.plan.privacy, NoisedTerms):
            # The model alone would be an exact function of training rows.
            return federated
        alone = self.alone_scores(progress, self.data.holdout, entropy)
        return {**federated, **self._sums("alone", alone)}

    def _noised(
        self,
        query: Query,
        progress: StudyProgress,
        entropy: bytes,
        cohort: Cohort,
        *,
        opens: bool,
    ) -> Answer:
        training = self.data.training
        tensors = None
        if query.kind is not QueryKind.COUNT:

            def parts(rows: NDArray[np.int64]) -> Sequence[GradientPart]:
                features = self._features(progress, training)[rows]
                task = TrainingTask(
                    self.plan.model, progress.model, features, training.label[rows], NO_ENTROPY
                )
                return self.trainer.layers(task)

            tensors = parts
        parts_off = opening_numbers(self.plan, query.kind, cohort) if opens else ()
        keys = noise_keys(entropy, len(parts_off))
        found = noised_contribution(
            self.plan,
            progress.model.manifest,
            training.persons,
            tensors,
            cohort,
            ring_bits=query.layout.ring_bits,
            keys=keys,
            sampling_key=entropy,
        )
        return _noised_answer(query, found, keys)

    def _noised_scores(
        self, query: Query, progress: StudyProgress, entropy: bytes, cohort: Cohort
    ) -> Answer:
        # Nothing of it comes off again: there is one key.
        holdout, keys = self.data.holdout, noise_keys(entropy, 0)
        scores = self.federated_scores(progress)
        found = noised_histogram(
            self.plan,
            local_cells(scores, holdout.label, self.plan.evaluation.bins),
            holdout.persons,
            cohort,
            ring_bits=query.layout.ring_bits,
            key=keys.base,
        )
        return _noised_answer(query, found, keys)

    def _sums(self, model: str, scores: Matrix) -> dict[str, object]:
        sums: ScoreSums = local_sums(
            scores,
            self.data.holdout.label,
            bins=self.plan.evaluation.bins,
            threshold_permille=self.plan.evaluation.threshold_permille,
        )
        scale = 2.0**-sums.residual_scale_bits
        return {
            f"{model}.negative": sums.negative,
            f"{model}.positive": sums.positive,
            f"{model}.correct": [sums.correct],
            # A multiple of the grid step: quantising gives the same integer back.
            f"{model}.residual": [sums.residual * scale],
        }

    def _task(self, progress: StudyProgress, model: NamedTensors, entropy: bytes) -> TrainingTask:
        training = self.data.training
        return TrainingTask(
            self.plan.model, model, self._features(progress, training), training.label, entropy
        )

    def _features(self, progress: StudyProgress, data: ConformedData) -> Matrix:
        if progress.normaliser is None:
            raise UsageError("expected a normaliser before training")
        return progress.normaliser.apply(
            data.features, clip=float(self.plan.aggregation.feature_clip)
        )


def _noised_answer(query: Query, words: NDArray[np.int64], keys: NoiseKeys) -> Answer:
    """Return the answer of one contributor, of no counted rows, with the noise of `keys` in it."""
    flat = np.concatenate([words, np.array([0, 1], dtype=np.int64)])
    return Answer(
        encode_grid(flat, query.layout),
        noise_commitment(keys.base, query.digest),
        keys.commitments(query.digest),
        keys,
    )


def claim_in(record: RoundRecord, premask: bytes | None, lock: Lock | None) -> str | None:
    """Return a member's claim about its vector before masking; None in a round without claims.

    EXPERIMENTAL (`treaty.protocol.secagg_claims`). Raises `PolicyError` (code ``vector-differs``)
    when the vector that it sent is gone: then it answers nothing.
    """
    if record.claim_bound is None or record.survivors is None:
        return None
    if premask is None or lock is None or sha256(premask) != lock.vector:
        raise PolicyError("the vector to make a claim about is gone", code="vector-differs")
    asked = record.opened.predicate
    return claim_of(ring_vector(premask, asked.ring_bits, asked.length), record.survivors)
