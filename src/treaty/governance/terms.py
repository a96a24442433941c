"""The parts of a charter: parties, their keys, decisions, policies, documents.

Only shapes and ranges are checked here; what the parts must be to one another is
`treaty.governance.validity`. Text that people read is a `Line`, which cannot hold
characters that hide or reorder what is shown.
"""

from enum import Enum
from typing import Annotated, Literal

import msgspec

from treaty.crypto.canonical import DigestField, MemberName, Name, Record
from treaty.governance.exposure import Artefact, Line
from treaty.governance.roles import Role

__all__ = [
    "Contact",
    "Coordinator",
    "DecisionRule",
    "Document",
    "KeyField",
    "LocalisationRule",
    "LogPolicy",
    "Member",
    "MemberKeys",
    "PrivacyMode",
    "PrivacyPolicy",
    "Region",
    "RetentionRule",
    "SecureAggregationPolicy",
]

KeyField = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""A public key: 32 bytes as 64 lower-case hexadecimal digits."""

Region = Annotated[str, msgspec.Meta(pattern=r"\A[A-Z]{2}(-[A-Z0-9]{1,3})?\Z")]
"""A country or part of one, as ISO 3166 writes it; ``EU`` is allowed."""

_Keys = Annotated[tuple[KeyField, ...], msgspec.Meta(max_length=4)]


class MemberKeys(Record, frozen=True, kw_only=True):
    """A member's public keys, by what they may sign. Several keys still make one member."""

    approval: _Keys = ()
    runner: _Keys = ()
    witness: _Keys = ()
    transport: _Keys = ()


class Contact(Record, frozen=True, kw_only=True):
    """Whom to reach, and how; `duty` says for what."""

    name: Line
    duty: Line
    address: Line


class Member(Record, frozen=True, kw_only=True):
    """One institution. `suspended` members keep their entry but neither count nor act."""

    title: Line
    roles: tuple[Role, ...]
    keys: MemberKeys
    region: Region | None = None
    suspended: bool = False
    contacts: tuple[Contact, ...] = ()


class Coordinator(Record, frozen=True, kw_only=True):
    """Who relays messages and sequences the log. Trusted for being there, for nothing else.

    `runner` opens and closes rounds; `log` signs checkpoints. `certificate` pins the server's
    public key: SHA-256 of its SubjectPublicKeyInfo.
    """

    name: MemberName
    title: Line
    runner: KeyField
    log: KeyField
    region: Region | None = None
    certificate: DigestField | None = None


class DecisionRule(Record, frozen=True, kw_only=True):
    """Who may decide an action: `threshold` distinct members that hold `role`."""

    role: Role
    threshold: Annotated[int, msgspec.Meta(ge=1, le=200)]


class LocalisationRule(Record, frozen=True, kw_only=True):
    """`artefact` may be held only by parties in `regions`; `basis` names the law or clause."""

    artefact: Artefact
    regions: Annotated[tuple[Region, ...], msgspec.Meta(min_length=1)]
    basis: Line


class Document(Record, frozen=True, kw_only=True):
    """A legal document, outside the charter but bound to it by its digest."""

    name: Name
    title: Line
    sha256: DigestField


class PrivacyMode(Enum):
    """exact: sums may be exact where an exposure row accepts it by name. differential: sums over
    training rows are always noised."""

    EXACT = "exact"
    DIFFERENTIAL = "differential"


class PrivacyPolicy(Record, frozen=True, kw_only=True):
    """The envelope of privacy loss that all studies of this charter share, per person.

    `epsilon_budget_milli` is epsilon in thousandths; `delta` a decimal string between 0 and 1.
    Both are 0 when the mode is exact. `max_sites_per_person` is how many
    members may hold data on one and the same person.
    """

    mode: PrivacyMode
    epsilon_budget_milli: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    delta: Annotated[str, msgspec.Meta(pattern=r"\A(0|0\.[0-9]{1,20}|[1-9]e-[1-9][0-9]?)\Z")] = "0"
    unit: Literal["person", "record"] = "person"
    adjacency: Literal["add-remove", "replace-one"] = "add-remove"
    max_sites_per_person: Annotated[int, msgspec.Meta(ge=1, le=200)] = 2


class RetentionRule(Enum):
    """How long masked inputs are kept. Their digests stay in the log for ever."""

    UNTIL_VERIFIED = "until-verified"
    UNTIL_AUDITED = "until-audited"
    WHOLE_STUDY = "whole-study"


class SecureAggregationPolicy(Record, frozen=True, kw_only=True):
    """The constants of secure summation; thresholds follow from `max_colluders`."""

    max_colluders: Annotated[int, msgspec.Meta(ge=1, le=126)] = 1
    min_survivors: Annotated[int, msgspec.Meta(ge=3, le=200)] | None = None
    suite: Literal["cesa1-x25519", "cesa1-x25519-mlkem768"] = "cesa1-x25519-mlkem768"
    slots_per_epoch_max: Annotated[int, msgspec.Meta(ge=1, le=64)] = 32
    ring_bits: Annotated[
        tuple[Literal[16, 32, 64], ...], msgspec.Meta(min_length=1, max_length=3)
    ] = (32, 64)
    masked_input_retention: RetentionRule = RetentionRule.UNTIL_AUDITED


class LogPolicy(Record, frozen=True, kw_only=True):
    """The one log. Its witness quorum is derived; `max_age_s` is how old a checkpoint may be
    when a live party relies on it."""

    origin: Name
    max_age_s: Annotated[int, msgspec.Meta(ge=1)] = 3600
