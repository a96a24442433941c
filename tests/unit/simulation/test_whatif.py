"""A forecast: everything asked for is there, integers only, equal for equal scenarios.

Planted and caught: certificates for another epsilon than the column's, min_honest of N instead of
survivors less colluders, departures without recalibration of thresholds, a seed left out of
the scenario's digest, the page printing a name unescaped.
"""

import re
from dataclasses import replace
from fractions import Fraction

import pytest

from tests.unit.contracts.example import CONTRACT
from treaty.contracts.schema import parse_contract
from treaty.crypto import canonical
from treaty.errors import PolicyError, UsageError
from treaty.evaluation.forecast import Arm, Forecast
from treaty.reports.forecast_page import forecast_headline, render_forecast
from treaty.simulation.rehearsal import Recipe
from treaty.simulation.stand_in import SchemaSampled
from treaty.simulation.whatif import CLIPS, ROUND_COUNTS, Scenario, expected_sizes, forecast

EXAMPLE = parse_contract(CONTRACT)
SIZES = {"alpha": 90, "beta": 80, "gamma": 70, "delta": 60}
SCENARIO = Scenario(
    name="example",
    stand_in=SchemaSampled(EXAMPLE, SIZES),
    epsilons=(1.0, 8.0),
    recipe=Recipe(rounds=5),
    repeats=3,
)


@pytest.fixture(scope="module")
def found() -> Forecast:
    return forecast(SCENARIO)


def test_a_forecast_has_every_arm_at_every_budget(found: Forecast) -> None:
    for epsilon in (1000, 8000):
        for arm in Arm:
            band = found.band(arm, epsilon)
            assert band.low <= band.mean <= band.high
            assert band.repeats == 3
    with pytest.raises(UsageError, match="no alone at epsilon 2"):
        found.band(Arm.ALONE, 2000)
    assert len(found.recipes) == len(CLIPS) * len(ROUND_COUNTS)
    assert [one.planned for one in found.recipes].count(True) == 1
    assert [one.site for one in found.departures] == sorted(SIZES)
    assert (found.min_survivors, found.min_honest) == (3, 2)


def test_the_bytes_of_a_forecast_are_canonical_and_come_back(found: Forecast) -> None:
    data = canonical.encode(found)
    assert canonical.decode(data, Forecast) == found
    assert canonical.encode(forecast(SCENARIO)) == data


def test_the_certificates_state_the_budget_of_their_column(found: Forecast) -> None:
    for epsilon, text in found.certificates:
        stated = re.search(r"A person at one site: epsilon ([0-9.]+)", text)
        assert stated is not None
        assert Fraction(epsilon, 1000) - Fraction(1, 1000) <= Fraction(stated.group(1))
        assert Fraction(stated.group(1)) <= Fraction(epsilon, 1000) + Fraction(1, 1000)
    shares = {one.honest_shares for one in found.collusion if one.target_milli == 1000}
    # Of a sum of three, all but one of whom may collude: who is lost plays no part.
    assert shares == {1, 2}


def test_without_a_fourth_site_nobody_can_leave() -> None:
    three = {name: SIZES[name] for name in ("alpha", "beta", "gamma")}
    scenario = replace(SCENARIO, stand_in=SchemaSampled(EXAMPLE, three), repeats=1)
    assert forecast(scenario).departures == ()


def test_everything_that_changes_a_repeat_changes_the_scenario() -> None:
    changed = [
        replace(SCENARIO, epsilons=(1.0,)),
        replace(SCENARIO, seed=1),
        replace(SCENARIO, delta_inverse=1000),
        replace(SCENARIO, min_survivors=4),
        replace(SCENARIO, max_colluders=2),
        replace(SCENARIO, holdout_permille=341),
        replace(SCENARIO, recipe=Recipe(rounds=6)),
        replace(SCENARIO, stand_in=SchemaSampled(EXAMPLE, SIZES | {"alpha": 91})),
    ]
    digests = {scenario.digest() for scenario in [SCENARIO, *changed]}
    assert len(digests) == len(changed) + 1
    assert replace(SCENARIO, repeats=7).digest() == SCENARIO.digest()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"epsilons": ()}, UsageError),
        ({"epsilons": (3.0, 1.0)}, UsageError),
        ({"epsilons": (0.0,)}, UsageError),
        ({"max_colluders": 0}, PolicyError),
        ({"max_colluders": 3}, PolicyError),
        ({"min_survivors": 2}, PolicyError),
        ({"delta_inverse": 1}, UsageError),
        ({"holdout_permille": 0}, UsageError),
        ({"stand_in": SchemaSampled(EXAMPLE, SIZES | {"alpha": 1})}, UsageError),
    ],
)
def test_an_impossible_scenario_is_refused(
    change: dict[str, object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        replace(SCENARIO, **change)  # type: ignore[arg-type]


def test_one_number_of_persons_serves_all_sites() -> None:
    assert expected_sizes(["a", "b"], [7]) == {"a": 7, "b": 7}
    assert expected_sizes(["a", "b"], [7, 8]) == {"a": 7, "b": 8}
    with pytest.raises(UsageError, match="one for each of 2 sites"):
        expected_sizes(["a", "b"], [7, 8, 9])


def test_the_page_says_what_the_forecast_says_and_runs_no_script(found: Forecast) -> None:
    page = render_forecast(found)
    assert "<script" not in page and "http://" not in page and "https://" not in page
    assert len(page) < 500_000
    assert forecast_headline(found) in page
    for site, _ in found.sites:
        assert site in page
    assert render_forecast(found) == page


def test_a_hostile_name_is_escaped() -> None:
    import msgspec

    hostile = "<img src=x onerror=alert(1)>"
    record = msgspec.structs.replace(forecast(replace(SCENARIO, repeats=1)), stand_in=hostile)
    assert hostile not in render_forecast(record)
