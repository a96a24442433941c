"""Papers: the invitation that a site gets, and the signed request that it sends back.

Guarantees (docs/spec/transport.md, section 5):
  * Neither holds a secret. An invitation names the server, the key that it must prove, and the
    terms: the charter with empty places for the members' keys, whose digest officers compare with
    paper.
  * A request binds a member's public keys to exactly these terms, signed by each of the keys.
  * The founding charter is the terms with the requests' keys, and nothing else: whoever agreed to
    the terms can check what they became.

This module does no input or output.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from treaty.crypto import canonical, envelope
from treaty.crypto.canonical import DigestField, MemberName, Record
from treaty.crypto.keys import PublicKey, SigningKey
from treaty.errors import FormatError, PolicyError, UsageError, VerificationError
from treaty.governance.accession import with_keys
from treaty.governance.charter import Charter, charter_digest, require_networked, time_to_text
from treaty.governance.terms import MemberKeys
from treaty.governance.validity import check
from treaty.ids import Digest, MemberId, Timestamp
from treaty.protocol.membership import charter_statement
from treaty.protocol.statements import seal_statement, statement_payload

__all__ = [
    "Accession",
    "Invite",
    "JoinRequest",
    "compose",
    "decode_invite",
    "encode_invite",
    "keys_of_request",
    "open_accession",
    "open_request",
    "require_accession_terms",
    "require_terms",
    "require_terms_text",
    "seal_accession",
    "seal_request",
    "terms_of",
]

Address = Annotated[str, msgspec.Meta(pattern=r"\A(tls|wss)://[A-Za-z0-9.\-\[\]:]{1,255}\Z")]

_MAX_INVITE = 1 << 20


class Invite(Record):
    """What a member needs to join: where, which server key, which terms. `made_at` in ms.

    An invitation into a consortium that is founded holds the founding charter too: its terms are
    then the version after the one in force, with empty places for this member's keys alone.
    """

    format: Literal["treaty.invite/v1"] = "treaty.invite/v1"
    member: MemberName
    url: Address
    pin: DigestField
    made_at: canonical.Count
    terms: Charter
    founding: Charter | None = None


class JoinRequest(Record):
    """A member's keys, for the terms with this digest."""

    format: Literal["treaty.join-request/v1"] = "treaty.join-request/v1"
    member: MemberName
    terms: DigestField
    keys: MemberKeys


class Accession(Record):
    """A newcomer's keys: the version that lists them, and its statement signed by each of them."""

    format: Literal["treaty.accession/v1"] = "treaty.accession/v1"
    member: MemberName
    charter: Charter
    statement: str


def terms_of(charter: Charter) -> Charter:
    """Return `charter` with empty places for the members' keys."""
    return msgspec.structs.replace(
        charter,
        members={
            name: msgspec.structs.replace(one, keys=MemberKeys())
            for name, one in charter.members.items()
        },
    )


def require_terms(terms: Charter) -> None:
    """Raise `PolicyError` when `terms` cannot become a charter of real sites, whatever the keys."""
    require_networked(terms)
    if terms != terms_of(terms):
        raise PolicyError("expected empty places for the members' keys", code="keys-given")
    if terms.coordinator.certificate is None:
        raise PolicyError("the terms pin no certificate of the coordinator", code="no-pin")
    # Any keys will do to see whether the rest holds.
    check(_with_keys(terms, {MemberId(name): _stand_ins(name) for name in terms.members}))


def require_terms_text(terms: Charter, name: str, now: Timestamp) -> None:
    """Raise `PolicyError` when `terms` cannot be prepared by the coordinator `name`, whatever keys.

    Before any key is made: `terms` have places to fill in where the coordinator's keys belong.
    """
    stand_in = msgspec.structs.replace(
        terms.coordinator,
        name=name,
        runner=_stand_in(name, "runner"),
        log=_stand_in(name, "log"),
        certificate=_digest(name),
    )
    require_terms(terms_of(msgspec.structs.replace(terms, coordinator=stand_in)))
    if now >= terms.expires:
        raise PolicyError(
            f"the charter expires at {time_to_text(Timestamp(terms.expires))}, which is past: "
            "set a later end",
            code="expired",
        )


def require_accession_terms(terms: Charter, member: str, founding: Charter) -> None:
    """Raise `PolicyError` when `terms` cannot become the version by which `member` joins.

    Whether it follows the version in force is for whoever holds the log.
    """
    require_networked(terms)
    require_networked(founding)
    if terms.version < 2 or founding.version != 1 or terms.consortium != founding.consortium:
        raise PolicyError(
            f"expected a version after the founding charter of {founding.consortium}, got version "
            f"{terms.version} of {terms.consortium}",
            code="wrong-terms",
        )
    if member not in terms.members or terms.members[member].keys != MemberKeys():
        raise PolicyError(f"expected empty places for the keys of {member}", code="keys-given")
    if terms.coordinator.certificate is None:
        raise PolicyError("the terms pin no certificate of the coordinator", code="no-pin")
    check(with_keys(terms, member, _stand_ins(member)))


def encode_invite(invite: Invite) -> bytes:
    """Return the canonical bytes of an invitation."""
    return canonical.encode(invite)


def decode_invite(data: bytes, now: Timestamp) -> Invite:
    """Return the invitation in `data`, whose terms hold and have not expired.

    Raises `FormatError` when it is none, `PolicyError` when its terms do not hold, and `UsageError`
    when this machine's clock is behind the moment at which it was made.
    """
    try:
        invite = canonical.decode(data.removesuffix(b"\n"), Invite, limit=_MAX_INVITE)
    except FormatError as error:
        raise FormatError(
            f"this is no invitation, or it was changed on the way: {error}; ask the coordinator "
            "for another copy"
        ) from error
    if invite.founding is None:
        require_terms(invite.terms)
    if invite.member not in invite.terms.members:
        raise FormatError(f"the invitation is for {invite.member}, whom its terms do not name")
    if invite.founding is not None:
        require_accession_terms(invite.terms, invite.member, invite.founding)
    if invite.terms.coordinator.certificate != invite.pin:
        raise FormatError("the invitation pins another server key than its terms")
    if now + 60_000 < invite.made_at:
        raise UsageError(
            f"this machine's clock is {(invite.made_at - now) // 1000} s behind the invitation: "
            "set the clock, then try again"
        )
    if now >= invite.terms.expires:
        raise PolicyError(
            "the charter of this invitation has expired: ask for an invitation to its successor",
            code="expired",
        )
    return invite


def seal_request(request: JoinRequest, keys: Mapping[str, SigningKey]) -> bytes:
    """Return the request, signed by every one of its keys."""
    return envelope.seal(canonical.encode(request), tuple(keys.values()))


def open_request(data: bytes, terms: Charter) -> JoinRequest:
    """Return the request in `data`, made for `terms` and signed by each key that it lists.

    Raises `FormatError` or `VerificationError`.
    """
    try:
        parsed = envelope.parse(data.removesuffix(b"\n"))
        request = canonical.decode(parsed.payload, JoinRequest)
    except FormatError as error:
        raise FormatError(
            f"this is no member's request, or it was changed on the way: {error}; ask for another "
            "copy"
        ) from error
    if request.terms != charter_digest(terms):
        raise VerificationError(
            f"{request.member} agreed to the terms {request.terms[:16]}, expected "
            f"{charter_digest(terms)[:16]}: send the present invitation",
            code="wrong-terms",
        )
    if request.member not in terms.members:
        raise VerificationError(f"the terms name no member {request.member}", code="not-listed")
    keys = keys_of_request(request)
    signed = envelope.verified_keys(parsed, {key.keyid: key for key in keys})
    if len(signed) != len(MemberKeys.__struct_fields__) or len(keys) != len(signed):
        raise VerificationError(
            f"expected one signed key of {request.member} for each purpose", code="no-possession"
        )
    return request


def seal_accession(invite: Invite, keys: Mapping[str, SigningKey]) -> bytes:
    """Return the request of the invited newcomer: its version of the charter, signed by its keys.

    The terms hold everything but these keys, so what is signed here is what members vote on.
    """
    listed = MemberKeys(**{kind: (key.public.hex,) for kind, key in keys.items()})
    charter = with_keys(invite.terms, invite.member, listed)
    check(charter)
    return canonical.encode(
        Accession(
            member=invite.member,
            charter=charter,
            statement=envelope.encode_base64(
                seal_statement(charter_statement(charter), *keys.values())
            ),
        )
    )


def open_accession(data: bytes) -> tuple[Accession, bytes]:
    """Return a newcomer's request and its statement, signed by every key that it lists.

    Raises `FormatError`, `VerificationError` or `PolicyError`. Whether it follows the version in
    force is for whoever holds the log.
    """
    request = canonical.decode(data.removesuffix(b"\n"), Accession, limit=_MAX_INVITE)
    charter = request.charter
    check(charter)
    if request.member not in charter.members:
        raise VerificationError(f"the charter names no member {request.member}", code="not-listed")
    statement = envelope.decode_base64(request.statement)
    parsed = envelope.parse(statement)
    if parsed.payload != statement_payload(charter_statement(charter)):
        raise VerificationError(
            f"{request.member} has signed something else than the charter that it sends",
            code="wrong-charter",
        )
    own = [key.public for key in charter.listed_keys() if key.owner == request.member]
    signed = envelope.verified_keys(parsed, {key.keyid: key for key in own})
    if len(signed) != len(own):
        raise VerificationError(
            f"{len(signed)} of the {len(own)} keys of {request.member} have signed: expected all",
            code="no-possession",
        )
    return request, statement


def keys_of_request(request: JoinRequest) -> tuple[PublicKey, ...]:
    """Return the public keys of a request. Raises `FormatError` for what is no key."""
    return tuple(
        PublicKey.from_hex(value)
        for kind in MemberKeys.__struct_fields__
        for value in getattr(request.keys, kind)
    )


def compose(terms: Charter, requests: Mapping[MemberId, JoinRequest]) -> Charter:
    """Return the founding charter: `terms` with the keys of every member's request, checked.

    Raises `UsageError` naming the members whose request is missing.
    """
    missing = sorted(set(terms.members) - set(requests))
    if missing:
        raise UsageError(f"expected a request of every member, none of {', '.join(missing)}")
    charter = _with_keys(terms, {name: one.keys for name, one in requests.items()})
    check(charter)
    return charter


def _with_keys(terms: Charter, keys: Mapping[MemberId, MemberKeys]) -> Charter:
    return msgspec.structs.replace(
        terms,
        members={
            name: msgspec.structs.replace(one, keys=keys[MemberId(name)])
            for name, one in terms.members.items()
        },
    )


def _stand_ins(name: str) -> MemberKeys:
    return MemberKeys(**{kind: (_stand_in(name, kind),) for kind in MemberKeys.__struct_fields__})


def _stand_in(name: str, kind: str) -> str:
    return SigningKey(bytes.fromhex(_digest(f"{name}/{kind}"))).public.hex


def _digest(text: str) -> Digest:
    return canonical.sha256(text.encode())
