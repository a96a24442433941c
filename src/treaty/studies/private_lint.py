"""What is wrong with a plan whose sums are noised, found before anybody votes on it.

Members and verifiers run this when a study opens, so a plan whose numbers promise more than they
give never begins (docs/spec/privacy.md, section 9; codes in docs/spec/studies.md, section 1).
"""

from collections.abc import Iterator
from fractions import Fraction

from treaty.contracts.design import design_columns
from treaty.contracts.schema import Contract
from treaty.errors import PolicyError, UsageError
from treaty.governance.charter import Charter
from treaty.governance.terms import PrivacyMode
from treaty.models.specification import has_site_intercepts, has_unit_rows
from treaty.privacy.accountant import Adjacency, composed_epsilon, delta_of
from treaty.privacy.certificate import Unit, epsilon_micro
from treaty.privacy.terms import (
    NoisedHoldout,
    NoisedStatistics,
    NoisedTerms,
    check_claim,
    check_holdout_claim,
    releases,
)
from treaty.studies.noise import cohort_of, noise_terms, training_sensitivity
from treaty.studies.plan import Plan
from treaty.studies.surplus import surplus_findings

__all__ = ["private_findings"]


def private_findings(plan: Plan, contract: Contract, charter: Charter) -> Iterator[tuple[str, str]]:
    """Yield (code, sentence) for everything wrong with the terms of a plan with noised sums.

    1 nothing is fitted to training rows outside the noised sums: public bounds, no intercept of
    a site, no figures of a site; the model is one that the noised sums give; 2 the protected unit
    is one that the contract can tell apart; 3 the terms repeat the charter's policy and stay
    within its budget, for training and for a noised holdout, whose threshold is an edge of a bin;
    4 the noise can be drawn and gives what the plan promises.
    """
    terms = noise_terms(plan)
    if contract.normalise != "public_bounds":  # 1
        yield (
            "no-public-bounds",
            (
                f"the contract normalises by {contract.normalise}, sums over training rows: adopt "
                'a contract with normalise = "public_bounds", its ranges and typical values from '
                "the literature, never from the rows"
            ),
        )
    if has_site_intercepts(plan.model):
        yield (
            "site-intercepts",
            (
                "an intercept that a site fits to its training rows would show in the evaluation: "
                "set site_intercepts = false"
            ),
        )
    if isinstance(terms, NoisedStatistics) and not has_unit_rows(plan.model):
        yield (
            "model",
            (
                "one noised sum of statistics gives a logistic regression on rows of length one: "
                "take one with unit_rows = true, or train by gradient descent"
            ),
        )
    if plan.evaluation.site_figures:
        yield (
            "site-figures",
            (
                "figures of single sites are exact and compare with models fitted to training rows "
                "alone: set site_figures = false"
            ),
        )
    yield from _unit(terms, contract)  # 2
    yield from _policy(terms, charter)  # 3
    yield from surplus_findings(terms, charter)
    yield from _holdout(plan, charter)  # 3
    try:  # 4
        columns = len(design_columns(contract))
        rows = plan.aggregation.max_persons_per_site
        sensitivity = training_sensitivity(plan.model, terms, columns=columns, max_rows=rows)
        cohort = cohort_of(charter.parameters())
        check_claim(terms, cohort, sensitivity)
        check_holdout_claim(terms, cohort)
    except PolicyError as error:
        yield (error.code, str(error))
        return
    except UsageError as error:
        yield ("noise-range", f"the clip does not fit the model: {error}")
        return
    if charter.privacy.adjacency == Adjacency.REPLACE_ONE.value:
        spent = epsilon_micro(
            composed_epsilon(
                releases(terms, cohort, sensitivity),
                delta_of(terms.delta_inverse),
                adjacency=Adjacency.REPLACE_ONE,
            )
        )
        if spent is None or spent > charter.privacy.epsilon_budget_milli * 1000:
            yield (
                "privacy-budget",
                (
                    "the charter counts persons replaced, by which its noise gives more than "
                    "the budget: use more noise or fewer rounds"
                ),
            )


def _holdout(plan: Plan, charter: Charter) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a noised histogram of the holdout."""
    holdout = noise_terms(plan).holdout
    if not isinstance(holdout, NoisedHoldout):
        return
    if charter.privacy.epsilon_budget_milli < holdout.epsilon_milli:
        yield (
            "privacy-budget",
            (
                f"the plan asks for epsilon {holdout.epsilon_milli / 1000:.3f} for the holdout, "
                f"the charter's budget is {charter.privacy.epsilon_budget_milli / 1000:.3f}: use "
                "more noise"
            ),
        )
    if plan.evaluation.threshold_permille * plan.evaluation.bins % 1000:
        yield (
            "threshold-edge",
            (
                f"accuracy is read from {plan.evaluation.bins} noised bins of equal width, of "
                f"which the threshold {plan.evaluation.threshold_permille}/1000 is no edge: take "
                "other bins or another threshold"
            ),
        )


def _unit(terms: NoisedTerms, contract: Contract) -> Iterator[tuple[str, str]]:
    entity = contract.entity
    if Unit(terms.unit) is Unit.RECORD and entity.person_id:
        yield (
            "person-id-unused",
            (
                f"the contract names {entity.person_id} as the person, the plan protects rows one "
                "by one: no epsilon is stated for it; protect persons"
            ),
        )
    if Unit(terms.unit) is Unit.PERSON and not entity.person_id and entity.unit != "person":
        yield (
            "person-id-missing",
            (
                f"a row is one {entity.unit} and the contract names no person: no epsilon is "
                "stated for persons; add person_id to the contract, or protect records"
            ),
        )


def _policy(terms: NoisedTerms, charter: Charter) -> Iterator[tuple[str, str]]:
    policy = charter.privacy
    if policy.mode is PrivacyMode.EXACT:
        yield (
            "privacy-policy",
            "the charter's privacy mode is exact and has no budget: amend it to differential",
        )
        return
    if not terms.unit.startswith(f"{policy.unit}-"):
        yield (
            "privacy-policy",
            f"the plan protects a {terms.unit}, the charter a {policy.unit}: take the charter's",
        )
    if terms.max_sites_per_person != policy.max_sites_per_person:
        yield (
            "privacy-policy",
            (
                f"the plan counts persons at up to {terms.max_sites_per_person} sites, the charter "
                f"{policy.max_sites_per_person}: take the charter's"
            ),
        )
    if terms.epsilon_milli > policy.epsilon_budget_milli:
        yield (
            "privacy-budget",
            (
                f"the plan asks for epsilon {terms.epsilon_milli / 1000:.3f}, the charter's budget "
                f"is {policy.epsilon_budget_milli / 1000:.3f}: use more noise or fewer rounds"
            ),
        )
    if Fraction(1, terms.delta_inverse) > Fraction(policy.delta):
        yield (
            "privacy-budget",
            (
                f"the plan's delta is 1/{terms.delta_inverse}, the charter's {policy.delta}: take "
                "a smaller one"
            ),
        )
