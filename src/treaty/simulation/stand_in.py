"""Stand-ins: data to rehearse a study on, before any real row is touched.

Two kinds: drawn from the contract alone (ranges, typical values, shares of levels; effects drawn
anew each repeat and scaled to an expected area), or, more telling, a public cousin set that
meets a contract of its own.

Guarantees (docs/spec/whatif.md, section 2): a stand-in is a function of contract, sizes,
expectations and seed; no file of a real site takes part unless it is passed as the cousin.
Rows are prepared as a study with noise prepares them: scaled by the contract's public bounds,
a constant column added, then brought to length one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from treaty.contracts.conformance import ConformedData
from treaty.contracts.decimals import exact
from treaty.contracts.design import design_columns
from treaty.contracts.normalisation import normaliser_from_bounds
from treaty.contracts.schema import Category, Contract, Number
from treaty.errors import UsageError
from treaty.ids import MemberId
from treaty.models.specification import LogisticRegression
from treaty.studies.plan import AggregationSettings
from treaty.trainers.linear_family import with_constant

__all__ = ["Cousin", "Expectations", "SchemaSampled", "SiteRows", "StandIn", "public_rows"]

_MODEL = LogisticRegression(site_intercepts=False, unit_rows=True)
_FEATURE_CLIP = float(AggregationSettings().feature_clip)

Array = NDArray[np.float64]
SiteRows = tuple[Array, Array]
"""Prepared features of shape (n, p + 1), rows of length one; labels of shape (n,), 0 or 1."""


@dataclass(frozen=True, slots=True)
class Expectations:
    """What is expected of data nobody has seen.

    `area` is the area under the curve of the best score that the columns allow (above 0.5, at most
    0.99), `prevalence` the share of rows with the outcome, `site_spread` the standard deviation of
    the sites' own log odds, which the columns do not show.
    """

    area: float = 0.85
    prevalence: float = 0.3
    site_spread: float = 0.5

    def __post_init__(self) -> None:
        if not 0.5 < self.area <= 0.99:
            raise UsageError(f"expected area must be above 0.5 and at most 0.99, got {self.area}")
        if not 0.01 <= self.prevalence <= 0.99:
            raise UsageError(f"expected prevalence must be in 0.01 .. 0.99, got {self.prevalence}")
        if not 0.0 <= self.site_spread <= 5.0:
            raise UsageError(f"expected site spread must be in 0 .. 5, got {self.site_spread}")


@dataclass(frozen=True, slots=True)
class SchemaSampled:
    """A stand-in drawn from a contract: `sizes` rows for each site."""

    contract: Contract
    sizes: Mapping[str, int]
    expectations: Expectations = Expectations()

    @property
    def note(self) -> str:
        """Say what the stand-in is."""
        expected = self.expectations
        return (
            f"drawn from the contract {self.contract.name} alone: expected area "
            f"{expected.area:.2f}, prevalence {expected.prevalence:.2f}, sites differing by "
            f"{expected.site_spread:.2f} log odds"
        )

    def draw(self, repeat: int) -> dict[str, SiteRows]:
        """Return the rows of every site in the given repeat: new rows, new effects."""
        generator = np.random.Generator(np.random.PCG64([0x7EA7, repeat]))
        order = sorted(self.sizes)
        raw = np.vstack([self._features(self.sizes[site], generator) for site in order])
        owner = np.repeat(np.arange(len(order)), [self.sizes[site] for site in order])
        offsets = generator.standard_normal(len(order)) * self.expectations.site_spread
        # One effect for each step of a public spread: a column that hardly moves within its range
        # then carries little, as such columns do.
        spread = np.asarray(normaliser_from_bounds(self.contract).scale)
        score = (raw / spread) @ generator.standard_normal(raw.shape[1])
        score -= score.mean()
        score /= max(float(score.std()), 1e-12)
        log_odds = self._scaled(score, offsets[owner])
        label = (generator.random(len(raw)) < _logistic(log_odds)).astype(np.float64)
        rows = public_rows(self.contract, raw)
        return {site: (rows[owner == at], label[owner == at]) for at, site in enumerate(order)}

    def _features(self, count: int, generator: np.random.Generator) -> Array:
        columns: list[Array] = []
        for feature in self.contract.features:
            match feature:
                case Number():
                    low, high = (float(exact(bound)) for bound in feature.range)
                    centre, spread = float(exact(feature.centre)), float(exact(feature.spread)) / 2
                    if feature.typical is not None:
                        first, last = (float(exact(bound)) for bound in feature.typical)
                        centre, spread = (first + last) / 2, (last - first) / 4
                    drawn = centre + spread * generator.standard_normal(count)
                    columns.append(np.clip(drawn, low, high))
                case Category():
                    columns += _indicators(feature, count, generator)
        return np.column_stack(columns)

    def _scaled(self, score: Array, offset: Array) -> Array:
        """Return log odds in which ranking by `score` has the expected area, and the mean risk."""
        low, high = 0.0, 64.0
        wanted = self.expectations
        log_odds = offset
        for _ in range(40):
            middle = 0.5 * (low + high)
            log_odds = _with_prevalence(score * middle + offset, wanted.prevalence)
            if _expected_area(score, _logistic(log_odds)) < wanted.area:
                low = middle
            else:
                high = middle
        return log_odds


@dataclass(frozen=True, slots=True)
class Cousin:
    """A public set that resembles the real one; every repeat sees the same rows."""

    name: str
    contract: Contract
    sites: Mapping[MemberId, ConformedData] = field(repr=False)

    @property
    def sizes(self) -> dict[str, int]:
        """Return the rows of each site."""
        return {site: rows.rows for site, rows in self.sites.items()}

    @property
    def note(self) -> str:
        """Say what the stand-in is."""
        return f"the public set {self.name}"

    def draw(self, repeat: int) -> dict[str, SiteRows]:
        """Return the rows of every site; `repeat` makes no difference."""
        del repeat
        return {
            site: (public_rows(self.contract, rows.features), rows.label)
            for site, rows in sorted(self.sites.items())
        }


StandIn = SchemaSampled | Cousin


def public_rows(contract: Contract, features: Array) -> Array:
    """Return rows as a study under noise prepares them, with a constant, of length one.

    `features` (n, p) in the contract's units; the result has shape (n, p + 1). Nothing of the
    data takes part but the row itself.
    """
    columns = design_columns(contract)
    if features.ndim != 2 or features.shape[1] != len(columns):
        raise UsageError(f"expected {len(columns)} columns, got shape {features.shape}")
    inside = normaliser_from_bounds(contract).apply(features, clip=_FEATURE_CLIP)
    return with_constant(_MODEL, inside)


def _indicators(category: Category, count: int, generator: np.random.Generator) -> list[Array]:
    """Return the indicators of a category whose levels have the middles of their shares."""
    kept = [level for level in category.levels if not level.merged_into]
    shares = np.array([sum(level.share_permille) / 2 for level in kept])
    shares = shares / shares.sum() if shares.sum() > 0 else np.full(len(kept), 1 / len(kept))
    drawn = generator.choice(len(kept), size=count, p=shares)
    return [(drawn == at).astype(np.float64) for at in range(1, len(kept))]


def _with_prevalence(log_odds: Array, prevalence: float) -> Array:
    low, high = -80.0, 80.0
    for _ in range(50):
        middle = 0.5 * (low + high)
        if float(_logistic(log_odds + middle).mean()) < prevalence:
            low = middle
        else:
            high = middle
    return log_odds + low


def _expected_area(score: Array, risks: Array) -> float:
    """Return the area under the curve of distinct scores (n,) in expectation over the labels."""
    ordered = risks[np.argsort(score, kind="stable")]
    healthy = 1.0 - ordered
    below = np.cumsum(healthy) - healthy
    return float((ordered * below).sum() / (ordered.sum() * healthy.sum() - ordered @ healthy))


def _logistic(values: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(values, -700.0, 700.0))))
