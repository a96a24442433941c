"""Charters whose signatures outgrow a log entry: named by the entry, judged by the same rules.

Planted and caught: signatures in a blob not verified; one missing signature that goes unnoticed; a
statement about another charter; an entry without the coordinator's signature, or under another's
key, or in another's name; a blob of signatures that would fit the entry; signatures that are never
put into a blob; an amendment that is taken for a founding.
"""

import hashlib
from collections.abc import Callable

import msgspec
import pytest

from tests.worlds import COORDINATOR, HUB, LOG_KEY, key, refused
from treaty.crypto import envelope
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import FormatError, ResourceError
from treaty.governance.charter import Charter, charter_bytes, charter_digest
from treaty.governance.template import CharterOptions, build_charter
from treaty.governance.terms import Coordinator, MemberKeys
from treaty.ids import Digest, MemberId
from treaty.protocol.consortium import Consortium
from treaty.protocol.membership import charter_entry
from treaty.protocol.messages import CharterGathered, CharterPublished
from treaty.protocol.statements import (
    MAX_ENTRY_BYTES,
    peek,
    seal_statement,
    statement_payload,
)

MEMBERS = tuple(MemberId(f"site-{number:03}.example") for number in range(100))
ROLES = ("approval", "runner", "witness", "transport")


def keys_of(name: str) -> tuple[SigningKey, ...]:
    return tuple(key(f"{role} of {name}") for role in ROLES)


def charter_of(members: tuple[MemberId, ...], **changes: object) -> Charter:
    keys = {
        name: MemberKeys(
            **{role: (one.public.hex,) for role, one in zip(ROLES, keys_of(name), strict=True)}
        )
        for name in members
    }
    hub = Coordinator(name=HUB, title="Hub", runner=COORDINATOR.public.hex, log=LOG_KEY.public.hex)
    charter = build_charter("wide.example", keys, hub, CharterOptions(max_colluders=10))
    return msgspec.structs.replace(charter, **changes)


CHARTER = charter_of(MEMBERS)
ANCHOR = charter_digest(CHARTER)
SIGNERS = (*(one for name in MEMBERS for one in keys_of(name)), COORDINATOR, LOG_KEY)


def said(charter: Charter) -> CharterPublished:
    return CharterPublished(
        charter=charter_digest(charter),
        author=HUB,
        version=charter.version,
        previous=charter.previous,
    )


def signed(charter: Charter, signers: tuple[SigningKey, ...]) -> bytes:
    return envelope.seal(statement_payload(said(charter)), signers)


WHOLE = signed(CHARTER, SIGNERS)
ENTRY, BLOBS = charter_entry(CHARTER, WHOLE, COORDINATOR)


def found(entry: bytes, blobs: dict[Digest, bytes]) -> Consortium:
    def documents(digest: Digest) -> bytes:
        if digest not in blobs:
            raise ResourceError(f"no blob {digest[:16]}")
        return blobs[digest]

    return Consortium(ANCHOR).apply(entry, documents)[0]


def gathered(statement: bytes, signer: SigningKey = COORDINATOR, **changes: object) -> bytes:
    """Return an entry that names `statement`, whatever it is."""
    body = CharterGathered(charter=ANCHOR, author=HUB, signatures=sha256(statement))
    return seal_statement(msgspec.structs.replace(body, **changes), signer)


def with_statement(statement: bytes, **changes: object) -> tuple[bytes, dict[Digest, bytes]]:
    document = charter_bytes(CHARTER)
    entry = gathered(statement, **changes)  # type: ignore[arg-type]  # passed through
    return entry, {ANCHOR: document, sha256(statement): statement}


def test_a_hundred_members_found_a_consortium_with_four_keys_each() -> None:
    assert len(SIGNERS) == 402 and len(WHOLE) > MAX_ENTRY_BYTES >= len(ENTRY)
    assert set(BLOBS) == {ANCHOR, sha256(WHOLE)}
    state = found(ENTRY, BLOBS)
    assert state.size == 1 and state.charter == CHARTER
    assert len(state.members.directory.keys) == 402
    body = peek(ENTRY)[1]
    assert {one.digest.sha256 for one in body.subjects()} == {ANCHOR, sha256(WHOLE)}


def test_signatures_that_fit_stand_in_the_entry() -> None:
    small = charter_of(MEMBERS[:91])
    signers = (*(one for name in MEMBERS[:91] for one in keys_of(name)), COORDINATOR, LOG_KEY)
    statement = signed(small, signers)
    entry, blobs = charter_entry(small, statement, COORDINATOR)
    assert entry == statement and set(blobs) == {charter_digest(small)}


@pytest.mark.parametrize("place", [0, 1, 200, 399, 400, 401])
def test_each_signature_is_missed(place: int) -> None:
    with refused("no-possession"):
        found(*with_statement(signed(CHARTER, (*SIGNERS[:place], *SIGNERS[place + 1 :]))))


def test_a_signature_that_does_not_verify_is_refused() -> None:
    parsed = envelope.parse(WHOLE, limit=len(WHOLE))
    lines = dict(parsed.signatures)
    first, second = sorted(lines)[:2]
    lines[first] = lines[second]
    with refused("bad-signature"):
        found(*with_statement(envelope.join(parsed.payload, lines)))


def test_a_strangers_signature_is_refused() -> None:
    with refused("unknown-key"):
        found(*with_statement(signed(CHARTER, (*SIGNERS, key("stranger")))))


def test_the_signatures_are_about_this_charter() -> None:
    other = charter_of(MEMBERS, title="Another")
    with refused("wrong-charter"):
        found(*with_statement(signed(other, SIGNERS)))
    body = CharterGathered(charter=ANCHOR, author=HUB, signatures=ANCHOR)
    inner = envelope.seal(statement_payload(body), SIGNERS)
    with refused("wrong-charter"):
        found(*with_statement(inner))


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"signer": LOG_KEY}, "unknown-key"),
        ({"signer": key("stranger")}, "unknown-key"),
        ({"signer": keys_of(MEMBERS[0])[0]}, "unknown-key"),
        ({"author": MEMBERS[0]}, "wrong-author"),
    ],
)
def test_the_entry_is_the_coordinators(changes: dict[str, object], code: str) -> None:
    with refused(code):
        found(*with_statement(WHOLE, **changes))


def test_the_entry_carries_the_coordinators_signature_alone() -> None:
    body = CharterGathered(charter=ANCHOR, author=HUB, signatures=sha256(WHOLE))
    document = charter_bytes(CHARTER)
    entry = seal_statement(body, COORDINATOR, LOG_KEY)
    with refused("unknown-key"):
        found(entry, {ANCHOR: document, sha256(WHOLE): WHOLE})


def test_a_blob_of_few_signatures_is_refused() -> None:
    few = signed(CHARTER, SIGNERS[:10])
    with refused("wrong-signatures"):
        found(*with_statement(few))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b" ",
        lambda data: data[:-1],
        lambda data: b"{" * len(data),
        lambda data: data + bytes(envelope.MAX_GATHERED_BYTES),
    ],
)
def test_a_blob_that_is_no_statement_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(FormatError):
        found(*with_statement(spoil(WHOLE)))


def test_a_blob_that_is_not_at_hand_founds_nothing() -> None:
    with pytest.raises(ResourceError):
        found(ENTRY, {ANCHOR: BLOBS[ANCHOR]})


def test_an_amendment_may_have_as_many_signatures() -> None:
    state = found(ENTRY, BLOBS)
    fresh = {
        name: msgspec.structs.replace(
            CHARTER.members[name],
            keys=MemberKeys(**{role: (key(f"new {role} of {name}").public.hex,) for role in ROLES}),
        )
        for name in MEMBERS
    }
    after = msgspec.structs.replace(CHARTER, version=2, previous=ANCHOR, members=fresh)
    signers = (
        *(
            key(f"{word}{role} of {name}")
            for name in MEMBERS
            for word in ("new ",)
            for role in ROLES
        ),
        *(key(f"approval of {name}") for name in MEMBERS),
    )
    entry, blobs = charter_entry(after, signed(after, signers), COORDINATOR)
    state, verified = state.apply(entry, blobs.__getitem__)
    assert state.charter.version == 2
    assert verified.keyids == {one.public.keyid for one in signers}
    assert hashlib.sha256(entry).hexdigest() == verified.digest
    with refused("no-possession"):
        entry, blobs = charter_entry(after, signed(after, signers[1:]), COORDINATOR)
        found(ENTRY, BLOBS).apply(entry, blobs.__getitem__)


def test_an_envelope_has_a_largest_size_whoever_merges_it() -> None:
    parts = [
        envelope.join(b"x", {Digest(f"{n:064x}"): bytes(64) for n in range(first, first + 4000)})
        for first in (0, 4000)
    ]
    assert len(envelope.merge(parts[:1])) < envelope.MAX_GATHERED_BYTES
    with pytest.raises(FormatError, match="together"):
        envelope.merge(parts)
