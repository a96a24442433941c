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
from treaty.governance.charter import Charter, charter_digest, require_networked
from treaty.governance.terms import MemberKeys
from treaty.governance.validity import check
from treaty.ids import Digest, MemberId, Timestamp

__all__ = [
    "Invite",
    "JoinRequest",
    "compose",
    "decode_invite",
    "encode_invite",
    "keys_of_request",
    "open_request",
    "require_terms",
    "seal_request",
    "terms_of",
]

Address = Annotated[str, msgspec.Meta(pattern=r"\A(tls|wss)://[A-Za-z0-9.\-\[\]:]{1,255}\Z")]

_MAX_INVITE = 1 << 20


class Invite(Record):
    """What a member needs to join: where, which server key, which terms. `made_at` in ms."""

    format: Literal["treaty.invite/v1"] = "treaty.invite/v1"
    member: MemberName
    url: Address
    pin: DigestField
    made_at: canonical.Count
    terms: Charter


class JoinRequest(Record):
    """A member's keys, for the terms with this digest."""

    format: Literal["treaty.join-request/v1"] = "treaty.join-request/v1"
    member: MemberName
    terms: DigestField
    keys: MemberKeys


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
    stand_ins = {
        MemberId(name): MemberKeys(
            **{kind: (_stand_in(name, kind),) for kind in MemberKeys.__struct_fields__}
        )
        for name in terms.members
    }
    check(_with_keys(terms, stand_ins))


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
    require_terms(invite.terms)
    if invite.member not in invite.terms.members:
        raise FormatError(f"the invitation is for {invite.member}, whom its terms do not name")
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
    parsed = envelope.parse(data.removesuffix(b"\n"))
    request = canonical.decode(parsed.payload, JoinRequest)
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


def _stand_in(name: str, kind: str) -> str:
    return SigningKey(bytes.fromhex(_digest(f"{name}/{kind}"))).public.hex


def _digest(text: str) -> Digest:
    return canonical.sha256(text.encode())
