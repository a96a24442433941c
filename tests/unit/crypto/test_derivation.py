"""The short ways through key derivation and the keystream against the long ones.

Numbers from a table, and what a series of keys shares, are compared with a field, and a key, at a
time.

Planted and caught: the table of numbers read up to 1,024 inclusive, and begun at 1; a series
without its label, its fields, its last byte; dealer and recipient exchanged, the two secrets of a
pair too; a context without its recipient; more bytes taken than a step has zeros.
"""

import hmac
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from treaty.crypto import derivation
from treaty.crypto.derivation import DOMAIN, Field
from treaty.crypto.prg import Keystream
from treaty.errors import UsageError
from treaty.protocol import secagg_keys as keys

NUMBERS = st.one_of(st.integers(0, 2000), st.integers(0, 2**64 - 1))
FIELDS = st.lists(st.one_of(NUMBERS, st.binary(max_size=70), st.text(max_size=20)), max_size=5)


def _written(fields: Sequence[Field]) -> bytes:
    """Return what `enc` says of itself, a field at a time."""
    data = [
        field.to_bytes(8, "big")
        if isinstance(field, int)
        else field.encode()
        if isinstance(field, str)
        else field
        for field in fields
    ]
    return b"".join(len(one).to_bytes(4, "big") + one for one in data)


@given(FIELDS)
@example([0, 1, 1023, 1024, 1025, 2**64 - 1])
@example([b"x" * 64, b"x" * 65])
def test_fields_are_written_by_the_rule(fields: list[Field]) -> None:
    """Also where a number comes from the table of small ones."""
    assert derivation.enc(*fields) == _written(fields)


@given(st.binary(min_size=32, max_size=32), FIELDS)
def test_a_key_is_the_hmac_of_domain_label_fields_and_one(key: bytes, fields: list[Field]) -> None:
    """`kdf` against its definition, written with the standard library."""
    message = _written([DOMAIN, "label", *fields]) + b"\x01"
    assert derivation.kdf(key, "label", *fields) == hmac.digest(key, message, "sha256")


@given(st.binary(min_size=32, max_size=32), FIELDS, st.lists(NUMBERS, max_size=4))
def test_a_series_gives_the_keys_one_at_a_time(
    key: bytes, fields: list[Field], numbers: list[int]
) -> None:
    """In any order, and again."""
    series = derivation.kdf_series(key, "label", *fields)
    for number in (*numbers, *numbers):
        assert series(number) == derivation.kdf(key, "label", *fields, number)


@pytest.mark.parametrize("number", [-1, 2**64, True])
def test_a_series_refuses_what_is_no_number(number: int) -> None:
    """As `enc` does."""
    with pytest.raises(UsageError):
        derivation.kdf_series(bytes(32), "label")(number)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_keys_of_an_epoch_are_those_of_its_slots(one: bytes, two: bytes) -> None:
    """Made for all slots at once they are those that the specification derives for each."""
    epoch_hash = two.hex()
    shares, contexts = keys.share_keys(one, 3, 5), keys.share_contexts(epoch_hash, 3, 5)
    pairs = keys.pair_seeds(one, two, range(4))
    for slot in range(4):
        assert shares(slot) == derivation.kdf(one, "share", 3, 5, slot)
        assert contexts(slot) == derivation.enc(two, 3, 5, slot)
        assert pairs[slot] == derivation.kdf(derivation.extract(one, two), "pq", slot)


@given(st.lists(st.integers(0, 300_000), max_size=4), st.integers(0, 3))
def test_bytes_taken_are_those_that_fill_a_buffer(sizes: list[int], block: int) -> None:
    """Small pieces are taken in one call, large ones in steps; from the first block and others."""
    taking, filling = (Keystream(bytes(range(32)), block) for _ in range(2))
    for size in sizes:
        buffer = bytearray(size)
        filling.fill(buffer)
        assert taking.take(size) == buffer
