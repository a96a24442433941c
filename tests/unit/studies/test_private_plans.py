"""Private plans: from an epsilon to integers, and what is wrong with a plan before any vote.

Planted and caught, each check taken out: site figures, site intercepts, public bounds, a person
identifier that is not used, the budget, persons replaced, claims under noise, claims without a row;
epsilon rounded up.
"""

from dataclasses import replace
from fractions import Fraction

import msgspec
import numpy as np
import pytest

from tests.worlds import CONTRACT, refused, small_charter, small_contract, small_plan
from treaty.contracts.normalisation import with_public_bounds
from treaty.contracts.schema import Contract
from treaty.errors import UsageError
from treaty.governance.charter import Charter
from treaty.governance.template import CharterOptions
from treaty.models.specification import (
    LogisticRegression,
    MultilayerPerceptron,
    has_site_intercepts,
    has_unit_rows,
    initial_model,
)
from treaty.privacy.events import SAMPLING_UNIT
from treaty.privacy.terms import ExactSums, NoisedHoldout, claimed_epsilon_micro
from treaty.studies.calibrating import Privacy, private_model, terms_for, with_noise
from treaty.studies.certificates import Answered, answered_events, privacy_statement
from treaty.studies.lint import kinds_of, lint_plan
from treaty.studies.noise import cohort_of, descent_terms, noise_terms, planned_events
from treaty.studies.outcome import outcome_from_noised
from treaty.studies.plan import EvaluationSettings, Plan
from treaty.studies.progress import Stage, begin, sufficient_model
from treaty.studies.queries import NO_DIGEST, QueryKind, make_query, sums_at_most

OPTIONS = CharterOptions(post_quantum=False, epsilon_budget_milli=3000, delta="1e-5")
CHARTER = small_charter(options=OPTIONS)
DATA = with_public_bounds(small_contract())


def private(
    charter: Charter = CHARTER,
    contract: Contract = DATA,
    asked: Privacy | None = None,
    spec: object = None,
    **terms: object,
) -> Plan:
    model = private_model(spec or LogisticRegression())  # type: ignore[arg-type]  # a model
    found = terms_for(
        asked or Privacy(),
        model,
        contract,
        CHARTER.privacy,
        members=4,
        max_persons_per_site=256,
    )
    plan = small_plan(charter, contract, model=model)
    return msgspec.structs.replace(plan, privacy=msgspec.structs.replace(found, **terms))


def codes(plan: Plan, contract: Contract = DATA, charter: Charter = CHARTER) -> list[str]:
    return [one.code for one in lint_plan(plan, contract, charter)]


@pytest.mark.parametrize("spec", [LogisticRegression(), MultilayerPerceptron(hidden=(4,))])
@pytest.mark.parametrize("asked", [Privacy(), Privacy(epsilon=3.0), Privacy(local=True)], ids=str)
def test_a_sound_private_plan_has_no_findings(spec: object, asked: Privacy) -> None:
    plan = private(asked=asked, spec=spec)
    assert codes(plan) == []
    assert kinds_of(plan) == (QueryKind.COUNT, QueryKind.DESCENT, QueryKind.EVALUATION)
    assert sums_at_most(plan) == plan.privacy.rounds + 2  # type: ignore[union-attr]  # noised


ONCE = Privacy(one_round=True)


@pytest.mark.parametrize("asked", [ONCE, Privacy(epsilon=3.0, one_round=True, local=True)], ids=str)
def test_a_plan_of_one_noised_sum_is_sound_and_spends_all_of_epsilon_on_it(asked: Privacy) -> None:
    plan = private(asked=asked)
    assert codes(plan) == []
    assert kinds_of(plan) == (QueryKind.SUFFICIENT, QueryKind.EVALUATION)
    assert sums_at_most(plan) == 2
    cohort = cohort_of(CHARTER.parameters())
    [event] = planned_events(plan, DATA, cohort)
    assert event.count == 1 and event.sensitivity == noise_terms(plan).clip.units == 1 << 24
    spent = claimed_epsilon_micro(noise_terms(plan), cohort, 1 << 24)
    assert spent is not None and 0.999e6 * asked.epsilon < spent <= 1e6 * asked.epsilon
    [training, holdout] = privacy_statement(plan, DATA, CHARTER, ()).certificates
    assert [one.count for one in training.events] == [1]
    assert training.lines[0].add_remove_micro == spent
    assert holdout.lines[0].add_remove_micro is None


def test_less_noise_than_one_sum_promises_is_found() -> None:
    plan = private(asked=ONCE)
    less = f"{int(noise_terms(plan).variance, 16) * 99 // 100:x}"
    assert codes(private(asked=ONCE, variance=less)) == ["epsilon-claim"]


@pytest.mark.parametrize(
    "model", [MultilayerPerceptron(hidden=(4,)), LogisticRegression(site_intercepts=False)]
)
def test_one_noised_sum_is_of_a_logistic_regression_on_rows_of_length_one(model: object) -> None:
    plan = msgspec.structs.replace(private(asked=ONCE), model=model)
    assert "model" in codes(plan)


def test_one_noised_sum_has_no_rounds_rate_or_sampling() -> None:
    for wrong in ({"rounds": 1}, {"learning_rate": 1.0}, {"sampling": 0.5}):
        with pytest.raises(UsageError, match="leave them out"):
            Privacy(one_round=True, **wrong)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(UsageError, match="logistic"):
        private(asked=ONCE, spec=MultilayerPerceptron(hidden=(4,)))


def test_no_claims_leave_under_a_charter_that_promises_an_epsilon() -> None:
    """Neither beside noise nor beside exact sums, which this charter does not show either."""
    spec = MultilayerPerceptron(hidden=(4,))
    noised = private(spec=spec)
    sketched = msgspec.structs.replace(noised.aggregation, sketched=True)
    assert codes(noised) == []
    asking = msgspec.structs.replace(noised, aggregation=sketched)
    refusal, *rows = lint_plan(asking, DATA, CHARTER)
    assert refusal.code == "sketched" and "under noise" in refusal.message
    assert [one.code for one in rows] == ["exposure", "exposure"]
    exact = small_plan(CHARTER, small_contract(), model=spec, aggregation=sketched)
    found = lint_plan(exact, small_contract(), CHARTER)
    assert {one.code for one in found} == {"exposure"}
    assert sum("claims may not be shown" in one.message for one in found) == 2
    assert sum("does not accept this sum" in one.message for one in found) > 2


def charter_with(**policy: object) -> Charter:
    def edit(charter: Charter) -> Charter:
        other = msgspec.structs.replace(charter.privacy, **policy)
        return msgspec.structs.replace(charter, privacy=other)

    return small_charter(options=OPTIONS, edit=edit)


VISITS = small_contract(CONTRACT.replace("[label]", '[entity]\nunit = "visit"\n\n[label]', 1))
IDENTIFIED = small_contract(
    CONTRACT.replace("[label]", '[entity]\nperson_id = "pid"\n\n[label]', 1)
)


@pytest.mark.parametrize(
    "code, make",
    [
        (
            "no-public-bounds",
            lambda: (private(contract=small_contract()), small_contract(), CHARTER),
        ),
        (
            "site-intercepts",
            lambda: (
                msgspec.structs.replace(private(), model=LogisticRegression()),
                DATA,
                CHARTER,
            ),
        ),
        (
            "site-figures",
            lambda: (
                msgspec.structs.replace(
                    private(), evaluation=EvaluationSettings(site_figures=True)
                ),
                DATA,
                CHARTER,
            ),
        ),
        (
            "person-id-missing",
            lambda: (
                private(contract=with_public_bounds(VISITS)),
                with_public_bounds(VISITS),
                CHARTER,
            ),
        ),
        (
            "person-id-unused",
            lambda: (
                private(
                    contract=with_public_bounds(IDENTIFIED),
                    charter=charter_with(unit="record"),
                    unit="record-in-institution",
                ),
                with_public_bounds(IDENTIFIED),
                charter_with(unit="record"),
            ),
        ),
        ("privacy-policy", lambda: (private(unit="record-in-institution"), DATA, CHARTER)),
        ("privacy-policy", lambda: (private(max_sites_per_person=1), DATA, CHARTER)),
        ("privacy-budget", lambda: (private(asked=Privacy(epsilon=3.001)), DATA, CHARTER)),
        ("privacy-budget", lambda: (private(asked=Privacy(delta=2e-5)), DATA, CHARTER)),
        ("noise-range", lambda: (private(variance="1"), DATA, CHARTER)),
        ("epsilon-claim", lambda: (private(rounds=21), DATA, CHARTER)),
    ],
)
def test_a_plan_that_cannot_keep_its_promise_is_found(code: str, make: object) -> None:
    plan, contract, charter = make()  # type: ignore[operator]  # a function of nothing
    assert code in codes(plan, contract, charter)


def test_a_holdout_with_less_noise_than_it_promises_is_found() -> None:
    plan = private(asked=Privacy(holdout_epsilon=0.9))
    assert codes(plan) == []
    holdout = noise_terms(plan).holdout
    assert isinstance(holdout, NoisedHoldout)
    less = f"{int(holdout.variance, 16) * 99 // 100:x}"
    changed = msgspec.structs.replace(holdout, variance=less)
    found = private(asked=Privacy(holdout_epsilon=0.9), holdout=changed)
    assert codes(found) == ["epsilon-claim"]
    [message] = [one.message for one in lint_plan(found, DATA, CHARTER)]
    assert "for the holdout" in message


def test_what_a_plan_does_not_have_is_not_made_up() -> None:
    exact, cohort = small_plan(CHARTER, DATA), cohort_of(CHARTER.parameters())
    with pytest.raises(UsageError, match="sums are exact: it has no noise"):
        noise_terms(exact)
    for other in (exact, private(asked=ONCE)):
        with pytest.raises(UsageError, match="not one of noised gradient descent"):
            descent_terms(other)
    plan = private()
    with pytest.raises(UsageError, match="the plan's holdout is exact"):
        outcome_from_noised(plan, {}, cohort, sites=4)
    with pytest.raises(UsageError, match="exact: it has no noised histogram"):
        make_query(
            plan, DATA, QueryKind.SCORES, 1, members=4, model=NO_DIGEST, normaliser=NO_DIGEST
        )
    for kind in (QueryKind.SCORES, QueryKind.SUFFICIENT):
        with pytest.raises(UsageError, match=f"no noised sum of kind {kind.value}"):
            answered_events(plan, DATA, [Answered(kind, 4, cohort)])
    perceptron = private(spec=MultilayerPerceptron(hidden=(4,)))
    with pytest.raises(UsageError, match="those of a logistic regression"):
        sufficient_model(perceptron, initial_model(perceptron.model, 2), {}, 4)


def test_a_noised_histogram_is_read_with_the_group_that_it_was_asked_of() -> None:
    plan = private(asked=Privacy(rounds=1, holdout_epsilon=0.9))
    begun = begin(plan, DATA, members=4, least_support=3)
    ready = replace(begun, stage=Stage.EVALUATION)
    query = ready.expected_query()
    assert query.kind is QueryKind.SCORES
    layout = query.layout
    total = np.zeros(layout.length, dtype=np.uint64)
    total[-1] = 4
    with pytest.raises(UsageError, match="needs the group"):
        ready.absorb(query, total, 4)
    assert ready.absorb(query, total, 4, cohort_of(CHARTER.parameters())).stage is Stage.COMPLETED


def test_a_sum_that_could_wrap_is_refused() -> None:
    """Two to the 24 persons of 2^32 units at each of 128 sites pass the signed range."""
    plan = private(grid_bits=32)
    wide = msgspec.structs.replace(plan.aggregation, max_persons_per_site=1 << 24)
    plan = msgspec.structs.replace(plan, aggregation=wide)
    for kind in (QueryKind.COUNT, QueryKind.DESCENT):
        make_query(plan, DATA, kind, 0, members=120, model=NO_DIGEST, normaliser=NO_DIGEST)
        with refused("capacity"):
            make_query(plan, DATA, kind, 0, members=128, model=NO_DIGEST, normaliser=NO_DIGEST)


def test_a_charter_that_counts_replaced_persons_needs_the_budget_for_them() -> None:
    """Epsilon 1 for a person added is 2.15 for one replaced: within 3, beyond 2."""
    for budget, found in ((3000, []), (2000, ["privacy-budget"])):
        charter = charter_with(adjacency="replace-one", epsilon_budget_milli=budget)
        assert codes(private(charter=charter), charter=charter) == found


def test_noise_under_a_charter_of_exact_sums_is_found_and_the_reverse() -> None:
    exact = small_charter()
    found = codes(private(charter=exact), charter=exact)
    assert "privacy-policy" in found and "exposure" in found
    plain = msgspec.structs.replace(small_plan(CHARTER, small_contract()), privacy=ExactSums())
    assert "exposure" in codes(plain, small_contract())


def test_rows_of_length_one_are_for_noise_alone() -> None:
    exact = small_charter()
    spec = LogisticRegression(site_intercepts=False, unit_rows=True)
    plan = small_plan(exact, small_contract(), model=spec)
    assert codes(plan, small_contract(), exact) == ["model"]


def test_a_logistic_regression_gives_up_what_would_show_its_rows() -> None:
    spec = private_model(LogisticRegression())
    assert has_unit_rows(spec) and not has_site_intercepts(spec)
    net = MultilayerPerceptron()
    assert private_model(net) is net


@pytest.mark.parametrize(
    "asked, epsilon_milli, delta_inverse",
    [
        (Privacy(), 1000, 100_000),
        (Privacy(epsilon=0.5), 500, 100_000),
        (Privacy(epsilon=1.0009), 1000, 100_000),
        (Privacy(delta=1e-6), 1000, 1_000_000),
        (Privacy(delta=3e-6), 1000, 333_334),
    ],
)
def test_what_is_asked_is_rounded_towards_less_loss(
    asked: Privacy, epsilon_milli: int, delta_inverse: int
) -> None:
    terms = private(asked=asked).privacy
    assert (terms.epsilon_milli, terms.delta_inverse) == (epsilon_milli, delta_inverse)  # type: ignore[union-attr]  # noised
    if asked.delta is not None:
        assert Fraction(1, terms.delta_inverse) <= Fraction(str(asked.delta))  # type: ignore[union-attr]  # noised


def test_delta_falls_with_the_bound_on_persons() -> None:
    terms = terms_for(
        Privacy(),
        private_model(LogisticRegression()),
        msgspec.structs.replace(DATA, max_persons_per_site=8192),
        CHARTER.privacy,
        members=25,
        max_persons_per_site=1 << 14,
    )
    assert terms.delta_inverse == 10 * 25 * 8192


def test_the_sampling_rate_is_rounded_down_and_one_is_everybody() -> None:
    assert private(asked=Privacy(sampling=1.0)).privacy.sampling is None  # type: ignore[union-attr]  # noised
    tenth = private(asked=Privacy(sampling=0.1)).privacy.sampling  # type: ignore[union-attr]  # noised
    assert tenth is not None
    assert Fraction(tenth, SAMPLING_UNIT) <= Fraction(1, 10) < Fraction(tenth + 1, SAMPLING_UNIT)


@pytest.mark.parametrize(
    "wrong, named",
    [
        ({"epsilon": 0.0}, "epsilon"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"epsilon": float("inf")}, "epsilon"),
        ({"delta": 0.0}, "delta"),
        ({"delta": 1.0}, "delta"),
        ({"delta": float("nan")}, "delta"),
        ({"rounds": 0}, "round"),
        ({"clip": 0.0}, "clip"),
        ({"learning_rate": -0.1}, "learning_rate"),
        ({"sampling": 0.0}, "sampling"),
        ({"sampling": 1.5}, "sampling"),
    ],
)
def test_what_no_terms_can_have_is_refused_at_once(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        Privacy(**wrong)  # type: ignore[arg-type]  # numbers


@pytest.mark.parametrize("value", [True, "1", [1.0]])
@pytest.mark.parametrize("name", ["epsilon", "clip", "sampling"])
def test_what_is_no_number_is_refused_as_such(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"expected a number as {name}, got"):
        Privacy(**{name: value})  # type: ignore[arg-type]  # that is the test


@pytest.mark.parametrize("asked", [Privacy(epsilon=0.0005), Privacy(clip=1e-7)], ids=str)
def test_what_rounds_to_nothing_is_refused(asked: Privacy) -> None:
    with pytest.raises(UsageError, match="at least"):
        private(asked=asked)


def test_a_written_plan_without_noise_gets_the_least_that_keeps_its_epsilon() -> None:
    plan = private()
    bare = msgspec.structs.replace(
        plan, privacy=msgspec.structs.replace(plan.privacy, variance="1", count_variance="1")
    )
    assert codes(bare) == ["noise-range"]
    assert with_noise(bare, DATA) == plan
    assert with_noise(plan, DATA) is plan
    exact = small_plan(small_charter(), small_contract())
    assert with_noise(exact, small_contract()) is exact
