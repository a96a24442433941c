"""Parsers of what peers send: a value, or `FormatError`, whatever the bytes are.

Random bytes, random JSON in the right frame, and damaged genuine messages. Planted and caught:
a decoder that lets errors of encoding through; a frame whose lengths are not compared.
"""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds import (
    COORDINATOR,
    World,
    approval,
    digest,
    small_charter,
    small_contract,
    small_plan,
)
from treaty.contracts.schema import contract_bytes, contract_from_bytes
from treaty.crypto import canonical, envelope
from treaty.errors import FormatError, PeerError, PolicyError
from treaty.governance.charter import charter_bytes, parse_charter
from treaty.ids import MemberId
from treaty.protocol.frames import Feed, Post, decode_feed, decode_post, encode_frame
from treaty.protocol.statements import PREDICATE_BASE, peek
from treaty.studies.plan import parse_plan, plan_bytes

WORLD = World()
WORLD.start()
WORLD.open_epoch()
WORLD.open_round()
WORLD.collect()
PLAN = small_plan(small_charter(), small_contract())
BLOB = {canonical.sha256(b"blob"): b"blob"}
PARSERS = {
    "feed": (decode_feed, encode_frame(Feed(0, tuple(WORLD.entries[:3]), "note", BLOB))),
    "post": (
        decode_post,
        encode_frame(Post(MemberId("aare.example"), 3, "line", tuple(WORLD.entries[4:6]), BLOB)),
    ),
    "statement": (peek, WORLD.entries[-1]),
    "envelope": (envelope.parse, WORLD.entries[2]),
    "plan": (parse_plan, plan_bytes(PLAN)),
    "charter": (parse_charter, charter_bytes(small_charter())),
    "contract": (contract_from_bytes, contract_bytes(small_contract())),
}
LEAVES = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=12)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("name", PARSERS)
def test_the_genuine_message_is_read(name: str) -> None:
    parse, genuine = PARSERS[name]
    assert parse(genuine) is not None


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=200))
def test_random_bytes(name: str, data: bytes) -> None:
    with pytest.raises(FormatError):
        PARSERS[name][0](data)


@pytest.mark.parametrize("name", PARSERS)
def test_damaged_messages(name: str) -> None:
    """Cut, repeated, and with bytes changed: another value or a format error, nothing else."""
    parse, genuine = PARSERS[name]
    draw = random.Random(name)
    for _ in range(300):
        damaged = bytearray(genuine)
        for _ in range(draw.choice((1, 1, 2, 8))):
            place = draw.randrange(len(damaged))
            match draw.randrange(4):
                case 0:
                    damaged[place] ^= 1 << draw.randrange(8)
                case 1:
                    damaged[place] = draw.choice(b'{}[]",:0129\\ u\xff\x00')
                case 2:
                    del damaged[place : place + draw.randrange(1, 9)]
                case _:
                    damaged[place:place] = damaged[place : place + draw.randrange(1, 30)]
        if bytes(damaged) == genuine:
            continue
        try:
            found = parse(bytes(damaged))
        except FormatError:
            continue
        assert found != parse(genuine)


@given(TREES, st.sampled_from(["ballot/v1", "charter/v1", "reveal/v1", "round-opened/v1", "x"]))
def test_random_predicates_in_a_genuine_frame(tree: object, name: str) -> None:
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "predicate": tree,
        "predicateType": PREDICATE_BASE + name,
        "subject": [{"digest": {"sha256": digest("x")}, "name": "x"}],
    }
    payload = msgspec.json.encode(statement, order="sorted")
    with pytest.raises(FormatError):
        peek(envelope.seal(payload, [approval("aare.example")]))


@given(TREES)
def test_random_trees_are_no_plan_charter_or_contract(tree: object) -> None:
    data = msgspec.json.encode(tree, order="sorted")
    for name in ("plan", "charter", "contract"):
        with pytest.raises(FormatError):
            PARSERS[name][0](data)


def test_signed_nonsense_never_breaks_the_fold() -> None:
    """A genuine key over changed fields: refused as a peer's or the charter's fault, no bug."""
    draw = random.Random(7)
    refused = 0
    for entry in WORLD.entries * 6:
        frame = msgspec.json.decode(envelope.parse(entry).payload)
        predicate = frame["predicate"]
        field = draw.choice(sorted(predicate))
        predicate[field] = draw.choice(
            [
                None,
                0,
                2**53 - 1,
                "",
                "aare.example",
                digest("other"),
                [],
                {},
                True,
                predicate[field],
            ]
        )
        payload = msgspec.json.encode(frame, order="sorted")
        for signer in (COORDINATOR, approval("aare.example")):
            try:
                WORLD.state.apply(envelope.seal(payload, [signer]), WORLD.find)
            except (PeerError, PolicyError):
                refused += 1
    assert refused > 300
