"""Roles, actions and kinds of key: the closed vocabulary of a charter's decisions.

Guarantees (docs/spec/governance.md, section 3):
  * An action that is not listed here does not exist; a decision table cannot name it.
  * Each action names the roles that may ever decide it and the one kind of key that signs it,
    so that no charter can hand a release to the coordinator or a vote to an unattended key.

Which member holds which role, and how many must agree, is the charter's business.
"""

from collections.abc import Mapping
from enum import Enum, StrEnum
from types import MappingProxyType

from treaty.ids import SingleEnum

__all__ = [
    "ELIGIBLE_ROLES",
    "OWN_ACTIONS",
    "Action",
    "KeyKind",
    "Role",
    "describe_action",
    "describe_role",
    "signing_key_kind",
]


class Role(SingleEnum):
    """What a party is to the consortium."""

    COORDINATOR = "coordinator"
    MEMBER = "member"
    WITNESS = "witness"
    AUDITOR = "auditor"
    OBSERVER = "observer"
    STEWARD = "steward"


class Action(StrEnum):
    """Everything that a charter can allow. What the charter does not list is refused.

    Text, so that the decision table is a canonical mapping by name.
    """

    CHARTER_AMEND = "charter.amend"
    MEMBER_ACCEPT = "member.accept"
    MEMBER_SUSPEND = "member.suspend"
    KEY_ROTATE = "key.rotate"
    CONTRACT_ADOPT = "contract.adopt"
    STUDY_PROPOSE = "study.propose"
    STUDY_APPROVE = "study.approve"
    STUDY_HALT = "study.halt"
    STUDY_RESUME = "study.resume"
    ROUND_OPEN = "round.open"
    UPDATE_COMMIT = "update.commit"
    ROUND_CLOSE = "round.close"
    EVALUATION_SUBMIT = "evaluation.submit"
    RELEASE_APPROVE = "release.approve"
    RELEASE_ROLLBACK = "release.rollback"
    LEDGER_REBASE = "ledger.rebase"
    SITE_WITHDRAW = "site.withdraw"
    INCIDENT_OPEN = "incident.open"
    INCIDENT_CLOSE = "incident.close"
    EXPOSURE_GRANT = "exposure.grant"


class KeyKind(Enum):
    """What a key that the charter lists may sign.

    A runner key, which works unattended, signs ``update.commit`` and nothing else; a log key
    signs checkpoints; a witness key cosigns them; a transport key opens connections.
    Each of them also signs, once, the charter version that first lists it.
    """

    APPROVAL = "approval"
    RUNNER = "runner"
    WITNESS = "witness"
    TRANSPORT = "transport"
    COORDINATOR = "coordinator"
    LOG = "log"


_MEMBERS = frozenset({Role.MEMBER})
_COORDINATOR = frozenset({Role.COORDINATOR})
_PEOPLE = frozenset({Role.MEMBER, Role.STEWARD})
_ANYONE = frozenset({Role.MEMBER, Role.STEWARD, Role.AUDITOR, Role.OBSERVER})

ELIGIBLE_ROLES: Mapping[Action, frozenset[Role]] = MappingProxyType(
    {
        Action.CHARTER_AMEND: _MEMBERS,
        Action.MEMBER_ACCEPT: _MEMBERS,
        Action.MEMBER_SUSPEND: _PEOPLE,
        Action.KEY_ROTATE: _MEMBERS,
        Action.CONTRACT_ADOPT: _PEOPLE,
        Action.STUDY_PROPOSE: _PEOPLE,
        Action.STUDY_APPROVE: _PEOPLE,
        Action.STUDY_HALT: _PEOPLE,
        Action.STUDY_RESUME: _PEOPLE,
        Action.ROUND_OPEN: _COORDINATOR,
        Action.UPDATE_COMMIT: _MEMBERS,
        Action.ROUND_CLOSE: _COORDINATOR,
        Action.EVALUATION_SUBMIT: _MEMBERS,
        Action.RELEASE_APPROVE: _PEOPLE,
        Action.RELEASE_ROLLBACK: _PEOPLE,
        Action.LEDGER_REBASE: _MEMBERS,
        Action.SITE_WITHDRAW: _MEMBERS,
        Action.INCIDENT_OPEN: _ANYONE,
        Action.INCIDENT_CLOSE: _PEOPLE,
        Action.EXPOSURE_GRANT: _MEMBERS,
    }
)
"""The roles that a charter may name for an action; any other pairing is refused."""

OWN_ACTIONS = frozenset(
    {
        Action.UPDATE_COMMIT,
        Action.EVALUATION_SUBMIT,
        Action.LEDGER_REBASE,
        Action.SITE_WITHDRAW,
        Action.ROUND_OPEN,
        Action.ROUND_CLOSE,
    }
)
"""Actions that one party does for itself: their threshold is 1."""

_ACTION_WORDS: Mapping[Action, str] = MappingProxyType(
    {
        Action.CHARTER_AMEND: "change this charter",
        Action.MEMBER_ACCEPT: "invite a new member, which joins by the amendment that lists it",
        Action.MEMBER_SUSPEND: "suspend a member at once",
        Action.KEY_ROTATE: "call for a change of keys, which takes effect by amendment",
        Action.CONTRACT_ADOPT: "adopt a data contract",
        Action.STUDY_PROPOSE: "propose a study",
        Action.STUDY_APPROVE: "approve a study",
        Action.STUDY_HALT: "halt a study",
        Action.STUDY_RESUME: "resume a halted study",
        Action.ROUND_OPEN: "open a round of computation",
        Action.UPDATE_COMMIT: "send a masked contribution to a round",
        Action.ROUND_CLOSE: "close a round of computation",
        Action.EVALUATION_SUBMIT: "submit an evaluation of its own",
        Action.RELEASE_APPROVE: "approve the release of a model",
        Action.RELEASE_ROLLBACK: "take a released model back",
        Action.LEDGER_REBASE: "restart its own privacy ledger after a loss",
        Action.SITE_WITHDRAW: "withdraw from a study",
        Action.INCIDENT_OPEN: "report an incident",
        Action.INCIDENT_CLOSE: "close an incident",
        Action.EXPOSURE_GRANT: "allow one more thing to leave a site",
    }
)

_ROLE_WORDS: Mapping[Role, str] = MappingProxyType(
    {
        Role.COORDINATOR: "the coordinator",
        Role.MEMBER: "members",
        Role.WITNESS: "witnesses",
        Role.AUDITOR: "auditors",
        Role.OBSERVER: "observers",
        Role.STEWARD: "stewards",
    }
)


def signing_key_kind(action: Action) -> KeyKind:
    """Return the one kind of key whose signature counts for `action`."""
    if ELIGIBLE_ROLES[action] == _COORDINATOR:
        return KeyKind.COORDINATOR
    if action is Action.UPDATE_COMMIT:
        return KeyKind.RUNNER
    return KeyKind.APPROVAL


def describe_action(action: Action) -> str:
    """Return `action` in words that follow "may"."""
    return _ACTION_WORDS[action]


def describe_role(role: Role) -> str:
    """Return the holders of `role` in words."""
    return _ROLE_WORDS[role]
