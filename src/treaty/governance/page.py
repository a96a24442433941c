"""Page: a charter in plain language, and what changes between two versions.

`charter_page` is a pure function of the charter; everything that binds the members is on the page,
and nothing else. `charter_diff` names every difference: sentences for what matters to people,
and a list of all changed fields so that nothing changes unnoticed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from treaty.errors import PolicyError
from treaty.governance.amendment import new_keys
from treaty.governance.charter import Charter, charter_digest, time_to_text
from treaty.governance.data_use import DUO_CODES
from treaty.governance.exposure import Artefact, ExposureRule, Form, HowOften, describe_artefact
from treaty.governance.roles import (
    ELIGIBLE_ROLES,
    OWN_ACTIONS,
    Action,
    KeyKind,
    Role,
    describe_action,
    describe_role,
)
from treaty.governance.terms import DecisionRule, PrivacyMode, RetentionRule
from treaty.governance.validity import KEY_MISSING, problems
from treaty.ids import Timestamp

__all__ = ["CharterDifference", "charter_diff", "charter_page"]

_FORM_WORDS = {
    Form.EXACT: "exactly as computed",
    Form.NOISED: "with added noise",
    Form.MASKED: "masked, so that it is unreadable until enough are added up",
    Form.DIGEST: "as a digest or salted commitment",
    Form.CODE: "as one of a fixed list of codes",
    Form.TEXT: "as text written by people",
    Form.PLAIN: "openly, as it does not depend on the data",
}
_OFTEN_WORDS = {
    HowOften.ONCE: "once",
    HowOften.PER_STUDY: "once per study",
    HowOften.PER_EPOCH: "once per epoch",
    HowOften.PER_ROUND: "once per round",
    HowOften.ALWAYS: "whenever it arises",
}
_RETENTION_WORDS = {
    RetentionRule.UNTIL_VERIFIED: "until the sum is verified",
    RetentionRule.UNTIL_AUDITED: "until they have been audited",
    RetentionRule.WHOLE_STUDY: "for the whole study",
}
_NOT_PROTECTED = (
    "What a published sum itself shows about the members behind it, beyond the noise stated above.",
    "A member that computes on false data within the limits of its clipping bound.",
    "More colluding members than stated under “How sums are protected”.",
    "Who communicates with whom, when and how much.",
    "Service by the coordinator: it can delay or refuse work, though not falsify it unseen.",
    "Copies of a released model, once a recipient has it.",
)


def charter_page(charter: Charter, *, as_terms: bool = False) -> str:
    """Return the charter as a page that can be read without technical knowledge.

    Plain text with headings; the same charter gives the same page everywhere. A charter that
    does not hold is shown too, its problems first. With `as_terms` it is one whose places for keys
    are filled in as members join: that they are empty is said, and is no problem.
    """
    lines: list[str] = [*_head(charter, as_terms), ""]
    for section in (
        _parties,
        _leaving,
        _deciding,
        _sums,
        _privacy,
        _terms,
        _papers,
        _limits,
        _keys,
    ):
        lines += [*section(charter), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _head(charter: Charter, as_terms: bool) -> Iterator[str]:
    yield charter.title
    yield "=" * max(len(charter.title), 3)
    yield ""
    for problem in problems(charter):
        if as_terms and problem.code == KEY_MISSING:
            continue
        yield f"THIS CHARTER DOES NOT HOLD: {problem.sentence}."
    if as_terms:
        yield "Terms, not in force yet: members' keys are filled in as they join."
    if charter.simulation:
        yield "FOR SIMULATION ONLY: no institution may run this charter on its data."
    yield f"Consortium: {charter.consortium}"
    yield f"Version: {charter.version}"
    yield f"Replaces: {charter.previous or 'nothing; this is the founding version'}"
    yield f"Digest: {charter_digest(charter)}"
    yield f"In force until: {time_to_text(Timestamp(charter.expires))}"
    yield f"Purpose: {charter.purpose}"
    yield ""
    yield "Whatever this page does not allow is forbidden. Each institution's own software"
    yield "enforces it, and each institution may allow less for itself."
    for name in charter.readmits:
        yield f"This version takes back the suspension of {name}."


def _parties(charter: Charter) -> Iterator[str]:
    yield "Who takes part"
    yield "--------------"
    for name, member in sorted(charter.members.items()):
        roles = ", ".join(role.value for role in member.roles)
        region = f", {member.region}" if member.region else ""
        suspended = " SUSPENDED: it neither votes nor takes part." if member.suspended else ""
        yield f"- {member.title} ({name}{region}): {roles}.{suspended}"
        for contact in member.contacts:
            yield f"    contact for {contact.duty}: {contact.name}, {contact.address}"
    coordinator = charter.coordinator
    region = f", {coordinator.region}" if coordinator.region else ""
    yield f"- {coordinator.title} ({coordinator.name}{region}): coordinator. It passes messages on"
    yield "    and keeps the order of the log. It sees no single institution's figures and"
    yield "    cannot approve the release of a model."


def _leaving(charter: Charter) -> Iterator[str]:
    yield "What may leave an institution"
    yield "-----------------------------"
    yield "The data themselves never leave. Only the following may, and only so:"
    # Rows that differ in nothing but the artefact are read together.
    groups: dict[ExposureRule, list[ExposureRule]] = {}
    for rule in charter.exposure:
        same = msgspec.structs.replace(rule, artefact=Artefact.RAW_DATA)
        groups.setdefault(same, []).append(rule)
    for rules in groups.values():
        if rules[0].allow:
            yield from _allowed(rules)
    refused = [rule for rule in charter.exposure if not rule.allow]
    if refused:
        yield "Forbidden by name, so that nothing short of an amendment allows it:"
        for rule in refused:
            yield f"- {_named(rule)}, {_FORM_WORDS[rule.form]}, to {_recipients(rule)}."


def _allowed(rules: Sequence[ExposureRule]) -> Iterator[str]:
    rule = rules[0]
    if len(rules) > 1:
        yield f"- {_FORM_WORDS[rule.form]}:".replace("- ", "- Shown ", 1)
        for one in rules:
            yield f"    * {_named(one)}"
    else:
        yield f"- {_named(rule)}, {_FORM_WORDS[rule.form]}:"
    over = f" over at least {rule.least_members} institutions," if rule.least_members > 1 else ""
    yield f"   {over} {_OFTEN_WORDS[rule.how_often]}, to {_recipients(rule)}."
    yield f"    Accepted risk: {rule.risk_tolerance.value}. If too wide: {rule.remediation}."


def _named(rule: ExposureRule) -> str:
    return f"{describe_artefact(rule.artefact)} ({rule.artefact.value})"


def _recipients(rule: ExposureRule) -> str:
    return ", ".join(describe_role(role) for role in rule.recipients)


def _deciding(charter: Charter) -> Iterator[str]:
    yield "Who decides"
    yield "-----------"
    for action in Action:
        rule = charter.decisions.get(action)
        if rule is not None:
            yield f"- To {describe_action(action)} ({action.value}): {_who(charter, action, rule)}."
    absent = [action for action in Action if action not in charter.decisions]
    if absent:
        yield f"Nobody may: {'; '.join(describe_action(action) for action in absent)}."
    yield "Institutions are counted, not signatures: several keys of one count once."
    yield "When the charter has expired, nothing is allowed but its amendment."
    yield "A suspension takes effect at once and is taken back by an amendment only."


def _who(charter: Charter, action: Action, rule: DecisionRule) -> str:
    if rule.role is Role.COORDINATOR:
        return "the coordinator"
    if action in OWN_ACTIONS:
        return "each member for itself"
    holders = len(charter.holders(rule.role))
    if rule.threshold == 1:
        return f"any one of the {holders} {describe_role(rule.role)}"
    return f"at least {rule.threshold} of the {holders} {describe_role(rule.role)}"


def _sums(charter: Charter) -> Iterator[str]:
    yield "How sums are protected"
    yield "----------------------"
    policy = charter.secure_aggregation
    try:
        parameters = charter.parameters()
    except PolicyError as error:
        yield f"Not at all: {error}."
        return
    yield f"- Institutions that may collude with the coordinator: {policy.max_colluders} of"
    yield f"    {parameters.members}. They still learn no other's figures from the protocol."
    yield f"- No sum over fewer than {parameters.min_survivors} institutions is ever opened;"
    yield f"    at least {parameters.min_honest} of them are honest under that assumption."
    yield f"- A figure enters a sum only if at least {charter.least_support} institutions"
    yield "    can add to it."
    yield f"- Institutions that may drop out of a round: {parameters.tolerated_losses}."
    yield f"- Masked inputs are kept {_RETENTION_WORDS[policy.masked_input_retention]}."
    hybrid = policy.suite == "cesa1-x25519-mlkem768"
    yield f"- Key agreement: {policy.suite}, " + (
        "meant to withstand quantum computers as well."
        if hybrid
        else "which a future quantum computer could break in recorded traffic."
    )
    yield f"- The log ({charter.log.origin}) is fixed by {parameters.witness_quorum} of"
    yield f"    {parameters.members} witnesses; each institution holds a copy. A checkpoint"
    yield f"    is relied upon for at most {charter.log.max_age_s} seconds."
    yield f"- At most {policy.slots_per_epoch_max} sums are computed before keys are renewed, in"
    yield f"    integers of {' or '.join(str(bits) for bits in policy.ring_bits)} bits."


def _privacy(charter: Charter) -> Iterator[str]:
    yield "Privacy of persons"
    yield "------------------"
    privacy = charter.privacy
    if privacy.mode is PrivacyMode.EXACT:
        yield "Sums are exact where listed above: no noise hides a person's part in them."
        yield "The protection is that only sums over several institutions are seen."
    else:
        epsilon = (
            f"{privacy.epsilon_budget_milli // 1000}.{privacy.epsilon_budget_milli % 1000:03d}"
        )
        yield f"Differential privacy for every {privacy.unit}: epsilon at most {epsilon}, delta"
        yield f"{privacy.delta}, over all studies together, neighbouring data sets by"
        yield f"{privacy.adjacency}. It covers training; holdout evaluation is exact where listed."
    yield f"One person's data may be held by at most {privacy.max_sites_per_person} institutions."


def _terms(charter: Charter) -> Iterator[str]:
    yield "For what the data may be used"
    yield "-----------------------------"
    for term in charter.data_use.terms:
        code = DUO_CODES.get(term.code)
        meaning = code.meaning if code else "UNKNOWN CODE"
        detail = f" ({term.detail})" if term.detail else ""
        yield f"- {meaning}{detail} [{term.code}]"
    if charter.data_use.health_data:
        yield "The data concern the health of persons."
    for rule in charter.localisation:
        yield f"- {rule.artefact.value} stays in {', '.join(rule.regions)}: {rule.basis}."


def _papers(charter: Charter) -> Iterator[str]:
    yield "Documents and contacts"
    yield "----------------------"
    for document in charter.documents:
        yield f"- {document.title} ({document.name}), SHA-256 {document.sha256}"
    if not charter.documents:
        yield "- No legal document is bound to this charter."
    yield "To raise a concern, in this order:"
    for number, contact in enumerate(charter.escalation, 1):
        yield f"{number}. {contact.name}, for {contact.duty}: {contact.address}"


def _limits(charter: Charter) -> Iterator[str]:
    yield "What is not protected"
    yield "---------------------"
    for sentence in _NOT_PROTECTED:
        yield f"- {sentence}"
    if charter.privacy.mode is PrivacyMode.EXACT:
        yield "- Whether one person's data were used: exact sums can tell."


def _keys(charter: Charter) -> Iterator[str]:
    yield "Keys"
    yield "----"
    yield "Compare with what each institution gave you on paper."
    try:
        for key in charter.listed_keys():
            yield f"- {key.owner}, {key.kind.value}: {key.public.hex}"
    except PolicyError as error:
        yield f"- not usable: {error}"
    if charter.coordinator.certificate is not None:
        yield f"- {charter.coordinator.name}, certificate: {charter.coordinator.certificate}"


@dataclass(frozen=True, slots=True)
class CharterDifference:
    """What an amendment changes, and who must sign it.

    `sentences` say it in words; `fields` names every changed field by its path; `signers` says
    which approvals and which proofs of possession it needs.
    """

    sentences: tuple[str, ...]
    fields: tuple[str, ...]
    signers: tuple[str, ...]


def charter_diff(old: Charter, new: Charter) -> CharterDifference:
    """Return what changes from `old` to `new`. `fields` is empty if and only if they are equal."""
    return CharterDifference(
        tuple(_sentences(old, new)),
        tuple(_paths(msgspec.to_builtins(old), msgspec.to_builtins(new), "")),
        tuple(_signers(old, new)),
    )


def _sentences(old: Charter, new: Charter) -> Iterator[str]:
    for name in sorted(set(new.members) - set(old.members)):
        yield f"{new.members[name].title} ({name}) joins"
    for name in sorted(set(old.members) - set(new.members)):
        yield f"{old.members[name].title} ({name}) leaves"
    for name in sorted(set(old.members) & set(new.members)):
        was, now = old.members[name], new.members[name]
        if was.suspended != now.suspended:
            yield f"{name} is {'suspended' if now.suspended else 'readmitted'}"
        if was.roles != now.roles:
            yield f"{name} holds {', '.join(r.value for r in now.roles)} instead of " + ", ".join(
                r.value for r in was.roles
            )
    known = {(key.owner, key.kind, key.public.hex) for key in new.listed_keys()}
    for key in new_keys(old, new):
        yield f"{key.owner} has a new {key.kind.value} key, {key.public.hex[:16]}"
    for key in old.listed_keys():
        if (key.owner, key.kind, key.public.hex) not in known:
            yield f"{key.owner} gives up its {key.kind.value} key {key.public.hex[:16]}"
    for action in Action:
        before, after = old.decisions.get(action), new.decisions.get(action)
        if before != after:
            yield (
                f"to {describe_action(action)}: "
                f"{_who(new, action, after) if after else 'nobody any more'}, "
                f"formerly {_who(old, action, before) if before else 'nobody'}"
            )
    yield from _row_sentences(old, new)
    if old.expires != new.expires:
        yield (
            f"in force until {time_to_text(Timestamp(new.expires))} "
            f"instead of {time_to_text(Timestamp(old.expires))}"
        )
    if old.privacy != new.privacy:
        yield (
            f"privacy: {new.privacy.mode.value}, epsilon {new.privacy.epsilon_budget_milli} "
            f"thousandths, delta {new.privacy.delta}; formerly {old.privacy.mode.value}, "
            f"{old.privacy.epsilon_budget_milli} thousandths, {old.privacy.delta}"
        )
    if old.secure_aggregation != new.secure_aggregation:
        yield "the constants of secure aggregation change; read that section of the page again"
    if old.data_use != new.data_use or old.localisation != new.localisation:
        yield "the terms of data use or localisation change; read that section of the page again"
    if old.documents != new.documents:
        yield "the legal documents change; read them again"


def _row_sentences(old: Charter, new: Charter) -> Iterator[str]:
    before, after = _rows(old), _rows(new)
    for key in sorted(set(before) | set(after)):
        was, now = before.get(key), after.get(key)
        what = f"{key[0]} as {key[1]} to {key[2]}"
        allowed_before, allowed_now = bool(was and was.allow), bool(now and now.allow)
        if allowed_now and not allowed_before:
            yield f"MORE MAY LEAVE: {what}"
        elif allowed_before and not allowed_now:
            yield f"no longer leaves: {what}"
        elif (
            was
            and now
            and msgspec.structs.replace(was, recipients=())
            != msgspec.structs.replace(now, recipients=())
        ):
            yield f"the conditions change for {what}"


def _rows(charter: Charter) -> dict[tuple[str, str, str], ExposureRule]:
    return {
        (rule.artefact.value, rule.form.value, role.value): rule
        for rule in charter.exposure
        for role in rule.recipients
    }


def _signers(old: Charter, new: Charter) -> Iterator[str]:
    for which, charter in (("the version in force", old), ("the new version", new)):
        rule = charter.decisions.get(Action.CHARTER_AMEND)
        if rule is None or rule.role not in ELIGIBLE_ROLES[Action.CHARTER_AMEND]:
            yield f"nobody can sign under {which}"
            continue
        names = ", ".join(charter.holders(rule.role))
        yield (
            f"at least {rule.threshold} members of {which}, "
            f"each with its {KeyKind.APPROVAL.value} key: {names}"
        )
    for key in new_keys(old, new):
        yield f"{key.owner} with its new {key.kind.value} key {key.public.hex[:16]}"


def _paths(old: object, new: object, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(set(old) | set(new)):
            if name not in old or name not in new:
                yield f"{path}{name}"
            else:
                yield from _paths(old[name], new[name], f"{path}{name}.")
    elif isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        for place, (was, now) in enumerate(zip(old, new, strict=True)):
            yield from _paths(was, now, f"{path}{place}.")
    elif old != new:
        yield path.rstrip(".")
