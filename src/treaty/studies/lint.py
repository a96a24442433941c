"""Lint: what a plan would disclose, found before anybody votes on it.

A plan passes when no finding is an error (docs/spec/studies.md, section 1). The checks need the
plan, its contract and the charter; no data.

Checks: 1 the plan binds this charter and contract; 2 the model makes sense for the design, gives
the probabilities that the registered evaluation counts, and the contract does not forbid the
statistics; 3 no sum can wrap in its ring, the charter has that ring, and an epoch has no more
slots than the charter allows; 4 every coordinate of every sum can be made non-zero by at least
`least_support` members; 5 every kind of sum is accepted by name in the exposure matrix, over the
least number of members that an opened sum has; 6 site figures leave only where the
matrix allows them; 7 the plan acknowledges exactly the charter's data-use terms; 8 a plan with
noised sums keeps what it promises (`treaty.studies.private_lint`); 9 a sketched plan has clipped
updates to sketch, and the charter lets claims be shown (`treaty.studies.sketches`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from treaty.contracts.design import coordinate_support, design_columns
from treaty.contracts.schema import Contract, contract_digest
from treaty.errors import PolicyError, UsageError
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.data_use import require_data_use
from treaty.governance.exposure import Artefact, Form
from treaty.governance.roles import Role
from treaty.ids import MemberId
from treaty.models.specification import (
    LinearRegression,
    PoissonRegression,
    check_specification,
    family,
    has_unit_rows,
)
from treaty.privacy.terms import NoisedTerms
from treaty.studies.plan import Plan
from treaty.studies.private_lint import private_findings
from treaty.studies.queries import (
    NO_DIGEST,
    Query,
    QueryKind,
    evaluation_kind,
    make_query,
    noised_kinds,
)
from treaty.studies.sketches import sketch_finding

__all__ = ["Finding", "kinds_of", "lint_plan", "require_clean"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with a plan: a stable code and a sentence that says what to do."""

    code: str
    message: str


def kinds_of(plan: Plan) -> tuple[QueryKind, ...]:
    """Return the kinds of secure sums that `plan` leads to, in order."""
    if isinstance(plan.privacy, NoisedTerms):
        return (*noised_kinds(plan), evaluation_kind(plan))
    newton = family(plan.model) == "newton"
    return (
        QueryKind.SUPPORT,
        QueryKind.STATISTICS,
        QueryKind.NEWTON if newton else QueryKind.AVERAGING,
        QueryKind.EVALUATION,
    )


def lint_plan(plan: Plan, contract: Contract, charter: Charter) -> tuple[Finding, ...]:
    """Return everything that is wrong with `plan`; empty when it may be put to the vote."""
    return tuple(_findings(plan, contract, charter))


def require_clean(plan: Plan, contract: Contract, charter: Charter) -> None:
    """Raise `PolicyError` with the first finding's code and all messages unless there is none."""
    findings = lint_plan(plan, contract, charter)
    if findings:
        raise PolicyError("; ".join(finding.message for finding in findings), code=findings[0].code)


def _findings(plan: Plan, contract: Contract, charter: Charter) -> Iterator[Finding]:
    if plan.charter != charter_digest(charter):  # 1
        yield Finding("wrong-charter", "the plan binds another charter version: propose it anew")
    if plan.contract != contract_digest(contract):
        yield Finding("wrong-contract", "the plan binds another contract: propose it anew")
    columns = design_columns(contract)
    try:  # 2
        check_specification(plan.model, len(columns))
    except UsageError as error:
        yield Finding("model", f"the model does not fit the contract: {error}")
        return
    if isinstance(plan.model, LinearRegression | PoissonRegression):
        yield Finding(
            "model",
            "the registered evaluation counts predicted probabilities, which a "
            f"{type(plan.model).__name__} does not give: take a classifier",
        )
    if isinstance(plan.privacy, NoisedTerms):
        yield from (Finding(*one) for one in private_findings(plan, contract, charter))  # 8
    elif has_unit_rows(plan.model):
        yield Finding(
            "model",
            "rows of length one are for training under noise: set unit_rows = false",
        )
    elif contract.normalise != "federated_zscore":
        yield Finding(
            "normalise",
            f"the contract normalises by {contract.normalise}, a study with exact sums sums "
            "statistics: adopt a contract with federated_zscore",
        )
    members = charter.active_members()
    yield from _rings(plan, contract, charter, len(members))  # 3
    yield from _support(contract, charter, members)  # 4
    yield from _exposure(plan, charter)  # 5, 6
    try:  # 7
        require_data_use(charter.data_use, plan.data_use)
    except PolicyError as error:
        yield Finding("data-use", str(error))


def _rings(plan: Plan, contract: Contract, charter: Charter, members: int) -> Iterator[Finding]:
    policy = charter.secure_aggregation
    updates: Query | None = None
    for kind in kinds_of(plan):
        try:
            query = make_query(
                plan, contract, kind, 0, members=members, model=NO_DIGEST, normaliser=NO_DIGEST
            )
        except (PolicyError, UsageError) as error:
            yield Finding("capacity", f"{kind.value} does not fit its ring: {error}")
            continue
        updates = query if kind is QueryKind.AVERAGING else updates
        if query.layout.ring_bits not in policy.ring_bits:
            yield Finding(
                "ring",
                f"{kind.value} needs a ring of {query.layout.ring_bits} bits, which the charter "
                "does not list: amend its ring_bits"
                + (", or take a finer update_scale_bits" if query.layout.ring_bits == 16 else ""),
            )
    problem = sketch_finding(plan, updates) if plan.aggregation.sketched else None  # 9
    if problem is not None:
        yield Finding("sketched", problem)
    if plan.aggregation.slots_per_epoch > policy.slots_per_epoch_max:
        yield Finding(
            "slots",
            f"the plan asks for {plan.aggregation.slots_per_epoch} slots in an epoch, the charter "
            f"allows {policy.slots_per_epoch_max}: lower slots_per_epoch",
        )


def _support(
    contract: Contract, charter: Charter, members: Sequence[MemberId]
) -> Iterator[Finding]:
    least = charter.least_support
    if len(members) < least:
        yield Finding(
            "least-support", f"{len(members)} members are fewer than least_support = {least}"
        )
    for column, count in zip(
        design_columns(contract), coordinate_support(contract, members), strict=True
    ):
        if count < least:
            yield Finding(
                "least-support",
                f"only {count} members can make {column.name} non-zero, expected at least "
                f"{least}: its coordinates in a sum would be theirs alone; merge the level",
            )


def _exposure(plan: Plan, charter: Charter) -> Iterator[Finding]:
    matrix = charter.exposure_matrix()
    survivors = charter.parameters().min_survivors
    for kind in kinds_of(plan):
        for recipient in (Role.COORDINATOR, Role.MEMBER):
            decision = matrix.decide(kind.artefact, recipient, kind.form, survivors)
            if not decision.allowed:
                yield Finding(
                    "exposure", f"the charter does not accept this sum: {decision.explanation}"
                )
    if plan.aggregation.audited:
        decision = matrix.decide(Artefact.MASKED_INPUT, Role.MEMBER, Form.MASKED, survivors)
        if not decision.allowed:
            yield Finding(
                "exposure", f"members may not see masked inputs to audit: {decision.explanation}"
            )
    if plan.aggregation.sketched:
        for recipient in (Role.COORDINATOR, Role.MEMBER):
            decision = matrix.decide(Artefact.SKETCH_CLAIM, recipient, Form.EXACT, 1)
            if not decision.allowed:
                yield Finding("exposure", f"claims may not be shown: {decision.explanation}")
    if plan.evaluation.site_figures:
        for recipient in (Role.COORDINATOR, Role.MEMBER):
            decision = matrix.decide(Artefact.SITE_METRIC, recipient, Form.EXACT, 1)
            if not decision.allowed:
                yield Finding("exposure", f"site figures may not leave: {decision.explanation}")
