"""Charter: the document that all members sign, and its canonical bytes.

People write TOML; what is signed and hashed is the RFC 8785 JSON of a `Charter`. Guarantees
(docs/spec/governance.md, section 1):
  * One charter has one sequence of bytes and one digest, whatever its TOML looked like.
  * `charter_from_toml(charter_to_toml(c)) == c`.
  * Thresholds and quorums are derived from N and c; the document cannot state them.

Shapes and ranges hold for every `Charter` that was read; whether it makes sense is
`treaty.governance.validity.check`, and whether it is in force is
`treaty.governance.amendment.CharterHistory`.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final, Literal

import msgspec

from treaty.crypto import canonical
from treaty.crypto.canonical import DigestField, MemberName, Record, in_words
from treaty.crypto.keys import PublicKey
from treaty.errors import FormatError, PolicyError, UsageError
from treaty.governance.data_use import DataUse
from treaty.governance.exposure import ExposureMatrix, ExposureRule, Line
from treaty.governance.quorum import DerivedParameters
from treaty.governance.roles import Action, KeyKind, Role
from treaty.governance.terms import (
    Contact,
    Coordinator,
    DecisionRule,
    Document,
    LocalisationRule,
    LogPolicy,
    Member,
    PrivacyPolicy,
    SecureAggregationPolicy,
)
from treaty.governance.toml_writer import write_toml
from treaty.ids import Digest, MemberId, Timestamp

__all__ = [
    "CHARTER_FORMAT",
    "Charter",
    "ListedKey",
    "charter_bytes",
    "charter_digest",
    "charter_from_toml",
    "charter_to_toml",
    "parse_charter",
    "require_networked",
    "time_from_text",
    "time_to_text",
    "witness_name",
]

CHARTER_FORMAT: Final = "treaty.charter/v1"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999

Moment = Annotated[int, msgspec.Meta(ge=0, le=_LAST_MS)]
"""Milliseconds since the Unix epoch, UTC, up to the end of the year 9999."""


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key of the charter: whose it is, what it may sign, and where the document lists it."""

    owner: MemberId
    kind: KeyKind
    public: PublicKey


class Charter(Record, frozen=True, kw_only=True):
    """One version of a consortium's charter.

    `previous` is the digest of the version before, null in the founding version. `expires` is the
    moment from which nothing but an amendment is allowed. `least_support` is k:
    the least number of members that must be able to make a coordinate of a sum non-zero.
    `readmits` names the members whose suspension this version takes back.
    """

    format: Literal["treaty.charter/v1"] = CHARTER_FORMAT
    consortium: MemberName
    title: Line
    purpose: Line
    simulation: bool = False
    version: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1
    previous: DigestField | None = None
    readmits: tuple[MemberName, ...] = ()
    expires: Moment
    coordinator: Coordinator
    members: Mapping[MemberName, Member]
    decisions: Mapping[Action, DecisionRule]
    exposure: tuple[ExposureRule, ...]
    data_use: DataUse
    localisation: tuple[LocalisationRule, ...] = ()
    documents: tuple[Document, ...] = ()
    escalation: tuple[Contact, ...] = ()
    privacy: PrivacyPolicy
    secure_aggregation: SecureAggregationPolicy = SecureAggregationPolicy()
    log: LogPolicy
    least_support: Annotated[int, msgspec.Meta(ge=2, le=200)] = 3

    def holders(self, role: Role) -> tuple[MemberId, ...]:
        """Return the unsuspended members that hold `role`, in order of name."""
        return tuple(
            MemberId(name)
            for name in sorted(self.members)
            if role in self.members[name].roles and not self.members[name].suspended
        )

    def active_members(self) -> tuple[MemberId, ...]:
        """Return the unsuspended members, in order of name; N is their number.

        The position in this order, counted from 1, is a member's index in secure aggregation.
        """
        return self.holders(Role.MEMBER)

    def suspended_members(self) -> frozenset[MemberId]:
        """Return the members that this version lists as suspended."""
        return frozenset(MemberId(name) for name, one in self.members.items() if one.suspended)

    def parameters(self) -> DerivedParameters:
        """Return every derived threshold; `PolicyError` (code ``parameters``) if there is none."""
        policy = self.secure_aggregation
        return DerivedParameters(
            len(self.active_members()), policy.max_colluders, policy.min_survivors
        )

    def exposure_matrix(self) -> ExposureMatrix:
        """Return the exposure rows as a matrix; `PolicyError` if they contradict one another."""
        return ExposureMatrix(self.exposure)

    def listed_keys(self) -> tuple[ListedKey, ...]:
        """Return every key that the document lists, suspended members' included.

        Raises `PolicyError` (code ``key-invalid``) for 32 bytes that are no usable public key.
        """
        listed: list[ListedKey] = []
        for kind, value in (
            (KeyKind.COORDINATOR, self.coordinator.runner),
            (KeyKind.LOG, self.coordinator.log),
        ):
            listed.append(_listed(self.coordinator.name, kind, value))
        for name in sorted(self.members):
            keys = self.members[name].keys
            for kind, values in (
                (KeyKind.APPROVAL, keys.approval),
                (KeyKind.RUNNER, keys.runner),
                (KeyKind.WITNESS, keys.witness),
                (KeyKind.TRANSPORT, keys.transport),
            ):
                listed.extend(_listed(name, kind, value) for value in values)
        return tuple(listed)

    def witness_keys(self) -> Mapping[MemberId, PublicKey]:
        """Return the witness key of every unsuspended member."""
        active = set(self.active_members())
        return {
            key.owner: key.public
            for key in self.listed_keys()
            if key.kind is KeyKind.WITNESS and key.owner in active
        }


@lru_cache(maxsize=4096)
def _public(value: str) -> PublicKey:
    """Remember parsed keys: every statement of a round is checked against all of them."""
    return PublicKey.from_hex(value)


def _listed(owner: str, kind: KeyKind, value: str) -> ListedKey:
    try:
        return ListedKey(MemberId(owner), kind, _public(value))
    except FormatError as error:
        raise PolicyError(
            f"the {kind.value} key {value[:16]} of {owner} is not a usable public key: {error}; "
            "enter the key as `treaty key new` printed it",
            code="key-invalid",
        ) from error


def witness_name(member: str) -> str:
    """Return the name under which `member` cosigns checkpoints (its vkey name)."""
    return f"{member}/witness"


def charter_bytes(charter: Charter) -> bytes:
    """Return the canonical bytes that members sign and hash."""
    return canonical.encode(charter)


def charter_digest(charter: Charter) -> Digest:
    """Return the SHA-256 of the canonical bytes. Of the founding version it is the trust anchor."""
    return canonical.digest_of(charter)


def parse_charter(data: bytes) -> Charter:
    """Return the charter whose canonical bytes are `data`; `FormatError` otherwise."""
    return canonical.decode(data, Charter)


def charter_from_toml(text: str) -> Charter:
    """Return the charter that a person wrote.

    ``expires`` is a TOML date-time with an offset; ``format`` and, in a founding version,
    ``version`` and ``previous`` may be left out. Raises `UsageError` naming the field that
    is missing, unknown or out of range.
    """
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"expected a charter in TOML: {error}") from error
    expires = table.get("expires")
    if isinstance(expires, datetime):
        table["expires"] = _milliseconds(expires)
    elif isinstance(expires, str):
        table["expires"] = time_from_text(expires)
    else:
        raise UsageError(
            "expected `expires` as a date and time with an offset, "
            "such as 2030-12-31T00:00:00Z: add it to the charter"
        )
    try:
        charter = msgspec.convert(table, Charter, strict=True)
        return parse_charter(charter_bytes(charter))
    except (msgspec.ValidationError, FormatError) as error:
        raise UsageError(
            f"the charter does not hold: {in_words(error)}; correct that field"
        ) from error


def charter_to_toml(charter: Charter) -> str:
    """Return TOML from which `charter_from_toml` reads the same charter. Comments are not kept."""
    table: dict[str, object] = msgspec.to_builtins(charter)
    for name in ("readmits", "localisation", "documents", "escalation"):
        if not table[name]:
            del table[name]  # An empty list would stand in the way of a section added later.
    members = {}
    for name, member in msgspec.to_builtins(charter.members).items():
        members[name] = {key: item for key, item in member.items() if item != []}
    table["members"] = members
    table["expires"] = time_to_text(Timestamp(charter.expires))
    return write_toml(table)


def require_networked(charter: Charter) -> None:
    """Raise `PolicyError` (code ``simulation``) when `charter` is for simulations only."""
    if charter.simulation:
        raise PolicyError(
            f"the charter of {charter.consortium} says simulation = true: "
            "its secrets come from a seed, so no site may run it; found a charter without it",
            code="simulation",
        )


def time_to_text(moment: Timestamp) -> str:
    """Return `moment` as ISO 8601 text in UTC, with milliseconds where there are any."""
    at = _EPOCH + timedelta(milliseconds=moment)
    return at.isoformat(timespec="milliseconds" if moment % 1000 else "seconds").replace(
        "+00:00", "Z"
    )


def time_from_text(text: str) -> Timestamp:
    """Return the moment that ISO 8601 `text` with an offset names; `UsageError` otherwise."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"expected a date and time such as 2030-12-31T00:00:00Z: {error}"
        ) from error
    return _milliseconds(at)


def _milliseconds(at: datetime) -> Timestamp:
    if at.tzinfo is None:
        raise UsageError(
            f"expected a time with an offset, got {at.isoformat()}: write Z or +01:00 behind it"
        )
    elapsed = at - _EPOCH
    if elapsed < timedelta(0) or elapsed % timedelta(milliseconds=1):
        raise UsageError(f"expected a time after 1970 in whole milliseconds, got {at.isoformat()}")
    return Timestamp(elapsed // timedelta(milliseconds=1))
