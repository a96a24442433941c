"""What if: epsilon against utility for a planned study, on a stand-in, before any real data.

A scenario (stand-in, members, colluders, epsilons, recipe) gives a `Forecast`: bands for every way
of sharing noise, signal to noise with a traffic light, other clips and rounds, sites needed,
what one departure costs, the error of the evaluation, and the certificates that the plan would
print. All tuning belongs here: tuning on real data would have to be paid for.

LIMIT: a forecast from a contract alone knows ranges, not effects; it is as good as its
expectations. The measured gap on real hospitals stands in docs/spec/whatif.md, section 3.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from treaty.contracts.design import design_columns
from treaty.contracts.schema import contract_digest
from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.errors import UsageError
from treaty.evaluation.forecast import (
    Arm,
    Band,
    CollusionPoint,
    Departure,
    Forecast,
    HoldoutError,
    RecipePoint,
    SignalPoint,
    SiteCount,
    fitted_law,
    hanley_mcneil,
    least_sites,
    traffic_light,
)
from treaty.governance.quorum import DerivedParameters
from treaty.ids import Digest
from treaty.privacy.certificate import Certificate, Unit, certificate_text, certify
from treaty.privacy.surplus import MAX_TIERS, carried
from treaty.privacy.terms import (
    STATISTICS_CLIP_MICRO,
    DistributedGaussian,
    NoisedStatistics,
    calibrated,
    count_sum,
    training_sum,
)
from treaty.simulation.rehearsal import NoiseShares, OneRound, Outcome, Recipe, rehearse
from treaty.simulation.stand_in import StandIn
from treaty.simulation.sweep import Numbers, run_sweep
from treaty.studies.calibrating import default_delta_inverse
from treaty.studies.noise import cohort_of

__all__ = ["CLIPS", "ROUND_COUNTS", "Scenario", "expected_sizes", "forecast"]

CLIPS = (0.25, 0.5, 1.0)
ROUND_COUNTS = (5, 10, 20, 50)
STATISTICS_CLIPS = (0.5, 1.0, STATISTICS_CLIP_MICRO / 1e6)
TARGETS_PPM = (5_000, 10_000, 20_000)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is planned. `epsilons` rise; `delta_inverse` None takes the larger of 1e5 and 10 N.

    `surplus_tiers` as in the terms of a plan; 0 leaves surplus noise in.
    """

    name: str
    stand_in: StandIn = field(repr=False)
    epsilons: tuple[float, ...] = (0.5, 1.0, 3.0, 8.0)
    max_colluders: int = 1
    min_survivors: int | None = None
    delta_inverse: int | None = None
    recipe: Recipe | OneRound = field(default_factory=Recipe)
    holdout_permille: int = 340
    bins: int = 64
    repeats: int = 50
    seed: int = 0
    surplus_tiers: int = MAX_TIERS

    def __post_init__(self) -> None:
        if not self.epsilons or list(self.epsilons) != sorted(set(self.epsilons)):
            raise UsageError(f"expected rising epsilons, got {list(self.epsilons)}")
        if not all(0.01 <= epsilon <= 100.0 for epsilon in self.epsilons):
            raise UsageError(f"expected epsilons in 0.01 .. 100, got {list(self.epsilons)}")
        if not 1 <= self.holdout_permille <= 999:
            raise UsageError(f"holdout must be in 1 .. 999 permille, got {self.holdout_permille}")
        if self.delta_inverse is not None and self.delta_inverse < 2:
            raise UsageError(f"1 / delta must be at least 2, got {self.delta_inverse}")
        small = [site for site, size in self.stand_in.sizes.items() if size < 5]
        if small:
            raise UsageError(f"expected at least 5 persons at each site, fewer at {small[0]}")
        _ = self.parameters

    @property
    def parameters(self) -> DerivedParameters:
        """Return the thresholds that a charter of these members would have."""
        return DerivedParameters(len(self.stand_in.sizes), self.max_colluders, self.min_survivors)

    @property
    def delta(self) -> int:
        """Return 1 / delta."""
        if self.delta_inverse is not None:
            return self.delta_inverse
        return default_delta_inverse(sum(self.stand_in.sizes.values()))

    @property
    def middle(self) -> float:
        """Return the epsilon at which recipes and departures are compared: the one nearest 1."""
        return min(self.epsilons, key=lambda epsilon: abs(math.log(epsilon)))

    @property
    def others(self) -> tuple[tuple[float, ...], tuple[int, ...]]:
        """Return the clips and the numbers of rounds that are compared with the planned ones."""
        return (STATISTICS_CLIPS, (1,)) if self.one_round else (CLIPS, ROUND_COUNTS)

    @property
    def one_round(self) -> bool:
        """Say whether the model follows from one noised sum of statistics."""
        return isinstance(self.recipe, OneRound)

    def digest(self) -> Digest:
        """Return the digest of everything that determines a repeat."""
        return sha256(
            canonical.encode(
                {
                    "contract": contract_digest(self.stand_in.contract),
                    "delta": self.delta,
                    "epsilons": [repr(epsilon) for epsilon in self.epsilons],
                    "format": "treaty.scenario/v1",
                    "holdout": self.holdout_permille,
                    "max_colluders": self.max_colluders,
                    "min_survivors": self.parameters.min_survivors,
                    "recipe": repr(self.recipe),
                    "seed": self.seed,
                    "sizes": [[site, size] for site, size in sorted(self.stand_in.sizes.items())],
                    "stand_in": self.stand_in.note,
                    "surplus_tiers": self.surplus_tiers,
                }
            )
        )


@dataclass(frozen=True, slots=True)
class _OneRepeat:
    """The work of one repeat, in a form that joblib can send to another process."""

    scenario: Scenario
    shares: NoiseShares
    without_one: NoiseShares | None

    def __call__(self, number: int) -> Numbers:
        scenario = self.scenario
        clips, round_counts = scenario.others
        outcome = rehearse(
            scenario.stand_in.draw(number),
            recipe=scenario.recipe,
            shares=self.shares,
            epsilons=scenario.epsilons,
            delta=1.0 / scenario.delta,
            holdout_permille=scenario.holdout_permille,
            seed=(scenario.seed, number),
            clips=clips,
            round_counts=round_counts,
            middle=scenario.middle,
            shares_without_one=self.without_one,
        )
        return _flat(outcome)


def forecast(
    scenario: Scenario,
    *,
    parts: Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Forecast:
    """Return the forecast of `scenario`; errors as `run_sweep` and `rehearse`.

    The result does not depend on `jobs` or on how often the run was taken up.
    """
    sites = len(scenario.stand_in.sizes)
    shares = _shares(scenario.parameters, scenario.surplus_tiers)
    without_one = (
        _shares(DerivedParameters(sites - 1, scenario.max_colluders), scenario.surplus_tiers)
        if sites - 1 >= max(3, scenario.max_colluders + 2)
        else None
    )
    results = run_sweep(
        _OneRepeat(scenario, shares, without_one),
        scenario.repeats,
        scenario=scenario.digest(),
        parts=parts,
        jobs=jobs,
        progress=progress,
    )
    return _summarised(scenario, shares, results)


def _shares(parameters: DerivedParameters, tiers: int) -> NoiseShares:
    third = DerivedParameters(
        parameters.members,
        min(max(1, parameters.tolerated_faults), parameters.members - 2),
    )
    shared, shared_third = (
        carried(cohort_of(one), parameters.members, tiers) for one in (parameters, third)
    )
    return NoiseShares(parameters.members, shared, shared_third)


def _flat(outcome: Outcome) -> Numbers:
    numbers: dict[str, float] = {
        f"area/{arm.value}/{epsilon!r}": value for (arm, epsilon), value in outcome.areas.items()
    }
    for epsilon, (first, median) in outcome.signals.items():
        numbers[f"first/{epsilon!r}"], numbers[f"median/{epsilon!r}"] = first, median
    for (clip, rounds), (area, clipped) in outcome.recipes.items():
        numbers[f"recipe/{clip!r}/{rounds}"] = area
        numbers[f"clipped/{clip!r}/{rounds}"] = clipped
    for site, area in outcome.departures.items():
        numbers[f"without/{site}"] = area
    numbers["held"], numbers["positives"] = outcome.holdout
    return numbers


def _summarised(scenario: Scenario, shares: NoiseShares, results: Sequence[Numbers]) -> Forecast:
    def column(key: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.array([numbers[key] for numbers in results], dtype=np.float64)

    def band(arm: Arm, epsilon: float) -> Band:
        areas = column(f"area/{arm.value}/{epsilon!r}")
        low, high = np.quantile(areas, [0.1, 0.9])
        return Band(
            arm=arm.value,
            epsilon_milli=round(epsilon * 1000),
            mean=_ppm(areas.mean()),
            low=_ppm(low),
            high=_ppm(high),
            repeats=len(areas),
        )

    quiet = band(Arm.NO_NOISE, 0.0)
    noisy = [arm for arm in Arm if arm is not Arm.NO_NOISE]
    bands = (quiet, *(band(arm, epsilon) for epsilon in scenario.epsilons for arm in noisy))
    base = column(f"area/{Arm.NO_NOISE.value}/0.0")
    losses = {
        epsilon: float((base - column(f"area/{Arm.SHARED.value}/{epsilon!r}")).mean()) * 1e6
        for epsilon in scenario.epsilons
    }
    firsts = {epsilon: float(column(f"first/{epsilon!r}").mean()) for epsilon in losses}
    law = fitted_law([(firsts[epsilon], losses[epsilon]) for epsilon in losses])
    signals = tuple(
        SignalPoint(
            epsilon_milli=_milli(epsilon),
            first_milli=round(firsts[epsilon] * 1000),
            median_milli=round(float(column(f"median/{epsilon!r}").mean()) * 1000),
            loss=_ppm(losses[epsilon] / 1e6),
            light=traffic_light(losses[epsilon]).value,
        )
        for epsilon in losses
    )
    overshoot = shares.overshoot(Arm.SHARED)
    counts = tuple(
        SiteCount(
            epsilon_milli=_milli(epsilon),
            target=target,
            sites=None
            if law is None
            else least_sites(
                law,
                firsts[epsilon],
                overshoot,
                target,
                scenario.max_colluders,
                shares.sites,
                scenario.surplus_tiers,
            ),
        )
        for epsilon in scenario.epsilons
        for target in TARGETS_PPM
    )
    planned = (scenario.recipe.clip, scenario.recipe.rounds)
    clips, round_counts = scenario.others
    recipes = tuple(
        RecipePoint(
            clip_milli=_milli(clip),
            rounds=rounds,
            area=_ppm(column(f"recipe/{clip!r}/{rounds}").mean()),
            clipped_share=_ppm(column(f"clipped/{clip!r}/{rounds}").mean()),
            planned=(clip, rounds) == planned,
        )
        for clip in clips
        for rounds in round_counts
    )
    departures = tuple(
        Departure(
            site=site,
            epsilon_milli=_milli(scenario.middle),
            area=_ppm(column(f"without/{site}").mean()),
        )
        for site in sorted(scenario.stand_in.sizes)
        if f"without/{site}" in results[0]
    )
    certificates = {epsilon: _certificate(scenario, epsilon) for epsilon in scenario.epsilons}
    return Forecast(
        scenario=scenario.name,
        stand_in=scenario.stand_in.note,
        columns=len(design_columns(scenario.stand_in.contract)),
        sites=tuple(sorted(scenario.stand_in.sizes.items())),
        members=scenario.parameters.members,
        max_colluders=scenario.max_colluders,
        min_survivors=scenario.parameters.min_survivors,
        min_honest=scenario.parameters.min_honest,
        delta_inverse=scenario.delta,
        rounds=scenario.recipe.rounds,
        clip_milli=_milli(scenario.recipe.clip),
        learning_rate_milli=(
            None if isinstance(scenario.recipe, OneRound) else _milli(scenario.recipe.learning_rate)
        ),
        repeats=len(results),
        bands=bands,
        signals=signals,
        law_ppm=None if law is None else law.factor_ppm,
        recipes=recipes,
        recipe_epsilon_milli=_milli(scenario.middle),
        site_counts=counts,
        departures=departures,
        holdout=_holdout(scenario, quiet, column("held"), column("positives")),
        collusion=tuple(
            CollusionPoint(
                target_milli=_milli(epsilon),
                honest_shares=point.honest_shares,
                epsilon_micro=point.epsilon_micro,
            )
            for epsilon, certificate in certificates.items()
            for point in certificate.curve
        ),
        certificates=tuple(
            (_milli(epsilon), certificate_text(certificate))
            for epsilon, certificate in certificates.items()
        ),
    )


def _certificate(scenario: Scenario, epsilon: float) -> Certificate:
    """Return the certificate that training with this budget would print."""
    recipe, cohort = scenario.recipe, cohort_of(scenario.parameters)
    clip_micro = round(recipe.clip * 1_000_000)
    if isinstance(recipe, OneRound):
        only = NoisedStatistics(
            epsilon_milli=_milli(epsilon), delta_inverse=scenario.delta, clip_micro=clip_micro
        )
        sums = [training_sum(calibrated(only, only.clip.units), cohort, only.clip.units)]
    else:
        asked = DistributedGaussian(
            epsilon_milli=_milli(epsilon),
            delta_inverse=scenario.delta,
            rounds=recipe.rounds,
            clip_micro=clip_micro,
            learning_rate_milli=_milli(recipe.learning_rate),
        )
        terms = calibrated(asked, asked.clip.units)
        sums = [count_sum(terms, cohort), training_sum(terms, cohort, terms.clip.units)]
    return certify(
        partition="training",
        unit=Unit.PERSON,
        person_identifier_present=True,
        sums=sums,
        cohort=cohort,
        delta_inverse=scenario.delta,
        surplus_removed=scenario.surplus_tiers > 0,
    )


def _holdout(
    scenario: Scenario,
    quiet: Band,
    held: "np.ndarray[tuple[int], np.dtype[np.float64]]",
    positives: "np.ndarray[tuple[int], np.dtype[np.float64]]",
) -> HoldoutError:
    rows, with_outcome = round(float(held.mean())), round(float(positives.mean()))
    error = hanley_mcneil(quiet.mean / 1e6, max(with_outcome, 1), max(rows - with_outcome, 1))
    # Rows of both classes in one bin: at most half of them are ordered wrongly. With scores
    # spread evenly over the bins the share of such pairs is one in as many as there are bins.
    return HoldoutError(
        rows=rows,
        positives=with_outcome,
        sampling=_ppm(error),
        bins=scenario.bins,
        binning=_ppm(0.5 / scenario.bins),
    )


def expected_sizes(names: Sequence[str], persons: Sequence[int]) -> Mapping[str, int]:
    """Return sizes by site; one number serves all. Raises `UsageError` when counts differ."""
    if len(persons) not in (1, len(names)):
        raise UsageError(
            f"expected one number of persons or one for each of {len(names)} sites, "
            f"got {len(persons)}"
        )
    each = list(persons) * len(names) if len(persons) == 1 else list(persons)
    return dict(zip(names, each, strict=True))


def _ppm(value: float) -> int:
    return round(float(value) * 1_000_000)


def _milli(value: float) -> int:
    return max(1, round(value * 1000))
