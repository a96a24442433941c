"""Models, contracts and charters in words and decimal strings. Pure; the same everywhere."""

from collections.abc import Iterable, Iterator

from treaty.contracts.schema import Category, Contract, Number
from treaty.governance.charter import Charter
from treaty.governance.data_use import DUO_CODES
from treaty.governance.roles import Action, describe_action, describe_role
from treaty.governance.terms import PrivacyMode, RetentionRule
from treaty.models.specification import (
    LinearRegression,
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
    PoissonRegression,
    TorchModule,
)
from treaty.privacy.terms import DistributedGaussian, NoisedStatistics, PrivacyTerms
from treaty.reports.document import ColumnLine, Term
from treaty.studies.plan import Plan

__all__ = [
    "charter_terms",
    "column_lines",
    "counted",
    "decimal_of",
    "listed",
    "model_in_words",
    "plan_terms",
]

_SHOWN_LEVELS = 8
_RETENTION = {
    RetentionRule.UNTIL_VERIFIED: "until the sum is verified",
    RetentionRule.UNTIL_AUDITED: "until they have been audited",
    RetentionRule.WHOLE_STUDY: "for the whole study",
}
_DECISIONS = (
    Action.CONTRACT_ADOPT,
    Action.STUDY_APPROVE,
    Action.STUDY_HALT,
    Action.RELEASE_APPROVE,
    Action.MEMBER_SUSPEND,
    Action.CHARTER_AMEND,
)


def model_in_words(
    spec: ModelSpecification, columns: int, privacy: PrivacyTerms | None = None
) -> str:
    """Return what is trained on `columns` design columns, and how, in one clause."""
    over = f"over {counted(columns, 'design column')}"
    if isinstance(privacy, DistributedGaussian):
        return f"{_name(spec)} {over}, {_descent(privacy)}"
    if isinstance(privacy, NoisedStatistics):
        return (
            f"{_name(spec)} {over}, ridge {decimal_of(_ridge_milli(spec), 3)}, from one noised sum "
            "of statistics over everybody, each person's contribution cut to norm "
            f"{decimal_of(privacy.clip_micro, 6)}"
        )
    match spec:
        case LogisticRegression() | LinearRegression() | PoissonRegression():
            names: dict[type[ModelSpecification], str] = {
                LogisticRegression: "Logistic",
                LinearRegression: "Linear",
                PoissonRegression: "Poisson",
            }
            name = names[type(spec)]
            intercepts = (
                "site intercepts that stay at home"
                if spec.site_intercepts
                else "one common intercept"
            )
            return (
                f"{name} regression {over}, with {intercepts}, ridge "
                f"{decimal_of(spec.ridge_milli, 3)}, by at most "
                f"{counted(spec.max_rounds, 'Newton round')}"
            )
        case MultilayerPerceptron() | TorchModule():
            what = "Perceptron" if isinstance(spec, MultilayerPerceptron) else spec.module
            hidden = " and ".join(str(width) for width in spec.hidden) or "no"
            return (
                f"{what} with {hidden} hidden units {over}, by "
                f"{counted(spec.rounds, 'round')} of federated averaging, "
                f"{counted(spec.local_epochs, 'local pass', 'local passes')} each, learning rate "
                f"{decimal_of(spec.learning_rate_micro, 6)}, updates cut to norm "
                f"{decimal_of(spec.clip_micro, 6)}"
            )


def _name(spec: ModelSpecification) -> str:
    if isinstance(spec, MultilayerPerceptron | TorchModule):
        what = "Perceptron" if isinstance(spec, MultilayerPerceptron) else spec.module
        hidden = " and ".join(str(width) for width in spec.hidden) or "no"
        return f"{what} with {hidden} hidden units"
    return "Logistic regression on rows of length one, with one common intercept,"


def _ridge_milli(spec: ModelSpecification) -> int:
    return spec.ridge_milli if isinstance(spec, LogisticRegression) else 0


def _descent(terms: DistributedGaussian) -> str:
    sampled = "over everybody" if terms.sampling is None else "over secret samples"
    return (
        f"by {counted(terms.rounds, 'round')} of gradient descent {sampled} on noised sums, each "
        f"person's contribution cut to norm {decimal_of(terms.clip_micro, 6)}, learning rate "
        f"{decimal_of(terms.learning_rate_milli, 3)}"
    )


def column_lines(contract: Contract) -> tuple[ColumnLine, ...]:
    """Return the columns of `contract`, the outcome last."""
    lines = []
    for feature in contract.features:
        match feature:
            case Number():
                kind = f"number, {feature.range[0]} to {feature.range[1]}"
                unit = feature.unit
            case Category():
                kind, unit = _levels(feature), ""
        lines.append(
            ColumnLine(name=feature.name, meaning=feature.meaning.strip(), kind=kind, unit=unit)
        )
    outcome = contract.label
    kind = f"outcome: {listed(outcome.positive)} against {listed(outcome.negative)}"
    lines.append(ColumnLine(name=outcome.name, meaning=outcome.meaning.strip(), kind=kind))
    return tuple(lines)


def plan_terms(plan: Plan) -> Iterator[Term]:
    """Yield what the plan fixes beside model and contract."""
    if plan.title and plan.title != plan.study:
        yield Term(label="Name of the study", value=plan.study)
    held = decimal_of(plan.split.holdout_permille, 1)
    yield Term(
        label="Test patients",
        value=f"{held} % of each site's rows, set aside by a keyed order under seed "
        f"{plan.split.seed}",
    )
    yield Term(
        label="Evaluation",
        value=f"{plan.evaluation.bins} bins of predicted risk, decision threshold "
        f"{decimal_of(plan.evaluation.threshold_permille, 3)}",
    )


def charter_terms(charter: Charter) -> Iterator[Term]:
    """Yield the rules of `charter` that a reader of a study asks for."""
    if charter.title and charter.title != charter.consortium:
        yield Term(label="Charter's title", value=charter.title)
    yield Term(label="Purpose of the charter", value=charter.purpose)
    for action in _DECISIONS:
        rule = charter.decisions.get(action)
        words = describe_action(action).partition(",")[0]
        value = "nobody"
        if rule is not None:
            holders = len(charter.holders(rule.role))
            value = f"at least {rule.threshold} of {holders} {describe_role(rule.role)}"
        yield Term(label=f"To {words}", value=value)
    for term in charter.data_use.terms:
        code = DUO_CODES.get(term.code)
        meaning = "unknown code" if code is None else code.meaning
        detail = f" ({term.detail})" if term.detail else ""
        yield Term(label="Data use", value=f"{meaning}{detail}, {term.code}")
    yield Term(label="Privacy of persons", value=_privacy(charter))
    policy = charter.secure_aggregation
    hybrid = policy.suite == "cesa1-x25519-mlkem768"
    yield Term(
        label="Key agreement",
        value=policy.suite
        + (", meant to withstand quantum computers" if hybrid else ", classical only"),
    )
    yield Term(
        label="Each column of a sum",
        value=f"at least {charter.least_support} members can add to it",
    )
    yield Term(
        label="Masked contributions are kept", value=_RETENTION[policy.masked_input_retention]
    )
    for local in charter.localisation:
        where = f"{local.artefact.value} stays in {listed(local.regions)}: {local.basis}"
        yield Term(label="Localisation", value=where)
    for document in charter.documents:
        yield Term(label="Document", value=f"{document.title}, SHA-256 {document.sha256}")
    for contact in charter.escalation:
        yield Term(label="Contact", value=f"{contact.name}, for {contact.duty}: {contact.address}")


def decimal_of(count: int, places: int) -> str:
    """Return `count` over ten to the `places` as a decimal: 1500 over 3 places is "1.5"."""
    whole, part = divmod(count, 10**places)
    text = f"{whole}.{part:0{places}d}".rstrip("0")
    return text.rstrip(".")


def listed(words: Iterable[str]) -> str:
    """Return `words` with commas."""
    return ", ".join(words)


def counted(count: int, one: str, many: str = "") -> str:
    """Return `count` with its noun: "1 round", "2 rounds"."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def _privacy(charter: Charter) -> str:
    privacy = charter.privacy
    if privacy.mode is PrivacyMode.EXACT:
        return "sums are exact where a row of the charter accepts it by name; no noise"
    return (
        f"differential, epsilon at most {decimal_of(privacy.epsilon_budget_milli, 3)}, delta "
        f"{privacy.delta}, per {privacy.unit} over all studies"
    )


def _levels(category: Category) -> str:
    kept = [level for level in category.levels if not level.merged_into]
    shown = [f"{level.code} {level.meaning}".strip() for level in kept[:_SHOWN_LEVELS]]
    more = len(kept) - len(shown)
    return f"{len(kept)} levels: {'; '.join(shown)}" + (f"; and {more} more" if more else "")
