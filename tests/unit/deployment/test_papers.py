"""Invitations, requests, and the charter that they become.

Planted and caught: terms whose digest is not compared, a request that one of its keys did not sign,
a request for other terms, an invitation whose pin is not the terms', terms with keys in
them, a simulation's terms, expiry and the clock not looked at.
"""

import msgspec
import pytest

from treaty.crypto import canonical
from treaty.crypto.keys import SigningKey
from treaty.deployment.papers import (
    Invite,
    JoinRequest,
    compose,
    decode_invite,
    encode_invite,
    open_request,
    require_terms,
    seal_request,
    terms_of,
)
from treaty.errors import FormatError, PolicyError, UsageError, VerificationError
from treaty.governance.charter import Charter, charter_digest
from treaty.governance.template import CharterOptions, terms_charter
from treaty.governance.terms import MemberKeys
from treaty.ids import MemberId, Timestamp

MEMBERS = ("a.example", "b.example", "c.example")
KINDS = ("approval", "runner", "transport", "witness")
NOW = Timestamp(1_764_000_000_000)


def key(name: str) -> SigningKey:
    return SigningKey(bytes.fromhex(canonical.sha256(name.encode())))


def make_terms(**options: object) -> Charter:
    charter = terms_charter("x.example", MEMBERS, CharterOptions(**options))  # type: ignore[arg-type]  # passed through
    hub = msgspec.structs.replace(
        charter.coordinator,
        runner=key("hub runner").public.hex,
        log=key("hub log").public.hex,
        certificate=key("hub server").public.keyid,
    )
    return msgspec.structs.replace(charter, coordinator=hub)


TERMS = make_terms()


def keys_of(member: str) -> dict[str, SigningKey]:
    return {kind: key(f"{member} {kind}") for kind in KINDS}


def request_of(member: str, terms: Charter = TERMS, **changed: SigningKey) -> bytes:
    keys = keys_of(member) | changed
    listed = MemberKeys(**{kind: (one.public.hex,) for kind, one in keys.items()})
    return seal_request(JoinRequest(member=member, terms=charter_digest(terms), keys=listed), keys)


def invite_for(member: str, terms: Charter = TERMS, made_at: int = NOW) -> Invite:
    return Invite(
        member=member,
        url="tls://hub.example:4222",
        pin=key("hub server").public.keyid,
        made_at=made_at,
        terms=terms,
    )


def test_the_founding_charter_is_the_terms_with_the_requests_keys() -> None:
    require_terms(TERMS)
    opened = {MemberId(name): open_request(request_of(name), TERMS) for name in MEMBERS}
    charter = compose(TERMS, opened)
    assert terms_of(charter) == TERMS
    for name in MEMBERS:
        listed = charter.members[name].keys
        assert listed.transport == (key(f"{name} transport").public.hex,)
        assert listed.approval == (key(f"{name} approval").public.hex,)
    with pytest.raises(UsageError, match=r"none of b\.example"):
        compose(TERMS, {name: one for name, one in opened.items() if name != "b.example"})


def test_two_members_cannot_have_one_key() -> None:
    same = key("a.example runner")
    opened = {
        MemberId(name): open_request(
            request_of(name, **({"runner": same} if name != "c.example" else {})), TERMS
        )
        for name in MEMBERS
    }
    with pytest.raises(PolicyError):
        compose(TERMS, opened)


def test_a_request_must_be_signed_by_each_of_its_keys() -> None:
    data = request_of("a.example")
    parsed = canonical.decode(data, dict)
    short = dict(parsed) | {"signatures": parsed["signatures"][:-1]}
    with pytest.raises(VerificationError) as refused:
        open_request(canonical.encode(short), TERMS)
    assert refused.value.code == "no-possession"
    strange = seal_request(
        open_request(data, TERMS), keys_of("a.example") | {"witness": key("somebody")}
    )
    with pytest.raises(VerificationError) as refused:
        open_request(strange, TERMS)
    assert refused.value.code == "unknown-key"


def test_a_request_for_other_terms_or_by_a_stranger_is_refused() -> None:
    with pytest.raises(VerificationError) as refused:
        open_request(request_of("a.example", make_terms(max_colluders=1, title="Other")), TERMS)
    assert refused.value.code == "wrong-terms"
    with pytest.raises(VerificationError) as refused:
        open_request(request_of("d.example"), TERMS)
    assert refused.value.code == "not-listed"
    with pytest.raises(FormatError):
        open_request(b"{}", TERMS)


def test_an_invitation_comes_back_as_it_was_made() -> None:
    invite = invite_for("a.example")
    assert decode_invite(encode_invite(invite) + b"\n", NOW) == invite


@pytest.mark.parametrize(
    ("case", "kind", "match"),
    [
        ("cut off", FormatError, "no invitation"),
        ("one letter changed", FormatError, "no invitation"),
        ("another member", FormatError, "do not name"),
        ("another pin", FormatError, "another server key"),
        ("clock behind", UsageError, "set the clock"),
        ("expired", PolicyError, "has expired"),
        ("simulation", PolicyError, "simulation = true"),
        ("keys given", PolicyError, "empty places"),
        ("no pin", PolicyError, "pin no certificate"),
        ("terms that do not hold", PolicyError, "expires"),
    ],
)
def test_a_wrong_invitation_is_refused_in_one_line(
    case: str, kind: type[Exception], match: str
) -> None:
    good = encode_invite(invite_for("a.example"))
    filled = compose(
        TERMS, {MemberId(name): open_request(request_of(name), TERMS) for name in MEMBERS}
    )
    bare = msgspec.structs.replace(TERMS.coordinator, certificate=None)
    data, now = {
        "cut off": (good[:-20], NOW),
        "one letter changed": (good.replace(b"treaty.invite", b"treaty.invitE"), NOW),
        "another member": (encode_invite(invite_for("d.example")), NOW),
        "another pin": (
            encode_invite(msgspec.structs.replace(invite_for("a.example"), pin="0" * 64)),
            NOW,
        ),
        "clock behind": (good, Timestamp(NOW - 120_000)),
        "expired": (good, Timestamp(TERMS.expires)),
        "simulation": (encode_invite(invite_for("a.example", make_terms(simulation=True))), NOW),
        "keys given": (encode_invite(invite_for("a.example", filled)), NOW),
        "no pin": (
            encode_invite(
                invite_for("a.example", msgspec.structs.replace(TERMS, coordinator=bare))
            ),
            NOW,
        ),
        "terms that do not hold": (
            encode_invite(invite_for("a.example", msgspec.structs.replace(TERMS, expires=0))),
            NOW,
        ),
    }[case]
    with pytest.raises(kind, match=match) as refused:
        decode_invite(data, now)
    assert "\n" not in str(refused.value)


def test_no_paper_holds_a_secret() -> None:
    papers = encode_invite(invite_for("a.example")) + request_of("a.example")
    for name in ("hub runner", "hub log", "hub server", *(f"a.example {kind}" for kind in KINDS)):
        assert key(name).seed_bytes().hex().encode() not in papers
