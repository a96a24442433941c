"""The gate: nothing leaves a site unless the matrix allows every field of it.

One function stands between a member's node and its engine. It asks the narrowed exposure
matrix about the artefact class and form of each field of a statement, for each role that reads
the log, and about the class of each attached blob (docs/spec/governance.md, section 5).

A refusal is a `PolicyError` (code ``exposure``) that names the field, the class and the row
that is missing. It is for the site's own journal; the shared log sees a closed code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from treaty.errors import PolicyError
from treaty.governance.exposure import Artefact, ExposureMatrix, Form, HowOften, rarest
from treaty.governance.roles import Role
from treaty.protocol.statements import Body, holds_something, registered

__all__ = ["LOG_READERS", "Explanation", "check_statement", "check_sum", "explain_statement"]

LOG_READERS = (Role.COORDINATOR, Role.MEMBER)
"""The roles to which every statement in the log is shown."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The matrix's answer for one field and one recipient."""

    field: str
    artefact: Artefact
    form: Form
    recipient: Role
    allowed: bool
    reason: str


def explain_statement(
    matrix: ExposureMatrix,
    body: Body,
    *,
    members: int,
    recipients: Sequence[Role] = LOG_READERS,
) -> tuple[Explanation, ...]:
    """Return the matrix's answer for every field of `body` that holds something."""
    entry = registered(type(body))
    answers = []
    for name, (artefact, form) in entry.classes.items():
        if not holds_something(body, name):
            continue
        behind = _behind(artefact, members)
        for recipient in recipients:
            decision = matrix.decide(artefact, recipient, form, behind)
            answers.append(
                Explanation(name, artefact, form, recipient, decision.allowed, decision.explain())
            )
    return tuple(answers)


def check_statement(
    matrix: ExposureMatrix,
    body: Body,
    *,
    members: int,
    recipients: Sequence[Role] = LOG_READERS,
) -> None:
    """Raise `PolicyError` (code ``exposure``) unless every field of `body` may be shown."""
    entry = registered(type(body))
    for name, (artefact, form) in entry.classes.items():
        if not holds_something(body, name):
            continue
        behind = _behind(artefact, members)
        for recipient in recipients:
            if not matrix.allows(artefact, recipient, form, behind):
                reason = matrix.decide(artefact, recipient, form, behind).explain()
                raise PolicyError(
                    f"field {name} of {entry.name} may not leave: {reason}", code="exposure"
                )


def check_sum(
    matrix: ExposureMatrix,
    artefact: Artefact,
    *,
    members: int,
    recipients: Sequence[Role] = LOG_READERS,
    form: Form = Form.EXACT,
) -> tuple[HowOften, HowOften]:
    """Raise `PolicyError` unless an opened sum of class `artefact` may go to all recipients.

    Everything in a published sum counts as released to all who receive it. `members` is the
    least number of sites over which the sum can be opened. Returns how often masked inputs, and
    such sums, are allowed (`frequency.require_rare`).
    """
    masked = matrix.require(Artefact.MASKED_INPUT, Role.COORDINATOR, Form.MASKED, members)
    rows = [matrix.require(artefact, recipient, form, members) for recipient in recipients]
    return masked.how_often, rarest(rows)


def _behind(artefact: Artefact, members: int) -> int:
    """A site's own figure stands on its own data; protocol fields on nobody's."""
    return 1 if artefact in (Artefact.SITE_METRIC, Artefact.SKETCH_CLAIM) else members
