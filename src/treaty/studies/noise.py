"""What a plan with noised sums derives from its model, its contract and the charter.

Guarantees (docs/spec/privacy.md, section 9):
  * The sensitivity is the clip in grid units where each person's contribution is clipped as
    integers (generalised linear models), and that of the ghost path otherwise.
  * The cohort is that of the charter: noise shares, losses and colluders are derived, never
    stated by a plan.
"""

from treaty.aggregation.tensors import manifest_elements
from treaty.contracts.design import design_columns
from treaty.contracts.schema import Contract
from treaty.errors import UsageError
from treaty.governance.quorum import DerivedParameters
from treaty.models.specification import (
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
    TorchModule,
    model_manifest,
)
from treaty.privacy.certificate import Cohort
from treaty.privacy.ledger_entries import PrivateEvent
from treaty.privacy.mechanisms import ghost_sensitivity
from treaty.privacy.terms import DistributedGaussian, NoisedTerms, releases
from treaty.studies.plan import Plan

__all__ = [
    "cohort_of",
    "descent_terms",
    "noise_terms",
    "noised_sums",
    "planned_events",
    "training_sensitivity",
    "uses_ghost_norms",
]


def noise_terms(plan: Plan) -> NoisedTerms:
    """Return the terms of a plan with noised sums; `UsageError` for one with exact sums."""
    if not isinstance(plan.privacy, NoisedTerms):
        raise UsageError("the plan's sums are exact: it has no noise")
    return plan.privacy


def descent_terms(plan: Plan) -> DistributedGaussian:
    """Return the terms of a plan of noised gradient descent; `UsageError` for any other."""
    if not isinstance(plan.privacy, DistributedGaussian):
        raise UsageError("the plan is not one of noised gradient descent")
    return plan.privacy


def noised_sums(terms: NoisedTerms) -> int:
    """Return how many noised sums over training rows a study asks for, at most."""
    return terms.rounds + 1 if isinstance(terms, DistributedGaussian) else 1


def cohort_of(parameters: DerivedParameters) -> Cohort:
    """Return who may be lost and who may collude, as certificates count them."""
    return Cohort(parameters.members, parameters.min_survivors, parameters.max_colluders)


def uses_ghost_norms(spec: ModelSpecification) -> bool:
    """Say whether clipping finds norms without forming a row's gradient."""
    return isinstance(spec, MultilayerPerceptron | TorchModule)


def training_sensitivity(
    spec: ModelSpecification, terms: NoisedTerms, *, columns: int, max_rows: int
) -> int:
    """Return what one person at one site moves a gradient sum by at most, in grid units.

    Guarantee: L2 norm, added or removed. `columns` are the design's, `max_rows` bounds a site's
    rows. Raises `UsageError` when rounding could add more than 1 % of the clip.
    """
    if isinstance(spec, LogisticRegression):
        return terms.clip.units
    manifest = model_manifest(spec, columns)
    return ghost_sensitivity(
        terms.clip,
        width=manifest_elements(manifest),
        max_rows=max_rows,
        fan_in=max(columns, *(extent for tensor in manifest for extent in tensor.shape)),
    )


def planned_events(plan: Plan, contract: Contract, cohort: Cohort) -> tuple[PrivateEvent, ...]:
    """Return what a study may charge over training rows at most, as `terms.releases`.

    One answer to a query charges its event with a count of one. Guarantee: noise of
    `cohort.min_honest` shares, as in the certificate.
    """
    terms = noise_terms(plan)
    columns, rows = len(design_columns(contract)), plan.aggregation.max_persons_per_site
    sensitivity = training_sensitivity(plan.model, terms, columns=columns, max_rows=rows)
    return releases(terms, cohort, sensitivity)
