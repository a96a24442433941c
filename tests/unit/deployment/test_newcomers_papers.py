"""The papers of a newcomer: an invitation into a founded consortium, and the request it sends back.

Planted and caught: terms with other empty places than the newcomer's; a founding charter of another
consortium; a request that one of its keys did not sign, or that signs another version than it
sends; keys of an old member that change on the way.
"""

import msgspec
import pytest

from tests.unit.deployment.test_papers import (
    MEMBERS,
    NOW,
    TERMS,
    key,
    keys_of,
    request_of,
)
from treaty.crypto import canonical, envelope
from treaty.deployment.papers import (
    Accession,
    Invite,
    compose,
    decode_invite,
    encode_invite,
    open_accession,
    open_request,
    seal_accession,
)
from treaty.errors import FormatError, PeerError, PolicyError, VerificationError
from treaty.governance.accession import accession_terms, with_keys, without_keys
from treaty.governance.charter import Charter
from treaty.governance.terms import MemberKeys
from treaty.ids import MemberId
from treaty.protocol.membership import charter_statement
from treaty.protocol.statements import seal_statement

NEW = "d.example"
FOUNDING = compose(
    TERMS, {MemberId(name): open_request(request_of(name), TERMS) for name in MEMBERS}
)


def invite(**changed: object) -> Invite:
    made = Invite(
        member=NEW,
        url="tls://hub.example:4222",
        pin=key("hub server").public.keyid,
        made_at=NOW,
        terms=accession_terms(FOUNDING, NEW),
        founding=FOUNDING,
    )
    return msgspec.structs.replace(made, **changed)


def listed(name: str = NEW) -> MemberKeys:
    return MemberKeys(**{kind: (one.public.hex,) for kind, one in keys_of(name).items()})


def test_an_invitation_leads_to_a_request_that_lists_and_proves_the_newcomers_keys() -> None:
    paper = decode_invite(encode_invite(invite()), NOW)
    assert paper == invite()
    request, statement = open_accession(seal_accession(paper, keys_of(NEW)) + b"\n")
    assert without_keys(request.charter, NEW) == paper.terms
    assert request.charter.members[NEW].keys == listed()
    parsed = envelope.parse(statement)
    assert {one.public.keyid for one in keys_of(NEW).values()} == set(
        envelope.verified_keys(parsed, {k.public.keyid: k.public for k in keys_of(NEW).values()})
    )


def of_another_consortium() -> Charter:
    return msgspec.structs.replace(FOUNDING, consortium="y.example")


BAD_INVITES: dict[str, tuple[dict[str, object], str]] = {
    "keys of the newcomer are given": (
        {"terms": with_keys(invite().terms, NEW, listed())},
        "keys-given",
    ),
    "keys of another are empty": (
        {"terms": without_keys(invite().terms, MEMBERS[0])},
        "key-missing",
    ),
    "another consortium's founding": ({"founding": of_another_consortium()}, "wrong-terms"),
    "terms of the founding version": (
        {"terms": msgspec.structs.replace(invite().terms, version=1, previous=None)},
        "wrong-terms",
    ),
    "a simulation": (
        {"terms": msgspec.structs.replace(invite().terms, simulation=True)},
        "simulation",
    ),
}


@pytest.mark.parametrize("case", BAD_INVITES)
def test_an_invitation_whose_terms_do_not_hold_is_refused(case: str) -> None:
    changed, code = BAD_INVITES[case]
    with pytest.raises((PolicyError, FormatError)) as caught:
        decode_invite(encode_invite(invite(**changed)), NOW)
    assert getattr(caught.value, "code", "format") == code


def test_a_request_that_does_not_hold_is_refused() -> None:
    keys = keys_of(NEW)
    charter = with_keys(invite().terms, NEW, listed())
    other = msgspec.structs.replace(charter, title="Another title")

    def request(signed: Charter, sent: Charter, *kinds: str, member: str = NEW) -> bytes:
        statement = seal_statement(charter_statement(signed), *(keys[kind] for kind in kinds))
        text = envelope.encode_base64(statement)
        return canonical.encode(Accession(member=member, charter=sent, statement=text))

    every = tuple(keys)
    open_accession(request(charter, charter, *every))
    cases = {
        "no-possession": request(charter, charter, *every[:3]),
        "wrong-charter": request(charter, other, *every),
        "not-listed": request(charter, charter, *every, member="e.example"),
        "unknown-key": request(charter, charter, *every, member=MEMBERS[0]),
    }
    for code, data in cases.items():
        with pytest.raises(VerificationError) as caught:
            open_accession(data)
        assert caught.value.code == code
    for data in (b"", b"{}", request_of(MEMBERS[0])):
        with pytest.raises(PeerError):
            open_accession(data)
