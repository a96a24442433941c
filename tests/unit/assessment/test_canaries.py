"""Canaries against the product's mechanism, and against mechanisms with one bug each.

Planted and caught: every bug of `mechanisms.BUGS`; in the audit itself: canaries no longer than the
clip (no bug of clipping shows), one row a canary (clipping by row does not show), a sign pattern
without changes (reused keys do not show), the colluder's noise never taken off, a check of the
noise that compares nothing.
"""

import pytest

from tests.unit.assessment.mechanisms import BUGS, DELTA, plan_for, sound
from treaty.assessment.auditing import f_dp_lower_bound, pure_lower_bound
from treaty.assessment.canaries import AuditPlan, audit_mechanism
from treaty.errors import UsageError
from treaty.privacy.calibration import gaussian_mu
from treaty.privacy.mechanisms import Clip

SEED = bytes(31) + b"\x07"


def test_the_products_mechanism_keeps_its_promise() -> None:
    """At a claimed epsilon of one: every check holds, no bound is above it."""
    found = audit_mechanism(sound, plan_for(1.0), SEED)
    assert found.noise_holds, found.checks
    assert 0.0 < pure_lower_bound(found.guesses, DELTA) < 1.0
    assert 0.0 < f_dp_lower_bound(found.guesses, DELTA) < 1.0
    assert len(found.checks) == 4


@pytest.mark.parametrize(("epsilon", "least"), [(3.0, 1.0), (8.0, 2.4)])
def test_the_audit_comes_close_to_what_was_spent(epsilon: float, least: float) -> None:
    """The lower bound at a true epsilon of 3 and 8 with 4000 canaries, never above the truth."""
    found = audit_mechanism(sound, plan_for(epsilon), SEED)
    assert least <= f_dp_lower_bound(found.guesses, DELTA) <= epsilon
    assert found.noise_holds


SEEN_BY = {
    "noise_a_tenth": "variance-of-honest-noise",
    "composition_forgotten": "variance-of-honest-noise",
    "no_noise": "variance-of-honest-noise",
    "no_clip": "person-within-clip",
    "clip_by_row": "person-within-clip",
    "same_key_every_round": "fresh-noise-in-every-round",
    "same_key_at_every_site": "own-noise-at-every-site",
    "one_more_without_noise": "variance-of-honest-noise",
    "all_others_without_noise": "variance-of-honest-noise",
}
"""The check of the noise that each bug is made to be seen by."""

PROVED = set(BUGS) - {"one_more_without_noise", "clip_by_row"}
"""Bugs that a thousand guesses prove as well. The others raise epsilon by too little."""


@pytest.mark.parametrize("name", BUGS)
def test_every_planted_bug_is_seen(name: str) -> None:
    """By its own check of the noise, and by the guessing game where it costs enough privacy."""
    found = audit_mechanism(BUGS[name], plan_for(1.0, canaries=1000), SEED)
    assert SEEN_BY[name] in {check.name for check in found.checks if not check.holds}
    if name in PROVED:
        assert f_dp_lower_bound(found.guesses, DELTA) > 1.0


def test_the_same_seed_gives_the_same_audit() -> None:
    """And another seed another one."""
    plan = plan_for(1.0, canaries=200, rounds=4)
    assert audit_mechanism(sound, plan, SEED) == audit_mechanism(sound, plan, SEED)
    assert audit_mechanism(sound, plan, SEED) != audit_mechanism(sound, plan, bytes(32))


def test_the_plans_mu_is_what_the_certificate_counts() -> None:
    """The shift follows from claimed shares, rounds and clip, as the accountant has it."""
    assert plan_for(1.0).mu == pytest.approx(gaussian_mu(1.0, DELTA), rel=1e-6)


def test_a_plan_that_claims_more_shares_than_there_are_is_refused() -> None:
    """Bad plans get one clear error, before anything runs."""
    with pytest.raises(UsageError, match="claimed shares <= honest"):
        AuditPlan(Clip(1.0), 1 << 40, claimed_shares=3, honest=2, rounds=1)
    with pytest.raises(UsageError, match="20 canaries"):
        AuditPlan(Clip(1.0), 1 << 40, claimed_shares=2, honest=2, rounds=1, canaries=3)
    with pytest.raises(UsageError, match="expected a release of 20 coordinates"):
        audit_mechanism(lambda item: sound(item)[:3], plan_for(1.0, canaries=20, rounds=1), SEED)
