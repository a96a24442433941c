"""Validity: does one version of a charter make sense by itself?

`check` raises on the first problem, `problems` lists them all; both are total over charters that
were read. Each problem is one sentence: what was found, what was expected, what to do.
Numbered as in docs/spec/governance.md, section 2:
  1 version and names     2 parties and roles     3 keys     4 derived parameters
  5 decisions             6 exposure              7 privacy  8 data use
  9 localisation         10 documents and contacts

Expiry and signatures are not checked here: both depend on when and after what
(`treaty.governance.amendment`).
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from treaty.errors import PolicyError
from treaty.governance.charter import Charter
from treaty.governance.data_use import DUO_CODES
from treaty.governance.exposure import FORMS, SUMS, TRAINING_SUMS, Artefact, ExposureRule, Form
from treaty.governance.roles import ELIGIBLE_ROLES, OWN_ACTIONS, Action, Role
from treaty.governance.terms import PrivacyMode
from treaty.privacy.ledger_entries import MAX_DELTA_INVERSE

__all__ = ["KEY_MISSING", "Problem", "check", "problems"]

KEY_MISSING = "key-missing"
"""The code of a place for keys that is empty, as in terms it must be."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why a charter does not hold. `code` is stable, `sentence` is for people."""

    code: str
    sentence: str


def check(charter: Charter) -> None:
    """Raise `PolicyError` with the code and sentence of the first problem, if there is one."""
    for problem in _all(charter):
        raise PolicyError(problem.sentence, code=problem.code)


def problems(charter: Charter) -> tuple[Problem, ...]:
    """Return every problem, in the order of the checks; empty when the charter holds."""
    return tuple(_all(charter))


def _all(charter: Charter) -> Iterator[Problem]:
    checks: tuple[Callable[[Charter], Iterator[Problem]], ...] = (
        _version,
        _parties,
        _keys,
        _parameters,
        _decisions,
        _exposure,
        _privacy,
        _data_use,
        _localisation,
        _papers,
    )
    for one in checks:
        yield from one(charter)


def _version(charter: Charter) -> Iterator[Problem]:
    if charter.version == 1 and charter.previous is not None:
        yield Problem(
            "version", "version 1 names a previous charter: expected none, remove `previous`"
        )
    if charter.version > 1 and charter.previous is None:
        yield Problem(
            "version",
            f"version {charter.version} names no previous charter: "
            "expected the digest of the version before it, add `previous`",
        )
    if charter.version == 1 and charter.readmits:
        yield Problem(
            "version", "version 1 readmits members: expected none before there was a suspension"
        )
    for name in charter.readmits:
        member = charter.members.get(name)
        if member is None or member.suspended:
            yield Problem(
                "version",
                f"{name} is readmitted but not listed as an unsuspended member: "
                "expected it among the members, or remove it from `readmits`",
            )
    if charter.expires == 0:
        yield Problem("expiry", "expires at the epoch: expected a time to come, set `expires`")


def _parties(charter: Charter) -> Iterator[Problem]:
    for name in sorted({charter.coordinator.name, "coordinator"} & set(charter.members)):
        yield Problem(
            "roles",
            f"a member is called {name}, the name of the coordinator: expected another, rename it",
        )
    for name, member in sorted(charter.members.items()):
        roles = set(member.roles)
        if len(roles) != len(member.roles) or not roles:
            yield Problem("roles", f"{name} lists no role or one twice: expected each role once")
        if Role.COORDINATOR in roles:
            yield Problem(
                "roles",
                f"{name} is listed as coordinator among the members: "
                "expected it in the coordinator's own section, move it there",
            )
        if (Role.MEMBER in roles) != (Role.WITNESS in roles):
            yield Problem(
                "roles",
                f"{name} is member or witness but not both: "
                "every member is a witness and no one else, correct its roles",
            )
        if Role.STEWARD in roles and Role.MEMBER not in roles:
            yield Problem(
                "roles",
                f"{name} is a steward without being a member: "
                "expected stewards to be members, add the role member or remove steward",
            )


def _keys(charter: Charter) -> Iterator[Problem]:
    try:
        listed = charter.listed_keys()
    except PolicyError as error:
        yield Problem(error.code, str(error))
        return
    # Prevents one key from counting for two members, or one leak from opening two doors.
    for value, times in sorted(Counter(key.public.hex for key in listed).items()):
        if times > 1:
            where = ", ".join(
                f"{key.kind.value} of {key.owner}" for key in listed if key.public.hex == value
            )
            yield Problem(
                "key-counted-twice",
                f"the key {value[:16]} is listed {times} times ({where}): "
                "expected each key once in the whole charter, make a new key for each purpose",
            )
    for name, member in sorted(charter.members.items()):
        keys = member.keys
        needs_all = Role.MEMBER in member.roles
        missing = [
            kind
            for kind, values, needed in (
                ("approval", keys.approval, True),
                ("runner", keys.runner, needs_all),
                ("witness", keys.witness, needs_all),
            )
            if needed and not values
        ]
        if missing:
            yield Problem(
                KEY_MISSING,
                f"{name} has no {' and no '.join(missing)} key: "
                "expected one, run `treaty key new` there and enter the public key",
            )
        # Two cosigners of one member would count as two witnesses elsewhere.
        if len(keys.witness) > 1 or (keys.witness and not needs_all):
            yield Problem(
                KEY_MISSING,
                f"{name} lists {len(keys.witness)} witness keys: "
                "expected exactly one for a member and none for others",
            )


def _parameters(charter: Charter) -> Iterator[Problem]:
    try:
        parameters = charter.parameters()
    except PolicyError as error:
        yield Problem(error.code, f"{error}; change the members or `secure_aggregation`")
        return
    least = charter.secure_aggregation.max_colluders + 2
    # Colluders subtract their own part: two honest members must remain behind any coordinate.
    if not least <= charter.least_support <= parameters.members:
        yield Problem(
            "parameters",
            f"least_support is {charter.least_support}: expected {least} "
            f"(max_colluders + 2) to {parameters.members} members, correct it",
        )
    rings = charter.secure_aggregation.ring_bits
    if len(set(rings)) != len(rings):
        yield Problem("parameters", "ring_bits lists a width twice: expected each once")


def _decisions(charter: Charter) -> Iterator[Problem]:
    amend = charter.decisions.get(Action.CHARTER_AMEND)
    members = len(charter.active_members())
    if amend is None:
        yield Problem(
            "threshold",
            "no decision says who may amend the charter: expected charter.amend "
            "with more than half of the members, add it",
        )
    elif 2 * amend.threshold <= members:
        yield Problem(
            "threshold",
            f"charter.amend needs {amend.threshold} of {members} members: "
            f"expected more than half, at least {members // 2 + 1}, raise it",
        )
    elif amend.threshold <= charter.secure_aggregation.max_colluders:
        # Prevents those who may collude from listing keys of their own for everybody else.
        least = charter.secure_aggregation.max_colluders + 1
        yield Problem(
            "threshold",
            f"charter.amend needs {amend.threshold} members and max_colluders is {least - 1}: "
            f"expected more than may collude, at least {least}, raise it",
        )
    grant = charter.decisions.get(Action.EXPOSURE_GRANT)
    # Prevents a few members from widening the matrix without the majority that wrote it.
    if grant is not None and amend is not None and grant.threshold < amend.threshold:
        yield Problem(
            "threshold",
            f"exposure.grant needs {grant.threshold} members and charter.amend {amend.threshold}: "
            "expected at least as many, raise it",
        )
    for action, rule in sorted(charter.decisions.items(), key=lambda item: item[0].value):
        if rule.role not in ELIGIBLE_ROLES[action]:
            may = " or ".join(sorted(role.value for role in ELIGIBLE_ROLES[action]))
            yield Problem(
                "decision-role",
                f"{action.value} is given to the role {rule.role.value}: "
                f"expected {may}, correct it",
            )
            continue
        available = 1 if rule.role is Role.COORDINATOR else len(charter.holders(rule.role))
        if rule.threshold > available:
            yield Problem(
                "threshold",
                f"{action.value} needs {rule.threshold} holders of the role {rule.role.value}: "
                f"expected at most the {available} that are not suspended, "
                "lower it or add holders",
            )
        if action in OWN_ACTIONS and rule.threshold != 1:
            yield Problem(
                "threshold",
                f"{action.value} has threshold {rule.threshold}: "
                "expected 1, each party does it for itself",
            )


def _exposure(charter: Charter) -> Iterator[Problem]:
    try:
        charter.exposure_matrix()
    except PolicyError as error:
        yield Problem(error.code, str(error))
        return
    try:
        parameters = charter.parameters()
    except PolicyError:
        return  # Reported above; without N and c the rows cannot be compared with anything.
    for rule in charter.exposure:
        if not rule.allow:
            continue
        least = parameters.min_survivors if rule.artefact in SUMS else 1
        if not least <= rule.least_members <= parameters.members:
            yield Problem(
                "exposure",
                f"the exposure row for {_row(rule)} has least_members = {rule.least_members}: "
                f"expected {least} to {parameters.members}, because no smaller sum is ever "
                "opened and no larger one exists, correct it",
            )
        if not rule.remediation:
            yield Problem(
                "exposure",
                f"the exposure row for {_row(rule)} has no remediation: "
                "expected what is done when it proves too wide, add a sentence",
            )


def _row(rule: ExposureRule) -> str:
    return f"{rule.artefact.value} as {rule.form.value}"


def _privacy(charter: Charter) -> Iterator[Problem]:
    privacy = charter.privacy
    has_delta = privacy.delta.strip("0.") != "" and privacy.delta != "0"
    if privacy.mode is PrivacyMode.EXACT:
        if privacy.epsilon_budget_milli or has_delta:
            yield Problem(
                "privacy",
                "privacy mode exact states an epsilon or a delta: expected 0 for both, "
                "because exact sums are not differentially private, set them to 0 "
                "or choose differential",
            )
        return
    if not privacy.epsilon_budget_milli or not has_delta:
        yield Problem(
            "privacy",
            "privacy mode differential has no epsilon or no delta: expected both above 0, set "
            "epsilon_budget_milli and delta",
        )
    elif Fraction(privacy.delta) * MAX_DELTA_INVERSE < 1:
        yield Problem(
            "privacy",
            f"privacy mode differential has the delta {privacy.delta}: expected at least 1e-12, "
            "the least that ledgers and accountants count with",
        )
    for rule in charter.exposure:
        # An exact sum over training rows would void every epsilon that is printed.
        if rule.allow and rule.form is Form.EXACT and rule.artefact in TRAINING_SUMS:
            noised = Form.NOISED in FORMS[rule.artefact]
            yield Problem(
                "privacy",
                f"privacy mode differential with an exposure row that allows {_row(rule)}: "
                + (
                    "expected noised, change the form or the mode"
                    if noised
                    else "expected none, remove the row or change the mode"
                ),
            )


def _data_use(charter: Charter) -> Iterator[Problem]:
    terms = charter.data_use.terms
    codes = [term.code for term in terms]
    for code in sorted({code for code in codes if codes.count(code) > 1}):
        yield Problem("data-use", f"{code} is listed twice: expected each data-use term once")
    for term in terms:
        known = DUO_CODES.get(term.code)
        if known is None:
            yield Problem(
                "data-use",
                f"{term.code} is not a data-use code that we know: expected one such as "
                "DUO:0000006, see the table of codes in the governance specification",
            )
        elif known.detail and not term.detail:
            yield Problem(
                "data-use",
                f"{term.code} ({known.shorthand}) has no detail: expected {known.detail}, add it",
            )
    if not any(code in DUO_CODES and DUO_CODES[code].is_permission for code in codes):
        yield Problem(
            "data-use",
            "no data-use term permits anything: expected a permission such as DUO:0000006, add one",
        )


def _localisation(charter: Charter) -> Iterator[Problem]:
    matrix = charter.exposure
    for rule in charter.localisation:
        if rule.artefact is Artefact.RAW_DATA:
            readers = {Role.MEMBER}
        else:
            readers = {
                role
                for row in matrix
                if row.allow and row.artefact is rule.artefact
                for role in row.recipients
            }
        parties = [
            (name, member.region)
            for name, member in sorted(charter.members.items())
            if not member.suspended and readers & set(member.roles)
        ]
        if Role.COORDINATOR in readers:
            parties.append((charter.coordinator.name, charter.coordinator.region))
        for name, region in parties:
            if region not in rule.regions:
                yield Problem(
                    "localisation",
                    f"{name} in {region or 'no stated region'} would hold "
                    f"{rule.artefact.value}: expected a region of "
                    f"{', '.join(rule.regions)} ({rule.basis}), "
                    "state its region, change the row or the rule",
                )


def _papers(charter: Charter) -> Iterator[Problem]:
    names = [document.name for document in charter.documents]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield Problem("documents", f"two documents are called {name}: expected distinct names")
    if not charter.escalation:
        yield Problem(
            "contacts",
            "no contact for escalation: expected at least one person to call, add [[escalation]]",
        )
