"""Forecast of a study: what a privacy budget would buy, before any real data are touched.

Plain records of integers (areas and shares in parts per million, epsilon in thousandths), so that
the page and the JSON say the same and equal scenarios give equal bytes. `traffic_light` and
`least_sites` are the rules by which a forecast is read (docs/spec/whatif.md, section 4).

Left to others: making a stand-in and running the mechanism on it (`treaty.simulation`).
"""

import math
from enum import Enum
from typing import Annotated, Final, Literal

import msgspec

from treaty.crypto.canonical import Count, Name, Record
from treaty.errors import UsageError
from treaty.privacy.certificate import Cohort
from treaty.privacy.surplus import carried

__all__ = [
    "AMBER_LOSS",
    "GREEN_LOSS",
    "Arm",
    "Band",
    "CollusionPoint",
    "Forecast",
    "HoldoutError",
    "Light",
    "LossLaw",
    "RecipePoint",
    "SiteCount",
    "fitted_law",
    "hanley_mcneil",
    "least_sites",
    "traffic_light",
]

FORECAST_FORMAT: Final = "treaty.forecast/v1"

GREEN_LOSS = 5_000
AMBER_LOSS = 20_000
"""Expected loss of area in parts per million: below the first green, below the second amber."""

MOST_SITES = 128

Ppm = Annotated[int, msgspec.Meta(ge=-1_000_000, le=1_000_000)]
Milli = Annotated[int, msgspec.Meta(ge=1, le=10**9)]


class Arm(Enum):
    """Who adds how much noise. The value is the name in files."""

    NO_NOISE = "no-noise"
    CURATOR = "trusted-curator"
    SHARED = "shared-noise"
    SHARED_DEFAULT = "shared-noise-third-colluding"
    LOCAL = "local-noise"
    ALONE = "alone"

    @property
    def words(self) -> str:
        """Return the arm in words."""
        return {
            Arm.NO_NOISE: "no privacy noise",
            Arm.CURATOR: "a trusted curator adds the noise once",
            Arm.SHARED: "sites share the noise, as chartered",
            Arm.SHARED_DEFAULT: "sites share the noise, a third may collude",
            Arm.LOCAL: "every site adds the whole noise",
            Arm.ALONE: "every site trains alone",
        }[self]


class Light(Enum):
    """How a planned run looks."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


class Band(Record, frozen=True, kw_only=True):
    """Area under the curve of one arm at one epsilon, over repeats: mean, and 10 % and 90 %.

    Epsilon is 0 for the arm without noise.
    """

    arm: Name
    epsilon_milli: Count
    mean: Ppm
    low: Ppm
    high: Ppm
    repeats: Count


class SignalPoint(Record, frozen=True, kw_only=True):
    """Signal to noise of training rounds under the chartered sharing, in thousandths.

    The norm of the summed clipped gradient over that of the noise: in the first round, and the
    median over the rounds; of one sum of statistics that of the words that labels enter. `loss` is
    the area lost to noise on the stand-in.
    """

    epsilon_milli: Milli
    first_milli: Count
    median_milli: Count
    loss: Ppm
    light: Name


class RecipePoint(Record, frozen=True, kw_only=True):
    """Area at another clip or number of rounds, everything else as planned, noise recalibrated."""

    clip_milli: Milli
    rounds: Count
    area: Ppm
    clipped_share: Ppm
    planned: bool


class SiteCount(Record, frozen=True, kw_only=True):
    """Sites of the expected size needed to lose at most `target`; None: more than 128."""

    epsilon_milli: Milli
    target: Ppm
    sites: int | None


class Departure(Record, frozen=True, kw_only=True):
    """Area when one site leaves before the study, everything recalibrated."""

    site: Name
    epsilon_milli: Milli
    area: Ppm


class HoldoutError(Record, frozen=True, kw_only=True):
    """Expected error of the area over the holdout: sampling alone (one standard error)."""

    rows: Count
    positives: Count
    sampling: Ppm
    bins: Count
    binning: Ppm


class CollusionPoint(Record, frozen=True, kw_only=True):
    """Epsilon in millionths when only that many shares of noise are unknown; None: infinite."""

    target_milli: Milli
    honest_shares: Count
    epsilon_micro: int | None


class Forecast(Record, frozen=True, kw_only=True):
    """Everything that a what-if run says. Without a learning rate it is of one noised sum."""

    format: Literal["treaty.forecast/v1"] = FORECAST_FORMAT
    scenario: Name
    stand_in: str
    columns: Count
    sites: tuple[tuple[str, int], ...]
    members: Count
    max_colluders: Count
    min_survivors: Count
    min_honest: Count
    delta_inverse: Count
    rounds: Count
    clip_milli: Milli
    learning_rate_milli: Milli | None
    repeats: Count
    bands: tuple[Band, ...]
    signals: tuple[SignalPoint, ...]
    law_ppm: Count | None
    recipes: tuple[RecipePoint, ...]
    recipe_epsilon_milli: Milli
    site_counts: tuple[SiteCount, ...]
    departures: tuple[Departure, ...]
    holdout: HoldoutError
    collusion: tuple[CollusionPoint, ...]
    certificates: tuple[tuple[int, str], ...]

    def band(self, arm: Arm, epsilon_milli: int) -> Band:
        """Return the band of an arm; `UsageError` where the forecast has none."""
        for one in self.bands:
            if one.arm == arm.value and one.epsilon_milli in (0, epsilon_milli):
                return one
        raise UsageError(f"the forecast has no {arm.value} at epsilon {epsilon_milli / 1000}")


class LossLaw(Record, frozen=True):
    """Loss of area is about `factor_ppm` divided by the square of the first round's signal."""

    factor_ppm: Count

    def loss(self, signal: float) -> float:
        """Return the expected loss (ppm) at that signal to noise ratio of the first round."""
        return self.factor_ppm / (signal * signal) if signal > 0.0 else math.inf


def fitted_law(points: list[tuple[float, float]]) -> LossLaw | None:
    """Return the law through (signal to noise, loss in ppm) by least squares in 1 / signal^2.

    Losses beyond a tenth of the area are left out: the law is one of small losses. None when
    no point serves, or the noise costs nothing that can be measured.
    """
    usable = [(1.0 / (s * s), loss) for s, loss in points if s > 0.0 and loss < 100_000]
    bottom = sum(x * x for x, _ in usable)
    if bottom == 0.0:
        return None
    factor = sum(x * y for x, y in usable) / bottom
    return LossLaw(factor_ppm=round(factor)) if factor >= 1.0 else None


def traffic_light(loss_ppm: float) -> Light:
    """Return green below half a point of area lost, amber below two, red from there on."""
    if loss_ppm < GREEN_LOSS:
        return Light.GREEN
    return Light.AMBER if loss_ppm < AMBER_LOSS else Light.RED


def least_sites(
    law: LossLaw,
    signal: float,
    overshoot: float,
    target_ppm: int,
    max_colluders: int,
    sites: int,
    surplus_tiers: int = 0,
) -> int | None:
    """Return the fewest sites of the same mean size that are expected to lose `target_ppm`.

    `signal` is that of `sites` sites, whose noise is `overshoot` times a trusted curator's. The
    signal grows with the number of persons, and so with the sites; the noise with the square
    root of what a sum over all of them carries (`privacy.surplus.carried`, of `surplus_tiers`
    parts). None when 128 sites would not do.
    """
    for count in range(max(3, max_colluders + 2), MOST_SITES + 1):
        survivors = max((count + max_colluders) // 2 + 1, max_colluders + 2)
        noise = math.sqrt(carried(Cohort(count, survivors, max_colluders), count, surplus_tiers))
        if law.loss(signal * (count / sites) * (overshoot / noise)) <= target_ppm:
            return count
    return None


def hanley_mcneil(area: float, positives: int, negatives: int) -> float:
    """Return the standard error of an area under the curve (Hanley and McNeil, 1982).

    Raises `UsageError` without a row of each class or for an area outside 0 .. 1.
    """
    if positives < 1 or negatives < 1 or not 0.0 <= area <= 1.0:
        raise UsageError(
            f"expected an area in 0 .. 1 and rows of both classes, got {area}, {positives} and "
            f"{negatives}"
        )
    first = area / (2.0 - area)
    second = 2.0 * area * area / (1.0 + area)
    variance = (
        area * (1.0 - area)
        + (positives - 1) * (first - area * area)
        + (negatives - 1) * (second - area * area)
    ) / (positives * negatives)
    return math.sqrt(max(variance, 0.0))
