"""The studies that the benchmarks run, behind one function each.

`Protected` is a consortium of the simulator: every party has its own directory, keys, store and
log, and every sum is masked, signed and mirrored. `run_unmasked` runs the same study's folds over
plain sums of the very integers that sites would mask: no keys, no log, no messages. The protected
run must end with the same bytes.

Predictions on holdout rows are computed as each site computes its own, from the published model and
the site's training rows. In a deployment they never leave the site; collecting them here is
simulation only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from treaty.contracts.conformance import ConformedData
from treaty.contracts.schema import Contract
from treaty.crypto import canonical
from treaty.datasets.registry import Dataset, packaged_text
from treaty.datasets.site_files import divided
from treaty.datasets.splits import HOLDOUT_PERMILLE
from treaty.errors import UsageError
from treaty.ids import Digest, MemberId
from treaty.models.specification import ModelSpecification
from treaty.node.contribution import LocalStudy
from treaty.ports import SiteData
from treaty.simulation.federation import Federation, SiteFilesToWrite
from treaty.studies.outcome import EvaluationOutcome
from treaty.studies.plan import AggregationSettings, Plan, SplitSettings
from treaty.studies.progress import StudyProgress, begin
from treaty.trainers.numpy_trainer import NumpyTrainer

__all__ = [
    "Divided",
    "Protected",
    "StudyRun",
    "divide",
    "make_plan",
    "run_unmasked",
    "site_files",
]

Vector = NDArray[np.float64]
Divided = Mapping[MemberId, SiteData]
"""Every site's training and holdout rows."""

_ENTROPY = bytes(32)
"""Newton's method draws nothing; the trainer's interface asks for bytes all the same."""

_LEAST_SUPPORT = 3

# One row suffices for a site to support a column. With the default of five, Switzerland's 46 rows
# leave columns under three supporting sites in most splits, and the study rightly halts.
_AGGREGATION = AggregationSettings(support_rows=1)


@dataclass(frozen=True, slots=True)
class StudyRun:
    """What a finished study gave.

    `rounds` counts training rounds, `sums` all secure sums; `scores` are predicted probabilities on
    each site's holdout rows, in the order of its rows. `settled` counts the training rounds after
    which every probability stayed within the asked distance of a reference, if one was given.
    """

    model: Digest
    rounds: int
    sums: int
    scores: Mapping[MemberId, Vector]
    outcome: EvaluationOutcome
    settled: int | None = None


def divide(
    sites: Mapping[MemberId, ConformedData], seed: int, *, each_by_itself: bool = False
) -> dict[MemberId, SiteData]:
    """Return the sites' rows, divided as every site of a study with this seed divides its own.

    `each_by_itself` as in a study under noise.
    """
    return {
        site: divided(
            data,
            site=site,
            holdout_permille=HOLDOUT_PERMILLE,
            seed=seed,
            each_by_itself=each_by_itself,
        )
        for site, data in sites.items()
    }


def site_files(dataset: Dataset) -> dict[MemberId, SiteFilesToWrite]:
    """Return what each site of a known set keeps in its directory."""
    return {
        site: SiteFilesToWrite(
            source.csv_bytes(),
            packaged_text(
                "adapters", f"heart-{site}" if dataset.name == "heart" else dataset.name
            ).encode(),
        )
        for site, source in dataset.sites.items()
    }


def make_plan(contract: Contract, model: ModelSpecification, seed: int) -> Plan:
    """Return the plan of one benchmark study, bound to no charter."""
    nothing = Digest("0" * 64)
    return Plan(
        study=MemberId("benchmark"),
        title="benchmark",
        purpose="benchmark",
        charter=nothing,
        contract=canonical.digest_of(contract),
        code=nothing,
        model=model,
        split=SplitSettings(holdout_permille=HOLDOUT_PERMILLE, seed=seed),
        aggregation=_AGGREGATION,
    )


def run_unmasked(
    plan: Plan,
    contract: Contract,
    parts: Divided,
    reference: Mapping[MemberId, Vector] | None = None,
    within: float = 0.0,
) -> StudyRun:
    """Run the study of `plan` over plain sums; `UsageError` when it halts.

    With `reference`, predicted probabilities by site, `settled` says how many training rounds it
    took to come, and stay, `within` of it.
    """
    sites = [LocalStudy(plan, data, NumpyTrainer()) for data in parts.values()]
    progress = begin(plan, contract, members=len(parts), least_support=_LEAST_SUPPORT)
    settled: int | None = None
    while not progress.finished:
        query = progress.expected_query()
        vectors = [site.answer(query, progress, _ENTROPY).vector for site in sites]
        total = vectors[0].copy()
        for vector in vectors[1:]:
            # Unsigned addition wraps, as the ring's does.
            total += vector
        before, progress = progress, progress.absorb(query, total, len(vectors))
        if reference is not None and len(progress.trace) > len(before.trace):
            apart = _apart(_scores(progress, parts), reference)
            settled = None if apart > within else settled or len(progress.trace)
    return replace(_finished(progress, parts), settled=settled)


def _apart(scores: Mapping[MemberId, Vector], reference: Mapping[MemberId, Vector]) -> float:
    return max(float(np.max(np.abs(scores[site] - reference[site]))) for site in reference)


class Protected:
    """A consortium of the simulator below `directory`, founded with `sites`."""

    def __init__(
        self,
        directory: Path,
        sites: Mapping[MemberId, SiteFilesToWrite],
        contract: Contract,
        *,
        durable: bool,
        workers: int = 1,
    ) -> None:
        Federation.found(directory, sites, consortium="benchmark")
        self.federation = Federation(directory, in_memory=not durable, workers=workers)
        self._contract = contract

    def __enter__(self) -> Self:
        self.federation.establish()
        return self

    def __exit__(self, *_: object) -> None:
        self.federation.close()

    def run(
        self,
        name: str,
        model: ModelSpecification,
        seed: int,
        parts: Divided,
        watch: Callable[[], None] | None = None,
    ) -> StudyRun:
        """Ratify and run one study; `UsageError` when it halts.

        `parts` must be the same files, divided under `seed`; `watch` is called between frames.
        """
        plan = self.federation.plan(
            name,
            self._contract,
            model,
            split=SplitSettings(holdout_permille=HOLDOUT_PERMILLE, seed=seed),
            aggregation=_AGGREGATION,
        )
        study = self.federation.run_study(plan, self._contract, watch)
        return _finished(study.progress, parts)


def _finished(progress: StudyProgress, parts: Divided) -> StudyRun:
    if progress.evaluation is None:
        raise UsageError(f"the study halted: {progress.halt_reason}")
    return StudyRun(
        model=progress.model_digest,
        rounds=len(progress.trace),
        sums=progress.index,
        scores=_scores(progress, parts),
        outcome=progress.evaluation,
    )


def _scores(progress: StudyProgress, parts: Divided) -> dict[MemberId, Vector]:
    return {
        site: LocalStudy(progress.plan, data, NumpyTrainer()).scores(progress, _ENTROPY)[0]
        for site, data in parts.items()
    }
