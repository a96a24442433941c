"""A plan's terms of privacy: exact sums, or noise of every site added in the secure sum.

Guarantees (docs/spec/privacy.md, section 9):
  * Terms hold integers only: the clip is 2^`grid_bits` grid units, the noise a variance in grid
    units squared, the rate a multiple of 2^-53, delta one over a whole number.
  * `releases` gives the events that a plan may ever charge over training rows, a function of terms
    and cohort.
    `claimed_epsilon_micro` recomputes epsilon from them; `check_claim` refuses terms that
    promise less than it. Unsampled terms need no numerical library.
  * `calibrated` finds the least noise for a target and leaves every other number as given.

Left to others: the sensitivity (the clip, or `mechanisms.ghost_sensitivity`), which follows from
the model and is passed in.
"""

import functools
from fractions import Fraction
from typing import Annotated, Literal, TypeVar

import msgspec

from treaty.crypto.canonical import Record
from treaty.errors import PolicyError, UsageError
from treaty.privacy.accountant import Adjacency, composed_epsilon, delta_of
from treaty.privacy.calibration import Schedule, calibrated_variance, gaussian_mu
from treaty.privacy.certificate import Cohort, NoisedSum, epsilon_micro
from treaty.privacy.events import LEMMA_LOSS, SAMPLING_UNIT, VarianceField, variance_field
from treaty.privacy.ledger_entries import InverseDelta, PrivateEvent
from treaty.privacy.mechanisms import Clip, noise_share
from treaty.privacy.surplus import MAX_TIERS, NoiseTiers, tiers_for

__all__ = [
    "COUNT_SHARE",
    "HOLDOUT_CLIP",
    "NOT_CALIBRATED",
    "STATISTICS_CLIP_MICRO",
    "DistributedGaussian",
    "ExactHoldout",
    "ExactSums",
    "NoisedHoldout",
    "NoisedStatistics",
    "NoisedTerms",
    "PrivacyTerms",
    "calibrated",
    "check_claim",
    "check_holdout_claim",
    "claimed_epsilon_micro",
    "count_sum",
    "effective_cohort",
    "holdout_releases",
    "holdout_sum",
    "noise_tiers",
    "releases",
    "share_of",
    "sum_variance",
    "training_sum",
]

NOT_CALIBRATED = "1"
"""A variance that no plan may have: it stands where the noise is yet to be found."""

COUNT_SHARE = Fraction(1, 20)
"""Share of the budget, in mu squared, that counting the persons once takes."""

STATISTICS_CLIP_MICRO = 1_414_214
"""The square root of two, rounded up."""

EpsilonMilli = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Micro = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
Milli = Annotated[int, msgspec.Meta(ge=1, le=10**9)]
Rounds = Annotated[int, msgspec.Meta(ge=1, le=10_000)]
GridBits = Annotated[int, msgspec.Meta(ge=24, le=32)]
Rate = Annotated[int, msgspec.Meta(ge=1, le=SAMPLING_UNIT - 1)]
Sites = Annotated[int, msgspec.Meta(ge=1, le=128)]
Tiers = Annotated[int, msgspec.Meta(ge=0, le=MAX_TIERS)]
Noised = TypeVar("Noised", bound="NoisedTerms")


class ExactSums(Record, frozen=True, tag="exact", tag_field="kind"):
    """Sums over training rows are exact, as the charter must accept by name."""


class ExactHoldout(Record, frozen=True, tag="exact", tag_field="kind"):
    """The holdout's histogram is exact: not differentially private, accepted in the charter."""


class NoisedHoldout(Record, frozen=True, tag="noised", tag_field="kind"):
    """Every word of the holdout's histogram carries every site's share of noise.

    A person of the holdout is one, shared out over the words of its rows: of norm at most one,
    which is `HOLDOUT_CLIP`. `epsilon_milli` is promised to it at the terms' delta; `variance` is
    what the honest shares add up to in each word, in grid units squared, hexadecimal.
    """

    epsilon_milli: EpsilonMilli
    variance: VarianceField = NOT_CALIBRATED


HOLDOUT_CLIP = Clip(1.0)
"""One person of the holdout, in grid units."""


class NoisedTerms(Record, frozen=True):
    """Every site clips each person's contribution and adds its share of discrete Gaussian noise.

    What all noised trainings have in common. A person's clipped contribution has norm at most
    `clip_micro` / 10^6, which is 2^`grid_bits` grid units. `variance`, of each training sum, is
    what the honest shares of an opened sum add up to, in grid units squared, hexadecimal. With
    `share` ``local`` every site adds the whole variance by itself.

    `epsilon_milli` is what the plan promises at delta = 1 / `delta_inverse` to a person at one
    site, added or removed. `max_sites_per_person` and `unit` repeat the charter's.

    `surplus_tiers` is the most parts of a share that can come off a sum again when more members
    take part than must (`surplus`); with 0, or where it is left out, all noise stays in.
    """

    epsilon_milli: EpsilonMilli
    delta_inverse: InverseDelta
    variance: VarianceField = NOT_CALIBRATED
    clip_micro: Micro = 500_000
    grid_bits: GridBits = 24
    share: Literal["distributed", "local"] = "distributed"
    unit: Literal["person-in-institution", "record-in-institution"] = "person-in-institution"
    adjacency: Literal["add-remove"] = "add-remove"
    max_sites_per_person: Sites = 2
    holdout: ExactHoldout | NoisedHoldout = ExactHoldout()
    surplus_tiers: Tiers | msgspec.UnsetType = msgspec.UNSET

    @property
    def takes_surplus_off(self) -> bool:
        """Whether members may open keys of noise that a sum does not need."""
        return self.surplus_tiers is not msgspec.UNSET and self.surplus_tiers > 0

    @property
    def clip(self) -> Clip:
        """The clip as the mechanism takes it."""
        return Clip(self.clip_micro / 10**6, self.grid_bits)

    @property
    def is_calibrated(self) -> bool:
        """Whether the noise is stated."""
        held = (self.holdout.variance,) if isinstance(self.holdout, NoisedHoldout) else ()
        return NOT_CALIBRATED not in (self.variance, *held)


class DistributedGaussian(NoisedTerms, frozen=True, tag="distributed-gaussian", tag_field="kind"):
    """Gradient descent on noised sums: `rounds` of them after one noised count of the persons.

    `count_variance` is the noise of the count, as `variance` that of each gradient sum. `sampling`
    is the Poisson rate times 2^53; null: everybody takes part in every round.
    """

    count_variance: VarianceField = NOT_CALIBRATED
    rounds: Rounds = 20
    sampling: Rate | None = None
    learning_rate_milli: Milli = 16_000

    @property
    def rate(self) -> int:
        """The Poisson rate times 2^53, 2^53 where everybody takes part."""
        return SAMPLING_UNIT if self.sampling is None else self.sampling

    @property
    def is_calibrated(self) -> bool:
        """Whether the noise is stated."""
        return self.count_variance != NOT_CALIBRATED and super().is_calibrated


class NoisedStatistics(NoisedTerms, frozen=True, tag="noised-statistics", tag_field="kind"):
    """One noised sum of sufficient statistics, from which members derive the model.

    There is no count, no sampling and no learning rate: one Gaussian release over everybody. The
    clip is the length of what one row of length one contributes, the square root of two rounded
    up: it cuts persons of several rows only.
    """

    clip_micro: Micro = STATISTICS_CLIP_MICRO


PrivacyTerms = ExactSums | DistributedGaussian | NoisedStatistics


def effective_cohort(terms: NoisedTerms, cohort: Cohort) -> Cohort:
    """Return the cohort whose honest shares carry the variance: one share where noise is local."""
    if terms.share == "distributed":
        return cohort
    return Cohort(cohort.members, cohort.min_survivors, cohort.min_survivors - 1)


def share_of(terms: NoisedTerms, variance: str, cohort: Cohort) -> int:
    """Return the variance of one site's share (grid units squared), rounded up.

    Raises `UsageError` outside the sampler's range.
    """
    return noise_share(int(variance, 16), effective_cohort(terms, cohort).min_honest)


def noise_tiers(terms: NoisedTerms, variance: str, cohort: Cohort) -> NoiseTiers:
    """Return how one site's share of a sum's noise is divided.

    A single part where the plan leaves the surplus in, and where noise is local: there every site
    answers for all of it. Guarantee: as `surplus.tiers_for`. Raises as `share_of`.
    """
    tiers = terms.surplus_tiers
    limit = 0 if tiers is msgspec.UNSET or terms.share == "local" else tiers
    return tiers_for(int(variance, 16), effective_cohort(terms, cohort), limit)


def sum_variance(terms: NoisedTerms, variance: str, cohort: Cohort, survivors: int) -> int:
    """Return the noise of a sum over `survivors` sites that all open what they may.

    In grid units squared: what the published sum carries, colluders' shares included. A site that
    is lost before it answers leaves more in.
    """
    return survivors * noise_tiers(terms, variance, cohort).retained_for(survivors)


def count_sum(terms: DistributedGaussian, cohort: Cohort) -> NoisedSum:
    """Return the noised count: everybody, once. A person counts as the clip's grid units."""
    return NoisedSum(
        share_variance=share_of(terms, terms.count_variance, cohort),
        sensitivity=terms.clip.units,
        sampling=SAMPLING_UNIT,
        rounds=1,
    )


def training_sum(terms: NoisedTerms, cohort: Cohort, sensitivity: int) -> NoisedSum:
    """Return the noised training sums; `sensitivity` in grid units, at least the clip's."""
    if sensitivity < terms.clip.units:
        raise UsageError(f"expected a sensitivity of at least the clip, got {sensitivity}")
    return NoisedSum(
        share_variance=share_of(terms, terms.variance, cohort),
        sensitivity=sensitivity,
        sampling=terms.rate if isinstance(terms, DistributedGaussian) else SAMPLING_UNIT,
        rounds=terms.rounds if isinstance(terms, DistributedGaussian) else 1,
    )


def holdout_sum(terms: NoisedTerms, cohort: Cohort) -> NoisedSum | None:
    """Return the noised histogram of the holdout: everybody in it, once; None where it is exact."""
    if not isinstance(terms.holdout, NoisedHoldout):
        return None
    return NoisedSum(
        share_variance=share_of(terms, terms.holdout.variance, cohort),
        sensitivity=HOLDOUT_CLIP.units,
        sampling=SAMPLING_UNIT,
        rounds=1,
    )


def releases(terms: NoisedTerms, cohort: Cohort, sensitivity: int) -> tuple[PrivateEvent, ...]:
    """Return the most that a study under these terms ever charges, in the order of its sums.

    Gradient descent: the count, then all gradient sums; statistics: the one sum. Guarantee: the
    noise counted is that of `min_honest` shares less the lemma's four units.
    """
    honest = effective_cohort(terms, cohort).min_honest
    training = training_sum(terms, cohort, sensitivity).event(honest)
    if not isinstance(terms, DistributedGaussian):
        return (training,)
    return (count_sum(terms, cohort).event(honest), training)


def holdout_releases(terms: NoisedTerms, cohort: Cohort) -> tuple[PrivateEvent, ...]:
    """Return what the holdout's histogram charges, nothing where it is exact.

    Guarantee: as `releases`.
    """
    asked = holdout_sum(terms, cohort)
    return () if asked is None else (asked.event(effective_cohort(terms, cohort).min_honest),)


@functools.lru_cache(maxsize=64)
def claimed_epsilon_micro(terms: NoisedTerms, cohort: Cohort, sensitivity: int) -> int | None:
    """Return epsilon of the whole schedule in millionths, rounded up; None when infinite.

    Guarantee: one person at one site, added or removed; as `accountant.composed_epsilon`.
    """
    events = releases(terms, cohort, sensitivity)
    delta = delta_of(terms.delta_inverse)
    return epsilon_micro(composed_epsilon(events, delta, adjacency=Adjacency.ADD_REMOVE))


def check_claim(terms: NoisedTerms, cohort: Cohort, sensitivity: int) -> int:
    """Return epsilon in millionths, or raise `PolicyError` (code ``epsilon-claim``).

    Refuses terms whose integers give more than they promise, and noise outside the sampler's
    range (code ``noise-range``).
    """
    try:
        found = claimed_epsilon_micro(terms, cohort, sensitivity)
    except UsageError as error:
        raise PolicyError(
            f"the noise cannot be drawn or counted: {error}", code="noise-range"
        ) from error
    return _kept(found, terms.epsilon_milli, ", its noise, rate and rounds give")


def check_holdout_claim(terms: NoisedTerms, cohort: Cohort) -> None:
    """Raise `PolicyError` (``epsilon-claim``, ``noise-range``) unless the histogram's noise holds.

    An exact holdout claims nothing. Guarantee: as `claimed_epsilon_micro`, for a person of the
    holdout, of which no row is in training.
    """
    holdout = terms.holdout
    if not isinstance(holdout, NoisedHoldout):
        return
    try:
        events = holdout_releases(terms, cohort)
        found = epsilon_micro(composed_epsilon(events, delta_of(terms.delta_inverse)))
    except UsageError as error:
        raise PolicyError(
            f"the holdout's noise cannot be drawn or counted: {error}", code="noise-range"
        ) from error
    _kept(found, holdout.epsilon_milli, " for the holdout, its noise gives")


def _kept(found: int | None, promised_milli: int, gives: str) -> int:
    """Return `found`, or raise `PolicyError` (``epsilon-claim``) where it is over the promise."""
    if found is None or found > promised_milli * 1000:
        shown = "infinite" if found is None else f"{found / 1e6:.6f}"
        raise PolicyError(
            f"the plan promises epsilon {promised_milli / 1000:.3f}{gives} {shown}: "
            "calibrate it again",
            code="epsilon-claim",
        )
    return found


def calibrated(terms: Noised, sensitivity: int) -> Noised:
    """Return `terms` with the least noise that meets `epsilon_milli` at the given delta.

    Of gradient descent one twentieth of mu squared goes to the count, the rest to the rounds; the
    one sum of statistics takes all of it. A noised holdout gets the least that meets its own.
    Nothing else changes. Guarantee: rounds towards more noise. Raises `UsageError` when no noise
    meets the target.
    """
    epsilon, delta = terms.epsilon_milli / 1000, delta_of(terms.delta_inverse)
    if isinstance(terms.holdout, NoisedHoldout):
        share = Fraction(gaussian_mu(terms.holdout.epsilon_milli / 1000, delta))
        cell = _at_least(Fraction(HOLDOUT_CLIP.units**2) / (share * share)) + LEMMA_LOSS
        noised = msgspec.structs.replace(terms.holdout, variance=variance_field(cell))
        terms = msgspec.structs.replace(terms, holdout=noised)
    mu = Fraction(gaussian_mu(epsilon, delta))
    if not isinstance(terms, DistributedGaussian):
        only = _at_least(sensitivity * sensitivity / (mu * mu)) + LEMMA_LOSS
        return msgspec.structs.replace(terms, variance=variance_field(only))
    units = terms.clip.units
    count = _at_least(units * units / (mu * mu * COUNT_SHARE)) + LEMMA_LOSS
    if terms.sampling is None:
        rest = mu * mu * (1 - COUNT_SHARE)
        variance = _at_least(terms.rounds * sensitivity * sensitivity / rest) + LEMMA_LOSS
    else:
        variance = _sampled(terms, sensitivity, count, epsilon, delta)
    return msgspec.structs.replace(
        terms, variance=variance_field(variance), count_variance=variance_field(count)
    )


def _sampled(
    terms: DistributedGaussian, sensitivity: int, count: int, epsilon: float, delta: float
) -> int:
    """Return the variance of the rounds beside the count: a smaller target until both fit."""
    schedule = Schedule(rounds=terms.rounds, sensitivity=sensitivity, sampling=terms.rate)
    counted = Schedule(rounds=1, sensitivity=terms.clip.units).event(count - LEMMA_LOSS)
    target = epsilon
    for _ in range(40):
        target *= 0.98
        variance = calibrated_variance(schedule, target, delta)
        event = schedule.event(variance - LEMMA_LOSS)
        if composed_epsilon([event, counted], delta) <= epsilon:
            return variance
    raise UsageError(f"no noise meets epsilon {epsilon} beside the count of the persons")


def _at_least(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
