"""Compact statements: what a post carries comes back bit by bit, in one spelling, and short.

Planted and caught: digests left as text; signatures that are not sorted accepted; an envelope
accepted as it stands; the type's whole address accepted; hexadecimal digits accepted where 32 bytes
belong; the size of an entry not compared; more signatures counted than a byte holds; nothing, or a
header without its type, read all the same; a key that signs twice; signatures handed on in the
order of the signers; a body handed on as it was given, not as it is read; nothing taken for the
predicate of a type that nobody knows.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.worlds import World, runner
from treaty.crypto import canonical, envelope
from treaty.errors import FormatError
from treaty.ids import Digest
from treaty.protocol.compact import compact, expand, expanded
from treaty.protocol.secagg_messages import EpochSealed, LedgerMark, MaskedInput
from treaty.protocol.statements import (
    PREDICATE_BASE,
    peek,
    seal_statement,
    sealed_and_parsed,
    statement_payload,
)

KEY = runner("aare.example")
MARK = LedgerMark(ledger="1" * 64, head="2" * 64)
INPUT = MaskedInput(
    charter="3" * 64,
    author="aare.example",
    context="4" * 64,
    length=1_000_000,
    root="5" * 64,
    blob="6" * 64,
    ledger=MARK,
    ledger_count=7,
)
SEALED = seal_statement(INPUT, KEY)
SHORT = compact(SEALED)


def parts() -> tuple[bytes, bytes, bytes]:
    """Return signature line, type, and predicate of the compact form."""
    return SHORT[1:97], SHORT[98 : 98 + SHORT[97]], SHORT[98 + SHORT[97] :]


def test_every_statement_of_a_log_comes_back_bit_by_bit() -> None:
    world = World()
    world.start()
    world.open_epoch()
    world.open_round()
    world.collect()
    assert len(world.entries) > 20
    for entry in world.entries:
        assert expand(compact(entry)) == entry
        assert len(compact(entry)) < 0.75 * len(entry)


def test_what_a_reader_of_a_post_gets_parsed_is_what_the_statement_says() -> None:
    """Nobody needs to parse again what was put together, or made, here."""
    world = World()
    world.start()
    world.open_epoch()
    world.open_round()
    world.collect()
    for entry in world.entries:
        parsed = peek(entry)
        assert expanded(compact(entry)) == (entry, parsed)
        assert compact(entry, parsed) == compact(entry)
    for several in (KEY,), (KEY, runner("birs.example"), runner("cama.example")):
        assert sealed_and_parsed(INPUT, *several) == (
            seal_statement(INPUT, *several),
            peek(seal_statement(INPUT, *several)),
        )
        sealed = seal_statement(INPUT, *several)
        assert expanded(compact(sealed)) == (sealed, peek(sealed))
    assert expanded(compact(b"no statement")) == (b"no statement", None)
    listed = EpochSealed(charter="3" * 64, author="a", epoch_hash="4" * 64, dealers=["b"])  # type: ignore[arg-type]  # read as a tuple
    sealed, parsed = sealed_and_parsed(listed, KEY)
    assert parsed == peek(sealed) != (parsed[0], listed)


def test_a_masked_input_takes_less_than_half_of_its_envelope() -> None:
    assert expand(SHORT) == SEALED
    assert len(SHORT) < 500 < 1300 < len(SEALED)


@given(st.binary(max_size=200))
def test_what_is_no_statement_comes_back_too(data: bytes) -> None:
    assert expand(compact(data)) == data


@given(st.integers(0, len(SHORT) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_gives_another_statement(place: int, change: int) -> None:
    damaged = bytearray(SHORT)
    damaged[place] ^= change
    try:
        found = expand(bytes(damaged))
    except FormatError:
        return
    assert found != SEALED
    assert compact(found) == bytes(damaged)


@pytest.mark.parametrize("size", range(len(SHORT)))
def test_a_cut_statement_is_refused(size: int) -> None:
    with pytest.raises(FormatError):
        expand(SHORT[:size])


def test_an_envelope_as_it_stands_is_a_second_spelling() -> None:
    with pytest.raises(FormatError, match="compact form"):
        expand(b"\x00" + SEALED)


def test_digits_where_a_digest_belongs_are_a_second_spelling() -> None:
    line, kind, _ = parts()
    text = canonical.encode(INPUT)
    with pytest.raises(FormatError, match="digests of 32 bytes"):
        expand(b"\x01" + line + bytes([len(kind)]) + kind + text)


def test_the_whole_address_of_our_own_types_is_a_second_spelling() -> None:
    line, kind, rest = parts()
    whole = PREDICATE_BASE.encode() + kind
    with pytest.raises(FormatError, match="known predicate type"):
        expand(b"\x01" + line + bytes([len(whole)]) + whole + rest)


def test_signatures_are_sorted_and_each_key_stands_once() -> None:
    line, kind, rest = parts()
    tail = bytes([len(kind)]) + kind + rest
    lower = bytes(32) + line[32:]
    assert expand(b"\x02" + lower + line + tail)
    for pair in (line + lower, line + line):
        with pytest.raises(FormatError, match="sorted"):
            expand(b"\x02" + pair + tail)


def test_more_signatures_than_a_byte_counts_go_as_they_stand() -> None:
    for count, first in ((255, 255), (256, 0)):
        keys = {Digest(f"{number:064x}"): bytes(64) for number in range(1, count + 1)}
        entry = envelope.join(statement_payload(INPUT), keys)
        assert compact(entry)[0] == first
        assert expand(compact(entry)) == entry


def test_a_type_that_nobody_knows_and_fields_that_are_not_its_own_are_refused() -> None:
    line, _, rest = parts()
    for address in (b"invented/v1", b"reveal/v1", b"\xff"):
        with pytest.raises(FormatError):
            expand(b"\x01" + line + bytes([len(address)]) + address + rest)
    # What is nothing at all is of no type either.
    with pytest.raises(FormatError, match="known predicate type"):
        expand(b"\x01" + line + b"\x0binvented/v1null")


def test_what_would_grow_beyond_an_entry_is_refused() -> None:
    line, kind, rest = parts()
    most = bytes([255]) + b"".join(number.to_bytes(32, "big") + bytes(64) for number in range(255))
    # 255 signatures take more than 44 kB in an envelope; an entry has 65,535 bytes at most.
    assert len(expand(most + bytes([len(kind)]) + kind + rest)) < 65_536
    shares = b"{" + b",".join(b'"m%03d":\x01' % number + bytes(32) for number in range(400)) + b"}"
    reveal = (
        b'{"author":"a","charter":\x01'
        + bytes(32)
        + b',"context":\x01'
        + bytes(32)
        + b',"round_shares":{},"self_shares":'
        + shares
        + b',"survivors":\x01'
        + bytes(32)
        + b"}"
    )
    tail = b"\x09reveal/v1" + reveal
    assert len(expand(b"\x01" + line + tail)) < 65_536
    with pytest.raises(FormatError, match="at most"):
        expand(most + tail)
