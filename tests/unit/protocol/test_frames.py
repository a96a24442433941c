"""Frames: what goes over the wire comes back the same, and nothing else comes back.

Planted and caught: no check of a blob's digest; no check of the total length; the same blob twice
accepted; the size limit lifted.
"""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from treaty.crypto import canonical
from treaty.errors import FormatError
from treaty.ids import MemberId
from treaty.protocol.frames import (
    MAX_FRAME_BYTES,
    Feed,
    Post,
    decode_feed,
    decode_post,
    encode_frame,
)

chunks = st.lists(st.binary(max_size=40), max_size=4).map(tuple)
blobs = st.lists(st.binary(max_size=40), max_size=4, unique=True).map(
    lambda parts: {canonical.sha256(part): part for part in parts}
)
counts = st.integers(0, 2**53 - 1)
feeds = st.builds(Feed, counts, chunks, st.text(max_size=20), blobs)
posts = st.builds(
    Post, st.just(MemberId("aare.example")), counts, st.text(max_size=20), chunks, blobs
)
FRAME = encode_frame(Feed(3, (b"one", b"two"), "note", {canonical.sha256(b"blob"): b"blob"}))


def assemble(header: object, *parts: bytes) -> bytes:
    head = canonical.encode(header)
    return b"".join((len(head).to_bytes(4, "big"), head, *parts))


def header_of(frame: bytes) -> dict[str, object]:
    size = int.from_bytes(frame[:4], "big")
    found: dict[str, object] = msgspec.json.decode(frame[4 : 4 + size])
    return found


@given(feeds)
def test_a_feed_comes_back_the_same(feed: Feed) -> None:
    assert decode_feed(encode_frame(feed)) == feed


@given(posts)
def test_a_post_comes_back_the_same(post: Post) -> None:
    assert decode_post(encode_frame(post)) == post


@given(st.integers(0, len(FRAME) - 1), st.integers(1, 255))
def test_a_changed_byte_never_gives_the_same_feed(place: int, change: int) -> None:
    damaged = bytearray(FRAME)
    damaged[place] ^= change
    try:
        found = decode_feed(bytes(damaged))
    except FormatError:
        return
    assert found != decode_feed(FRAME)
    assert encode_frame(found) == bytes(damaged)


@pytest.mark.parametrize("size", range(len(FRAME)))
def test_a_cut_frame_is_refused(size: int) -> None:
    with pytest.raises(FormatError):
        decode_feed(FRAME[:size])


def test_bytes_behind_the_last_part_are_refused() -> None:
    with pytest.raises(FormatError, match="expected 10 bytes after the frame header, got 11"):
        decode_feed(FRAME + b"x")


def test_a_feed_is_no_post() -> None:
    with pytest.raises(FormatError):
        decode_post(FRAME)


def test_a_blob_has_its_digest() -> None:
    with pytest.raises(FormatError, match="does not have its digest"):
        decode_feed(FRAME[:-1] + b"x")


def test_a_blob_is_attached_once() -> None:
    header = header_of(FRAME)
    part = {"digest": canonical.sha256(b"blob"), "size_bytes": 4}
    header["blobs"] = [part, part]
    with pytest.raises(FormatError, match="each blob once"):
        decode_feed(assemble(header, b"one", b"two", b"blob", b"blob"))


def test_a_frame_beyond_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(FormatError, match="at most"):
        decode_feed(bytes(MAX_FRAME_BYTES + 1))


@pytest.mark.parametrize("claimed", [0, 1 << 20, (1 << 20) + 1, (1 << 32) - 1])
def test_a_header_that_does_not_fit_is_refused(claimed: int) -> None:
    with pytest.raises(FormatError):
        decode_feed(claimed.to_bytes(4, "big") + b"{}")


@pytest.mark.parametrize(
    "field, value",
    [
        ("format", "treaty.feed/v2"),
        ("first", -1),
        ("entries", [3, -3, 6]),
        ("entries", [2**53 - 1, 3]),
        ("checkpoint", None),
        ("extra", 1),
        ("blobs", [{"digest": "00", "size_bytes": 4}]),
    ],
)
def test_a_header_with_another_shape_is_refused(field: str, value: object) -> None:
    header = header_of(FRAME) | {field: value}
    with pytest.raises(FormatError):
        decode_feed(assemble(header, b"one", b"two", b"blob"))
