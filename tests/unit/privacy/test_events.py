"""Events: canonical, order-free, and refused out of range.

Planted faults that these tests catch: counts of one kind overwritten instead of added; the four
units of the rounding lemma not given away; a sampling rate of one stored as sampled.
"""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from treaty.crypto.canonical import decode, encode
from treaty.errors import FormatError, UsageError
from treaty.privacy.events import (
    MAX_VARIANCE,
    MIN_SHARE_VARIANCE,
    SAMPLING_UNIT,
    Event,
    GaussianEvent,
    NonPrivateEvent,
    SampledGaussianEvent,
    accounted_variance,
    gaussian_event,
    grouped,
    signal_to_noise,
)

events = st.one_of(
    st.builds(
        gaussian_event,
        variance=st.sampled_from([1 << 50, 1 << 78]),
        sensitivity=st.sampled_from([1 << 24, 3]),
        count=st.integers(1, 9),
        sampling=st.sampled_from([SAMPLING_UNIT, SAMPLING_UNIT // 2, 1]),
    ),
    st.builds(NonPrivateEvent, name=st.sampled_from(["statistics", "support"])),
)


@given(st.lists(events), st.randoms(use_true_random=False))
def test_grouping_forgets_order_and_splits_but_no_release(items: list[Event], random) -> None:  # type: ignore[no-untyped-def]  # hypothesis passes a Random
    shuffled = items + [item for item in items if isinstance(item, NonPrivateEvent)]
    random.shuffle(shuffled)
    assert grouped(shuffled) == grouped(items) == grouped(grouped(items))
    private = [item for item in items if not isinstance(item, NonPrivateEvent)]
    kept = [item for item in grouped(items) if not isinstance(item, NonPrivateEvent)]
    assert sum(item.count for item in kept) == sum(item.count for item in private)


def test_a_full_rate_is_the_unsampled_event() -> None:
    assert isinstance(gaussian_event(variance=9, sensitivity=1, count=1), GaussianEvent)
    sampled = gaussian_event(variance=9, sensitivity=1, count=1, sampling=SAMPLING_UNIT - 1)
    assert isinstance(sampled, SampledGaussianEvent)


def test_the_honest_shares_add_up_less_four_units() -> None:
    assert accounted_variance(1 << 20, 3) == 3 * (1 << 20) - 4


@pytest.mark.parametrize(
    ("share", "honest"), [(MIN_SHARE_VARIANCE - 1, 1), (1 << 30, 0), (MAX_VARIANCE, 2)]
)
def test_shares_outside_the_lemma_are_refused(share: int, honest: int) -> None:
    with pytest.raises(UsageError):
        accounted_variance(share, honest)


@pytest.mark.parametrize(
    ("variance", "sensitivity", "count", "sampling"),
    [
        (0, 1, 1, 1),
        (MAX_VARIANCE + 1, 1, 1, 1),
        (1, 0, 1, 1),
        (1, 1, 0, 1),
        (1, 1, 1, 0),
        (1, 1, 1, SAMPLING_UNIT + 1),
        (1, 1 << 53, 1, 1),
    ],
)
def test_values_out_of_range_are_refused(
    variance: int, sensitivity: int, count: int, sampling: int
) -> None:
    with pytest.raises(UsageError):
        gaussian_event(variance=variance, sensitivity=sensitivity, count=count, sampling=sampling)


@pytest.mark.parametrize("variance", ["0", "01", "FF", "", "1" * 24])
def test_only_one_spelling_of_a_variance_is_read(variance: str) -> None:
    good = encode(GaussianEvent(variance="ff", sensitivity=1, count=1))
    assert decode(good, GaussianEvent).variance == "ff"
    with pytest.raises(FormatError):
        decode(good.replace(b'"ff"', f'"{variance}"'.encode()), GaussianEvent)


def test_mu_squared_is_exact_and_grows_with_the_square_of_the_sites() -> None:
    event = GaussianEvent(variance="64", sensitivity=7, count=3)
    assert signal_to_noise(event) == Fraction(3 * 49, 100)
    assert signal_to_noise(event, sites=2) == 4 * signal_to_noise(event)
