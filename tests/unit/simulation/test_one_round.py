"""One noised sum of statistics, rehearsed and assessed: what the study itself would do and show.

Planted and caught: the whole sum's noise as that of a round of descent; a model that allows for no
noise, or for local noise as for shared; the signal of the whole sum; labels with the wrong sign;
statistics not clipped, or with next to no noise; the attacker shown the sum without noise; a model
under attack without noise; candidates from labels left out, off-diagonals taken as they are;
canaries read from the words with labels alone; a protection counted as noised gradient sums;
a learning rate printed.
"""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from tests.unit.contracts.example import CONTRACT
from tests.unit.simulation.test_impact import ROWS, made_up, private, request
from treaty.assessment.canaries import SiteRound
from treaty.assessment.findings import failures
from treaty.assessment.wording import text_lines
from treaty.contracts.schema import parse_contract
from treaty.errors import UsageError
from treaty.evaluation.forecast import Arm, Forecast
from treaty.governance.terms import PrivacyMode, PrivacyPolicy
from treaty.ids import MemberId
from treaty.models.specification import LogisticRegression
from treaty.privacy.calibration import gaussian_mu
from treaty.privacy.certificate import Cohort
from treaty.privacy.terms import NoisedStatistics
from treaty.reports.assessment_page import render_assessment
from treaty.reports.forecast_page import render_forecast
from treaty.simulation.descent import PlainRows, descend
from treaty.simulation.impact import AssessmentRequest, _normalised, assess, target_of
from treaty.simulation.impact_probes import Setting, statistics_views
from treaty.simulation.impact_rows import assessed_rows
from treaty.simulation.impact_statistics import StatisticsTarget
from treaty.simulation.rehearsal import NoiseShares, OneRound, from_statistics
from treaty.simulation.stand_in import SchemaSampled
from treaty.simulation.whatif import STATISTICS_CLIPS, Scenario, forecast
from treaty.studies.calibrating import Privacy, terms_for
from treaty.studies.noise import noise_terms

EXAMPLE = parse_contract(CONTRACT)
SHARES = NoiseShares(sites=4, shared=Fraction(2), shared_third=Fraction(2))
SCENARIO = Scenario(
    name="example",
    stand_in=SchemaSampled(EXAMPLE, {"alpha": 90, "beta": 80, "gamma": 70, "delta": 60}),
    epsilons=(1.0, 8.0),
    recipe=OneRound(),
    repeats=3,
)


def rows(persons: int = 200) -> tuple[np.ndarray, np.ndarray]:
    drawn = SchemaSampled(EXAMPLE, {"alpha": persons, "beta": 5, "gamma": 5}).draw(3)
    return drawn["alpha"]


def still() -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(1))


# --- rehearsed --------------------------------------------------------------------------------


def test_without_noise_the_model_is_one_newton_step_from_zero() -> None:
    """By a general solver, in floating point: the grid moves it by less than a millionth."""
    features, label = rows()
    width = features.shape[1]
    ridge = np.diag([1.0] * (width - 1) + [0.0])
    wanted = np.linalg.solve(
        features.T @ features / 4 + ridge, features.T @ (2.0 * label - 1.0) / 2
    )
    run = from_statistics(features, label, OneRound(), 0.0, 0.0, still())
    assert run.coefficients == pytest.approx(wanted, abs=1e-5)
    assert run.clipped == 0.0 and run.signals[0] == math.inf


def test_all_of_the_budget_goes_to_the_one_sum() -> None:
    assert 1.0 / OneRound().multiplier(1.0, 1e-5) == pytest.approx(gaussian_mu(1.0, 1e-5))


def test_the_signal_is_that_of_the_words_that_labels_enter() -> None:
    features, label = rows()
    run = from_statistics(features, label, OneRound(), 2.0, 2.0, still())
    told = np.linalg.norm(features.T @ (2.0 * label - 1.0))
    each = 2.0 * math.sqrt(2.0)
    assert run.signals[0] == pytest.approx(told / (each * math.sqrt(features.shape[1])), rel=1e-5)


def test_a_smaller_clip_cuts_every_row_and_is_noised_less() -> None:
    features, label = rows()
    run = from_statistics(features, label, OneRound(0.5), 0.0, 0.0, still())
    assert run.clipped == 1.0
    with pytest.raises(UsageError, match="one round"):
        OneRound().changed(1.0, 5)
    with pytest.raises(UsageError, match="clip"):
        OneRound(0.0)


def test_more_noise_and_what_is_allowed_for_it_shrink_the_model() -> None:
    """Allowing for noise is a ridge: a model from the same sum that allows for none is longer."""
    features, label = rows(2000)
    allowing, not_so = (
        from_statistics(features, label, OneRound(), 4.0, allowed, still()).coefficients
        for allowed in (6.0, 0.0)
    )
    assert np.linalg.norm(allowing) < np.linalg.norm(not_so)
    assert SHARES.allowed(Arm.NO_NOISE) == 0.0 and SHARES.allowed(Arm.LOCAL) == 2.0
    assert SHARES.allowed(Arm.SHARED) == pytest.approx(SHARES.overshoot(Arm.SHARED))


@pytest.fixture(scope="module")
def foreseen() -> Forecast:
    return forecast(SCENARIO)


def test_a_forecast_says_that_there_is_one_sum(foreseen: Forecast) -> None:
    assert foreseen.learning_rate_milli is None and foreseen.rounds == 1
    assert [one.clip_milli for one in foreseen.recipes] == [500, 1000, 1414]
    assert [one.planned for one in foreseen.recipes] == [False, False, True]
    assert len(foreseen.recipes) == len(STATISTICS_CLIPS)
    page = render_forecast(foreseen)
    assert "One noised sum of statistics" in page and "20 rounds" not in page
    assert foreseen.bands and foreseen.departures and foreseen.site_counts


def test_the_certificate_is_that_of_one_release(foreseen: Forecast) -> None:
    """All of the column's epsilon, no more."""
    for epsilon, text in foreseen.certificates:
        assert f"A person at one site: epsilon {epsilon / 1000:.3f}" in text
    assert SCENARIO.digest() != replace(SCENARIO, recipe=OneRound(1.0)).digest()


# --- assessed ---------------------------------------------------------------------------------


def asked(epsilon: float = 1.0, **changes: object) -> AssessmentRequest:
    model, contract, _ = private()
    terms = terms_for(
        Privacy(epsilon=epsilon, one_round=True),
        model,
        contract,
        PrivacyPolicy(mode=PrivacyMode.DIFFERENTIAL),
        members=4,
        max_persons_per_site=ROWS,
    )
    return request(specification=model, contract=contract, terms=terms, **changes)


def target(epsilon: float = 1.0) -> StatisticsTarget:
    found = target_of(asked(epsilon))
    assert isinstance(found, StatisticsTarget)
    return found


def test_a_claim_that_holds_is_not_contradicted() -> None:
    found = assess(asked()).findings
    assert failures(found) == () and found.protection == "noised-statistics"
    assert {one.view for one in found.recoveries} == {
        "bare-update.honest",
        "secure-sum.honest",
        "noised-sum.honest",
    }
    assert [one.view for one in found.recoveries if one.counts] == ["noised-sum.honest"]
    assert found.audit is not None and found.audit.lower_bound_micro <= 1_000_000
    moved = found.audit.checks[0]
    assert 700_000 < moved.found_micro < 1_300_000, "a person moves the sum by its whole clip"
    assert "on one noised sum of statistics" in text_lines(found)[0]
    assert "one noised sum of statistics" in render_assessment(found)


class Weakened(StatisticsTarget):
    """Noise of a tenth of the planned deviation."""

    def release(self, item: SiteRound) -> np.ndarray:
        got = super().release(item)
        exact = np.zeros_like(got)
        exact[np.unique(item.persons)] = item.clip.units
        return exact + (got - exact) // 10


class Unclipped(StatisticsTarget):
    """Sixteen rows count sixteen times."""

    def release(self, item: SiteRound) -> np.ndarray:
        got = super().release(item)
        got[np.unique(item.persons)] += 15 * item.clip.units
        return got


@pytest.mark.parametrize(
    ("kind", "code"), [(Weakened, "audit-above-claim"), (Unclipped, "noise-check")]
)
def test_a_mechanism_that_breaks_its_claim_fails(kind: type[StatisticsTarget], code: str) -> None:
    model, contract, _ = private()
    terms = asked().terms
    assert isinstance(terms, NoisedStatistics)
    broken = kind(model, terms, Cohort(4, 3, 1), contract, max_persons_per_site=ROWS)
    assert code in failures(assess(asked(), target=broken).findings)


def test_a_site_of_one_person_gives_its_record_to_whoever_sees_its_exact_statistics() -> None:
    """From the outer products and from the words that labels enter; noised, neither is near."""
    assessed = asked()
    seen = assessed_rows(assessed.data, _normalised(assessed))
    one = np.array([7])
    exact = target().candidates(target().plain(seen, one))
    assert len(exact) == 2 and np.allclose(exact, seen.features[7], atol=1e-9)
    clipped = target().statistics(seen, one)
    noised = target().candidates((clipped + target().noise(len(clipped), bytes(32))).astype(float))
    assert not any(
        np.linalg.norm(row - seen.features[7]) < 0.5 * np.linalg.norm(seen.features[7])
        for row in noised
    )


def test_the_model_under_attack_is_that_of_the_study() -> None:
    """With next to no noise: the same training on the same rows, outside the protocol."""
    assessed = asked(500.0)
    attacked = target(500.0)
    seen = assessed_rows(assessed.data, _normalised(assessed))
    predict = attacked.train(seen, np.ones(seen.people, bool), bytes(32))
    plain = PlainRows(seen.features, seen.label, [str(one) for one in seen.person])
    model = descend(attacked.plan, attacked.trainer, (plain,), noise=None)
    wanted = attacked.trainer.predict(attacked.specification, model, seen.features)
    assert np.max(np.abs(predict(seen.features) - wanted)) < 0.1
    one, again, other = (
        target(0.5).train(seen, np.ones(seen.people, bool), bytes([number]) * 32)(seen.features)
        for number in (1, 1, 2)
    )
    assert np.array_equal(one, again) and np.max(np.abs(one - other)) > 0.01


def test_what_the_coordinator_sees_is_clipped_and_noised() -> None:
    """Chi-squared over 35 words: outside 10 .. 80 with a probability below 1e-4."""
    assessed, attacked = asked(), target()
    seen = assessed_rows(assessed.data, _normalised(assessed))
    place = np.arange(len(seen.label)) % 4
    setting = Setting(seen, place, seen.features, attempts=1, entropy=bytes(32))
    views = statistics_views(attacked, setting)
    everybody = np.arange(len(seen.label))
    assert np.array_equal(np.sort(views["noised-sum"][1]), everybody)
    assert np.array_equal(views["bare-update"][1], everybody[place == 0])
    gap = views["noised-sum"][0] - attacked.statistics(seen, everybody)
    assert len(gap) == 35
    honest = attacked.honest_shares * attacked.share_variance
    assert 10.0 < float(np.square(gap).sum()) / honest < 80.0


def test_persons_of_many_rows_are_clipped_as_one() -> None:
    data = {MemberId("aare.example"): made_up(private()[1], 120, rows_each=3)}
    found = assess(asked(data=data)).findings
    assert found.persons == 120 and failures(found) == ()


def test_the_plan_that_is_assessed_has_the_clip_of_its_terms() -> None:
    assert noise_terms(target().plan).clip_micro == 1_414_214
    assert isinstance(target().specification, LogisticRegression)
