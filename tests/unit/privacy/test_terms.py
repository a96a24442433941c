"""Terms of privacy: the noise follows from the promise, the promise is checked on the integers.

Planted and caught: noise for one round in place of all; the count left out of the claim; shares
counted for every member in place of the honest ones; local noise taken for shared; variance a
little below what the promise needs; an epsilon past every count compared as a number.
"""

from fractions import Fraction

import msgspec
import pytest

from tests.worlds import refused
from treaty.errors import UsageError
from treaty.privacy.accountant import composed_epsilon, delta_of
from treaty.privacy.certificate import Cohort
from treaty.privacy.events import MIN_SHARE_VARIANCE, SAMPLING_UNIT
from treaty.privacy.terms import (
    DistributedGaussian,
    calibrated,
    check_claim,
    claimed_epsilon_micro,
    count_sum,
    effective_cohort,
    releases,
    share_of,
    training_sum,
)

COHORTS = [Cohort(3, 3, 1), Cohort(4, 3, 1), Cohort(5, 4, 1), Cohort(10, 7, 3), Cohort(25, 17, 8)]
ASKED = DistributedGaussian(epsilon_milli=1000, delta_inverse=100_000)
UNITS = 1 << 24


@pytest.mark.parametrize("cohort", COHORTS, ids=str)
@pytest.mark.parametrize("epsilon_milli", [100, 500, 1000, 3000, 8000])
@pytest.mark.parametrize("rounds", [1, 20, 100])
def test_calibrated_noise_keeps_the_promise_and_hardly_more(
    cohort: Cohort, epsilon_milli: int, rounds: int
) -> None:
    terms = msgspec.structs.replace(ASKED, epsilon_milli=epsilon_milli, rounds=rounds)
    found = check_claim(calibrated(terms, UNITS), cohort, UNITS)
    assert epsilon_milli * 1000 * 0.9999 <= found <= epsilon_milli * 1000


def test_a_twentieth_of_the_budget_goes_to_the_count() -> None:
    terms = calibrated(ASKED, UNITS)
    count = Fraction(UNITS**2, int(terms.count_variance, 16))
    rounds = Fraction(20 * UNITS**2, int(terms.variance, 16))
    assert float(count / (count + rounds)) == pytest.approx(0.05, rel=1e-6)


def test_sampled_terms_are_calibrated_with_the_count_beside() -> None:
    terms = msgspec.structs.replace(ASKED, sampling=SAMPLING_UNIT // 10, rounds=40)
    found = check_claim(calibrated(terms, UNITS), COHORTS[1], UNITS)
    assert 930_000 <= found <= 1_000_000
    full = calibrated(msgspec.structs.replace(terms, sampling=None), UNITS)
    assert int(calibrated(terms, UNITS).variance, 16) < int(full.variance, 16) // 10


@pytest.mark.parametrize(
    "changes",
    [
        {"rounds": 21},
        {"grid_bits": 25},
        {"epsilon_milli": 999},
        {"delta_inverse": 100_001},
        {"variance": "halved"},
        {"count_variance": "halved"},
    ],
)
def test_integers_that_give_more_than_promised_are_refused(changes: dict[str, object]) -> None:
    terms = calibrated(ASKED, UNITS)
    altered = {
        name: f"{int(getattr(terms, name), 16) // 2:x}" if value == "halved" else value
        for name, value in changes.items()
    }
    other = msgspec.structs.replace(terms, **altered)
    with refused("epsilon-claim"):
        check_claim(other, COHORTS[1], other.clip.units)


def test_a_promise_without_a_number_is_refused_as_no_promise() -> None:
    """The least noise that can be drawn under a clip of many units: epsilon is past every count."""
    least = f"{MIN_SHARE_VARIANCE * COHORTS[1].min_honest:x}"
    terms = msgspec.structs.replace(ASKED, variance=least, count_variance=least)
    assert claimed_epsilon_micro(terms, COHORTS[1], UNITS) is None
    with refused("epsilon-claim"):
        check_claim(terms, COHORTS[1], UNITS)


@pytest.mark.parametrize("name", ["variance", "count_variance"])
@pytest.mark.parametrize("value", ["1", "f" * 23])
def test_noise_outside_the_sampler_is_refused(name: str, value: str) -> None:
    terms = msgspec.structs.replace(calibrated(ASKED, UNITS), **{name: value})
    with refused("noise-range"):
        check_claim(terms, COHORTS[1], UNITS)


def test_terms_without_noise_are_not_calibrated() -> None:
    assert not ASKED.is_calibrated
    assert calibrated(ASKED, UNITS).is_calibrated


@pytest.mark.parametrize("cohort", COHORTS, ids=str)
def test_the_honest_shares_carry_the_noise(cohort: Cohort) -> None:
    """Whatever the group, the least honest shares less four units make up the variance."""
    terms = calibrated(ASKED, UNITS)
    share = share_of(terms, terms.variance, cohort)
    assert share * cohort.min_honest >= int(terms.variance, 16)
    assert share * (cohort.min_honest - 1) < int(terms.variance, 16)
    count, rounds = releases(terms, cohort, UNITS)
    assert int(rounds.variance, 16) == share * cohort.min_honest - 4
    assert (rounds.count, count.count) == (20, 1)
    assert training_sum(terms, cohort, UNITS).share_variance == share


def test_local_noise_is_the_whole_variance_at_every_site() -> None:
    """One honest share is then enough: the claim holds if all others collude."""
    terms = msgspec.structs.replace(calibrated(ASKED, UNITS), share="local")
    for cohort in COHORTS:
        assert share_of(terms, terms.variance, cohort) == int(terms.variance, 16)
        assert effective_cohort(terms, cohort).min_honest == 1
        assert check_claim(terms, cohort, UNITS) <= 1_000_000


def test_the_claim_is_the_accountants_and_counts_the_count() -> None:
    terms, cohort = calibrated(ASKED, UNITS), COHORTS[1]
    events = [count_sum(terms, cohort).event(2), training_sum(terms, cohort, UNITS).event(2)]
    delta = delta_of(100_000)
    micro = claimed_epsilon_micro(terms, cohort, UNITS)
    assert micro is not None
    assert composed_epsilon(events, delta) <= micro / 1e6 < composed_epsilon(events, delta) + 1e-6
    assert composed_epsilon(events[1:], delta) < 0.98


def test_a_sensitivity_below_the_clip_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="sensitivity"):
        training_sum(calibrated(ASKED, UNITS), COHORTS[1], UNITS - 1)
