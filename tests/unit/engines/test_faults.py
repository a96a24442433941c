"""Seeded faults: repeatable, bounded, and as frequent as the rule says.

Planted faults that these tests caught: the seed or the attempt left out of the
draw; rules that share one draw; filters ignored; an amount of zero.
"""

import pytest

from treaty.engines.faults import Fault, FaultRule, Occasion, SeededFaults
from treaty.errors import UsageError
from treaty.ids import MemberId

A, B = MemberId("a"), MemberId("b")


def occasion(key: int, attempt: int = 1, sender: MemberId = A) -> Occasion:
    return Occasion(sender, B, str(key), attempt, 100)


def test_the_same_occasion_gets_the_same_faults_and_others_do_not() -> None:
    rules = (FaultRule(Fault.DROP, 500), FaultRule(Fault.DELAY, 500))
    plan = SeededFaults(1, rules)
    base = [plan.faults(occasion(key)) for key in range(200)]
    assert base == [SeededFaults(1, rules).faults(occasion(key)) for key in range(200)]
    assert base != [SeededFaults(2, rules).faults(occasion(key)) for key in range(200)]
    assert base != [plan.faults(occasion(key, attempt=2)) for key in range(200)]
    assert base != [plan.faults(occasion(key, sender=B)) for key in range(200)]
    assert {len(faults) for faults in base} == {0, 1, 2}


@pytest.mark.parametrize("per_mille", [0, 100, 500, 1000])
def test_a_rule_strikes_as_often_as_it_says(per_mille: int) -> None:
    """2000 fixed draws: five standard deviations, and exact at both ends."""
    plan = SeededFaults(7, (FaultRule(Fault.DROP, per_mille),))
    struck = sum(bool(plan.faults(occasion(key))) for key in range(2000))
    spread = (2000 * per_mille * (1000 - per_mille)) ** 0.5 / 1000
    assert abs(struck - 2 * per_mille) <= 5 * spread


def test_amounts_stay_in_their_range() -> None:
    plan = SeededFaults(3, (FaultRule(Fault.DELAY, 1000, most=3),))
    amounts = {plan.faults(occasion(key))[0].amount for key in range(100)}
    assert amounts == {1, 2, 3}


def test_a_rule_speaks_only_of_its_parties_and_attempts() -> None:
    table = [
        (FaultRule(Fault.DROP, 1000), True),
        (FaultRule(Fault.DROP, 1000, senders=frozenset({A})), True),
        (FaultRule(Fault.DROP, 1000, senders=frozenset({B})), False),
        (FaultRule(Fault.DROP, 1000, recipients=frozenset({B})), True),
        (FaultRule(Fault.DROP, 1000, recipients=frozenset({A})), False),
        (FaultRule(Fault.DROP, 1000, attempts=1), False),
        (FaultRule(Fault.DROP, 1000, attempts=2), True),
    ]
    for rule, strikes in table:
        assert bool(SeededFaults(1, (rule,)).faults(occasion(1, attempt=2))) is strikes


@pytest.mark.parametrize(("per_mille", "most"), [(-1, 1), (1001, 1), (10, 0)])
def test_a_rule_out_of_range_cannot_be_made(per_mille: int, most: int) -> None:
    with pytest.raises(UsageError, match="expected"):
        FaultRule(Fault.DROP, per_mille, most=most)
