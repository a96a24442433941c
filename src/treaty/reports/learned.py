"""Who learned what: the charter's exposure rows, and how often each thing happened in the log.

Counted is what a reader of the whole log sees. A statement counts once for each class that one of
its fields has; an opened sum counts for its kind, and a model for each time that the sums gave a
new one. Charters, contracts and plans travel beside the statements and are counted by those.

Rows follow the charter. What happened without a row of this charter (under another version, or
said by the coordinator) has a line of its own: nothing that was counted is left out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from treaty.governance.exposure import (
    SUMS,
    Artefact,
    ExposureMatrix,
    ExposureRule,
    Form,
    HowOften,
    describe_artefact,
)
from treaty.governance.roles import Action, Role, describe_role
from treaty.privacy.terms import NoisedTerms
from treaty.protocol.gate import LOG_READERS
from treaty.protocol.messages import ProposalOpened
from treaty.protocol.statements import Body, holds_something, registered
from treaty.protocol.study import Study
from treaty.reports.document import ExposureLine
from treaty.reports.opened_sums import opened_sums
from treaty.reports.statements import Logged

__all__ = ["DATA_DEPENDENT", "exposure_lines", "times_in_log"]

Shown = tuple[Artefact, Form]

DATA_DEPENDENT = SUMS | {
    Artefact.MASKED_INPUT,
    Artefact.MODEL,
    Artefact.SITE_METRIC,
    Artefact.SKETCH_CLAIM,
    Artefact.EVALUATION_VERDICT,
    Artefact.MONITORING_SIGNAL,
    Artefact.SIMULATION_COMPARISON,
}
"""Classes that come from records of persons, however indirectly."""

_MEANING: Mapping[Artefact, str] = MappingProxyType(
    {
        Artefact.MASKED_INPUT: "Random numbers to every reader until enough are added up.",
        Artefact.STATISTICS_SUM: "Give the means and spreads over all sites, for scaling.",
        Artefact.SUPPORT_SUM: "Tell whether a column would show too few sites.",
        Artefact.GRADIENT_HESSIAN_SUM: "Gradient and Hessian over all sites, for the next model.",
        Artefact.MODEL_UPDATE_SUM: "Clipped changes over all sites, which give the next model.",
        Artefact.EVALUATION_HISTOGRAM: "How predicted risks spread over all test patients.",
        Artefact.MODEL: "Computed by everyone from the sums, after every training round.",
        Artefact.SITE_METRIC: "Accuracy, AUC and Brier score on one site's own test patients.",
        Artefact.SKETCH_CLAIM: "64 random sums of one site's update: an experimental norm check.",
        Artefact.EVALUATION_VERDICT: "Whether training together beat training alone.",
        Artefact.MONITORING_SIGNAL: "Would show that a released model has aged.",
        Artefact.SIMULATION_COMPARISON: "Impossible in a real study, where rows stay at home.",
        Artefact.REFUSAL_CODE: "A closed code, also where an epoch ends as planned; no cause.",
        Artefact.PROTOCOL_KEY: "Public keys of one epoch.",
        Artefact.SECRET_SHARE: "Open a sum and nothing else: one answer per member and round.",
        Artefact.SURPLUS_NOISE_KEY: "Take off noise that was drawn for losses that did not happen.",
        Artefact.SIGNATURE: "On every entry and on the checkpoint.",
        Artefact.COMMITMENT: "Bind the masks before they are used.",
        Artefact.LOG_POSITION: "The place of every entry in the one log.",
        Artefact.IDENTIFIER: "Say what a statement is about.",
        Artefact.SCHEDULE: "Fix the order and the log's clock.",
        Artefact.ADAPTER_DIGEST: "Bind the local adapter without showing it.",
        Artefact.PRIVACY_CERTIFICATE: "State the privacy loss of a study.",
        Artefact.ATTESTATION: "State which hardware and code ran.",
        Artefact.VOTE: "Who approved what.",
        Artefact.GOVERNANCE_DOCUMENT: "What the members agreed on.",
        Artefact.CONTRACT: "What the columns mean, as put to the vote.",
        Artefact.PLAN: "What a study computes, as put to the vote.",
        Artefact.MODEL_CARD: "What a model is for, and its limits.",
        Artefact.DATASET_CARD: "What a data set is, in words.",
        Artefact.RELEASE_STAGE: "Where a release stands.",
        Artefact.INCIDENT_REPORT: "What went wrong, in words.",
        Artefact.REMARK: "Free text by people.",
    }
)
_OFTEN: Mapping[HowOften, str] = MappingProxyType(
    {
        HowOften.ONCE: "once",
        HowOften.PER_STUDY: "once per study",
        HowOften.PER_EPOCH: "once per epoch",
        HowOften.PER_ROUND: "once per round",
        HowOften.ALWAYS: "whenever it arises",
    }
)
_ORDER = {artefact: place for place, artefact in enumerate(Artefact)}


def times_in_log(
    log: Iterable[Logged], studies: Iterable[Study], cosignatures: int
) -> Mapping[Shown, int]:
    """Return how often each class was shown in each form, over the whole log."""
    times: Counter[Shown] = Counter()
    documents: set[tuple[Artefact, str]] = set()
    for one in log:
        times.update(_classes(one.body))
        times[Artefact.SIGNATURE, Form.PLAIN] += len(one.keyids)
        times[Artefact.LOG_POSITION, Form.PLAIN] += 1
        if isinstance(one.body, ProposalOpened):
            for action, artefact in (
                (Action.CONTRACT_ADOPT, Artefact.CONTRACT),
                (Action.STUDY_APPROVE, Artefact.PLAN),
            ):
                if one.body.action == action.value:
                    documents.add((artefact, one.body.subject))
    for artefact, _ in documents:
        times[artefact, Form.TEXT] += 1
    times[Artefact.SIGNATURE, Form.PLAIN] += cosignatures
    for study in studies:
        for opened in opened_sums(study):
            times[opened.kind.artefact, opened.kind.form] += 1
        noised = isinstance(study.plan.privacy, NoisedTerms)
        form = Form.NOISED if noised else Form.EXACT
        times[Artefact.MODEL, form] += len(study.progress.trace)
        if study.progress.evaluation is not None:
            times[Artefact.EVALUATION_VERDICT, Form.EXACT] += 1
    return {shown: count for shown, count in times.items() if count}


def exposure_lines(matrix: ExposureMatrix, times: Mapping[Shown, int]) -> tuple[ExposureLine, ...]:
    """Return the rows of `matrix`, then a line for whatever happened without one."""
    rows = [(rule.artefact, _line(rule, times)) for rule in matrix.rules]
    listed = {(rule.artefact, rule.form) for rule in matrix.rules}
    rows += [
        (
            artefact,
            ExposureLine(
                artefact=_title(artefact),
                form=form.value,
                recipients=_roles(LOG_READERS),
                how_often="not listed",
                times=count,
                sentence=f"This version of the charter has no row for it. {_MEANING[artefact]}",
                data_dependent=artefact in DATA_DEPENDENT,
            ),
        )
        for (artefact, form), count in sorted(times.items(), key=_by_class)
        if (artefact, form) not in listed
    ]
    return tuple(line for _, line in sorted(rows, key=lambda row: _ORDER[row[0]]))


def _classes(body: Body) -> set[Shown]:
    """Return the classes of the fields of `body` that hold something."""
    return {
        shown
        for name, shown in registered(type(body)).classes.items()
        if holds_something(body, name) and getattr(body, name) not in ((), {})
    }


def _line(rule: ExposureRule, times: Mapping[Shown, int]) -> ExposureLine:
    sentence = _MEANING[rule.artefact]
    if rule.least_members > 1:
        sentence += f" Over at least {rule.least_members} members."
    if not rule.allow:
        sentence += " Forbidden by name."
    return ExposureLine(
        artefact=_title(rule.artefact),
        form=rule.form.value,
        recipients=_roles(rule.recipients),
        how_often=_OFTEN[rule.how_often] if rule.allow else "forbidden",
        times=times.get((rule.artefact, rule.form), 0),
        sentence=sentence,
        data_dependent=rule.artefact in DATA_DEPENDENT,
    )


def _title(artefact: Artefact) -> str:
    words = describe_artefact(artefact)
    return words[:1].upper() + words[1:]


def _roles(roles: Iterable[Role]) -> tuple[str, ...]:
    return tuple(describe_role(role) for role in roles)


def _by_class(item: tuple[Shown, int]) -> tuple[int, str]:
    (artefact, form), _ = item
    return _ORDER[artefact], form.value
