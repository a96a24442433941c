"""Secret sharing, derivation and the mask generator against definitions and published answers.

Planted and caught: one coefficient too few, the secret as the top coefficient, the modulus
2^256 - 188, lengths left out of `enc`, text and integers of other widths, seek in bytes, the
counter little-endian, a scattered buffer taken to be filled often.
"""

import itertools
import random
from collections import Counter

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from treaty.crypto import derivation, shamir
from treaty.crypto.prg import BLOCK_BYTES, Keystream
from treaty.errors import FormatError, UsageError

P = shamir.MODULUS
ELEMENTS = st.integers(0, P - 1)


def test_every_subset_of_threshold_shares_gives_the_secret() -> None:
    """For every threshold of up to six members, completely."""
    randomness = random.Random(1).randbytes
    for members in range(1, 7):
        for threshold in range(1, members + 1):
            shares = shamir.deal(P - 7, threshold, range(1, members + 1), randomness)
            for chosen in itertools.combinations(shares, threshold):
                assert shamir.combine({point: shares[point] for point in chosen}) == P - 7
            assert shamir.combine(shares) == P - 7


def test_one_share_alone_is_the_one_that_is_dealt() -> None:
    """With the same randomness, for every threshold and point of up to six members."""
    for members in range(1, 7):
        for threshold in range(1, members + 1):
            points = range(1, members + 1)
            dealt = shamir.deal(P - 7, threshold, points, random.Random(1).randbytes)
            for point in points:
                share = shamir.share_at(P - 7, threshold, point, random.Random(1).randbytes)
                assert share == dealt[point]
    for secret, threshold, point in ((P, 1, 1), (-1, 1, 1), (0, 0, 1), (0, 1, 0), (0, 1, P)):
        with pytest.raises(UsageError):
            shamir.share_at(secret, threshold, point, random.Random(1).randbytes)


def test_one_share_too_few_is_independent_of_the_secret() -> None:
    """Whatever the secret, some randomness gives the same t - 1 shares: here of a line."""
    share = shamir.deal(5, 2, [7, 8], random.Random(1).randbytes)[7]
    for secret in (0, 1, 5, P - 1):
        slope = (share - secret) * pow(7, -1, P) % P
        dealt = shamir.deal(secret, 2, [7, 8], lambda size, one=slope: one.to_bytes(size, "big"))
        assert dealt[7] == share


def test_randomness_is_used_for_every_coefficient_but_the_secret() -> None:
    """t - 1 draws; the shares are those of the polynomial drawn, evaluated by hand."""
    drawn = iter([2, 3])
    shares = shamir.deal(1, 3, [1, 10, 11], lambda size: next(drawn).to_bytes(size, "big"))
    assert shares == {1: 1 + 2 + 3, 10: 1 + 20 + 300, 11: 1 + 22 + 363}
    assert next(drawn, None) is None


def test_draws_at_and_above_the_modulus_are_thrown_away() -> None:
    """Reduction would favour small elements."""
    draws = iter([P, 2**256 - 1, P - 1])
    assert shamir.draw_element(lambda size: next(draws).to_bytes(size, "big")) == P - 1


def test_the_modulus_is_prime() -> None:
    """Fermat and Miller-Rabin to the first twelve primes: 2^256 - 189."""
    assert P == 2**256 - 189
    odd, twos = P - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for witness in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37):
        value = pow(witness, odd, P)
        chain = [pow(value, 1 << step, P) for step in range(twos)]
        assert value == 1 or P - 1 in chain


@given(st.lists(ELEMENTS, min_size=1, max_size=6, unique=True), st.data())
def test_sharing_is_linear(secrets: list[int], data: st.DataObject) -> None:
    """Sums of shares are shares of the sum."""
    randomness = random.Random(data.draw(st.integers(0, 2**32))).randbytes
    dealt = [shamir.deal(secret, 2, [1, 2, 3], randomness) for secret in secrets]
    total = {point: sum(one[point] for one in dealt) % P for point in (2, 3)}
    assert shamir.combine(total) == sum(secrets) % P


BAD_DEALS = {
    "threshold zero": (1, 0, [1, 2]),
    "more than the shares": (1, 3, [1, 2]),
    "a point at zero": (1, 1, [0, 1]),
    "a point at p": (1, 1, [P]),
    "a point twice": (1, 1, [1, 1]),
    "a secret outside": (P, 1, [1]),
    "a negative secret": (-1, 1, [1]),
}


@pytest.mark.parametrize(("secret", "threshold", "points"), BAD_DEALS.values(), ids=BAD_DEALS)
def test_bad_deals_are_refused(secret: int, threshold: int, points: list[int]) -> None:
    """A point at zero would hand out the secret itself."""
    with pytest.raises(UsageError):
        shamir.deal(secret, threshold, points, random.Random(1).randbytes)


def test_bad_shares_are_refused() -> None:
    """A value outside the field is the peer's, no share or a zero point ours."""
    for value in (P, -1, 2**256):
        with pytest.raises(FormatError):
            shamir.combine({1: value})
    for shares in ({}, {0: 1}, {P: 1}):
        with pytest.raises(UsageError):
            shamir.combine(shares)


@given(ELEMENTS)
def test_elements_round_trip(value: int) -> None:
    """32 bytes, big-endian."""
    data = shamir.encode_element(value)
    assert len(data) == 32
    assert shamir.decode_element(data) == value


@pytest.mark.parametrize("data", [b"", bytes(31), bytes(33), P.to_bytes(32, "big"), b"\xff" * 32])
def test_bytes_that_are_no_element_are_refused(data: bytes) -> None:
    """A second spelling of an element would change digests."""
    with pytest.raises(FormatError):
        shamir.decode_element(data)
    with pytest.raises(UsageError):
        shamir.encode_element(P)


def test_enc_is_written_by_the_rule() -> None:
    """Length in 4 bytes; text in UTF-8; integers in 8 bytes."""
    expected = "00000000" + "00000002c3a9" + "000000080000000000000007" + "00000001ff"
    assert derivation.enc(b"", "é", 7, b"\xff").hex() == expected


@given(st.lists(st.binary(max_size=6), max_size=4), st.lists(st.binary(max_size=6), max_size=4))
def test_enc_is_injective(one: list[bytes], two: list[bytes]) -> None:
    """Two sequences with one encoding are one sequence."""
    assert (derivation.enc(*one) == derivation.enc(*two)) == (one == two)


@pytest.mark.parametrize("field", [-1, 2**64, True])
def test_integers_outside_64_bits_have_no_encoding(field: int) -> None:
    """A boolean is not a number here."""
    with pytest.raises(UsageError):
        derivation.enc(field)


def test_extract_is_that_of_rfc_5869() -> None:
    """Appendix A.1."""
    prk = derivation.extract(bytes(range(13)), b"\x0b" * 22)
    assert prk.hex() == "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"


def test_kdf_is_one_block_of_hkdf_expand() -> None:
    """The library's HKDF with our fields as its info."""
    info = derivation.enc(derivation.DOMAIN, "pair", b"context", 1, 2)
    expanded = HKDFExpand(hashes.SHA256(), 32, info).derive(bytes(32))
    assert derivation.kdf(bytes(32), "pair", b"context", 1, 2) == expanded


def test_labels_separate() -> None:
    """Label, order and grouping of fields all matter; a key is never a hash."""
    made = [
        derivation.labelled_hash("self", b"a", b"b"),
        derivation.labelled_hash("pair", b"a", b"b"),
        derivation.labelled_hash("self", b"b", b"a"),
        derivation.labelled_hash("self", b"ab"),
        derivation.labelled_hash("self", b"a", b"b", b""),
        derivation.kdf(bytes(32), "self", b"a", b"b"),
        derivation.kdf(bytes(32), "pair", b"a", b"b"),
    ]
    assert max(Counter(made).values()) == 1


def test_the_stream_of_the_zero_key_is_the_published_one() -> None:
    """Blocks 0, 1 and 2 are H, E(K, Y0) and E(K, Y1) of the GCM specification, cases 13, 14."""
    assert Keystream(bytes(32)).take(48).hex() == (
        "dc95c078a2408989ad48a21492842087"
        "530f8afbc74536b9a963b4f1c4cb738b"
        "cea7403d4d606b6e074ec5d3baf39d18"
    )


@given(st.lists(st.integers(0, 700_000), max_size=5))
def test_filling_in_pieces_gives_one_stream(sizes: list[int]) -> None:
    """Pieces of any length, across the 256 KiB step, join to the stream."""
    key = bytes(range(32))
    stream = Keystream(key)
    pieces = b"".join(stream.take(size) for size in sizes)
    assert pieces == Keystream(key).take(sum(sizes))


@given(st.integers(0, 40_000), st.integers(0, 100))
def test_seek_continues_at_a_block(block: int, size: int) -> None:
    """Any chunk can be made again alone."""
    key = bytes(range(32))
    whole = Keystream(key).take(BLOCK_BYTES * 40_100 + 100)
    stream = Keystream(key)
    stream.take(5)
    stream.seek(block)
    expected = whole[BLOCK_BYTES * block :][:size]
    assert stream.take(size) == Keystream(key, block).take(size) == expected


def test_a_stream_fills_an_array_in_place() -> None:
    """The items of a view of any type are the bytes of the stream."""
    words = memoryview(bytearray(64)).cast("I")
    Keystream(bytes(32)).fill(words)
    assert words.tobytes() == Keystream(bytes(32)).take(64)


@pytest.mark.parametrize("size", [0, 1, 40, 1 << 18, (1 << 18) + 1, 1 << 19])
def test_a_buffer_that_is_filled_often_gets_the_stream_piece_by_piece(size: int) -> None:
    """The same bytes as `fill` gives, and `fill` goes on behind them."""
    key, buffer = bytes(range(32)), bytearray(size)
    stream = Keystream(key, 5)
    fill = stream.filling(buffer)
    found = b""
    for _ in range(3):
        fill()
        found += bytes(buffer)
    assert found + stream.take(7) == Keystream(key, 5).take(3 * size + 7)
    with pytest.raises(UsageError, match="writable and contiguous"):
        stream.filling(memoryview(bytes(8)))


@pytest.mark.parametrize("buffer", [memoryview(bytes(8)), memoryview(bytearray(8))[::2]])
def test_a_buffer_is_writable_and_contiguous(buffer: memoryview) -> None:
    """Otherwise the caller's mistake is named, before a byte of the stream is used."""
    for ask in (Keystream(bytes(32)).fill, Keystream(bytes(32)).filling):
        with pytest.raises(UsageError, match="writable and contiguous"):
            ask(buffer)


def test_keys_and_blocks_are_bounded() -> None:
    """Half a key is no key."""
    with pytest.raises(UsageError):
        Keystream(bytes(16))
    for block in (-1, 2**64):
        with pytest.raises(UsageError):
            Keystream(bytes(32), block)
    assert repr(Keystream(bytes(32))) == "Keystream"
