"""The federated model beside the models that sites reach alone.

"Alone" is every site's own model on its own holdout, pooled only through the secure sum of
histograms (docs/spec/training.md, section 6). Figures of single sites appear where the charter
shows them, and only for holdouts with enough rows of both classes.

The rule is fixed before the run and errs towards `INCONCLUSIVE`: both models are judged on
the same patients, so the standard error of the difference is at most the sum of the two, and
that sum is used, with both half-widths of binning on top.

LIMIT: pooled scores of the models alone come from different models; their area also reflects how
well these are calibrated against each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from treaty.errors import VerificationError
from treaty.evaluation.metrics import ModelFigures

__all__ = ["LEAST_PER_CLASS", "Comparison", "SiteComparison", "Verdict", "compare", "site_table"]

LEAST_PER_CLASS = 10
"""Rows of each class that a single site's area needs to be shown."""

_DEVIATIONS_PERMILLE = 1960
"""Two-sided 95 % of the normal distribution, in thousandths."""


class Verdict(Enum):
    """What the registered comparison of areas says about the federated model."""

    SUPERIOR = "superior"
    INFERIOR = "inferior"
    INCONCLUSIVE = "inconclusive"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Federated minus alone, in parts per million; a negative `brier` difference is better.

    `auc_margin` bounds both sampling (95 %) and binning of the difference of areas; it is absent
    where an area or its error is.
    """

    federated: ModelFigures
    alone: ModelFigures
    accuracy: int
    brier: int
    auc: int | None
    auc_margin: int | None
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class SiteComparison:
    """One site's line: differences on its own holdout, areas withheld where a class is small."""

    site: str
    rows: int
    accuracy: int
    brier: int
    auc: int | None


def compare(federated: ModelFigures, alone: ModelFigures) -> Comparison:
    """Return the registered comparison of two figures of the same holdout rows.

    Raises `VerificationError` (code ``sum-implausible``) when rows or positives differ.
    """
    if (federated.rows, federated.positives) != (alone.rows, alone.positives):
        raise VerificationError(
            f"expected figures of the same rows, got {federated.rows} with {federated.positives} "
            f"positives and {alone.rows} with {alone.positives}",
            code="sum-implausible",
        )
    difference = _difference(federated.auc, alone.auc)
    errors = (federated.auc_error, alone.auc_error)
    widths = (federated.auc_half_width, alone.auc_half_width)
    margin: int | None = None
    verdict = Verdict.INCONCLUSIVE
    if difference is not None and None not in errors and None not in widths:
        sampling = sum(error or 0 for error in errors) * _DEVIATIONS_PERMILLE
        margin = -(-sampling // 1000) + sum(width or 0 for width in widths)
        if difference > margin:
            verdict = Verdict.SUPERIOR
        elif difference < -margin:
            verdict = Verdict.INFERIOR
    return Comparison(
        federated=federated,
        alone=alone,
        accuracy=federated.accuracy - alone.accuracy,
        brier=federated.brier - alone.brier,
        auc=difference,
        auc_margin=margin,
        verdict=verdict,
    )


def site_table(
    sites: Mapping[str, tuple[ModelFigures, ModelFigures]], *, least: int = LEAST_PER_CLASS
) -> tuple[SiteComparison, ...]:
    """Return one line for each site, by name, from its (federated, alone) figures.

    Sites with fewer than `least` rows have no line; an area needs `least` rows of both classes.
    Raises `VerificationError` when the two figures of a site are of different rows.
    """
    table: list[SiteComparison] = []
    for site in sorted(sites):
        comparison = compare(*sites[site])
        rows, positives = comparison.federated.rows, comparison.federated.positives
        if rows < least:
            continue
        shown = min(positives, rows - positives) >= least
        table.append(
            SiteComparison(
                site=site,
                rows=rows,
                accuracy=comparison.accuracy,
                brier=comparison.brier,
                auc=comparison.auc if shown else None,
            )
        )
    return tuple(table)


def _difference(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first - second
