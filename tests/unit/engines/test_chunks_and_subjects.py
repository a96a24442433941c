"""Chunks of objects, names on the server, and the permissions that the configuration gives.

Planted and caught: an empty object without a piece, a header whose pieces do not add up, a dot that
stays in a token, a permission to create consumers, one member's subjects in another's permissions,
a key of nobody in the configuration.
"""

import json

import pytest

from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.crypto.transport_keys import nkey_of
from treaty.engines.chunks import CHUNK_BYTES, decode_header, header_of, pieces
from treaty.engines.server_config import ServerSettings, server_config
from treaty.engines.subjects import Subjects
from treaty.errors import FormatError
from treaty.ids import MemberId

HUB, A, AB = MemberId("hub"), MemberId("a.example"), MemberId("a.example-b")
NAMES = Subjects("x.example", HUB)


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
def test_pieces_are_the_object_and_the_header_says_so(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    cut = pieces(data)
    assert b"".join(cut) == data
    assert all(len(one) == CHUNK_BYTES for one in cut[:-1]) and len(cut[-1]) <= CHUNK_BYTES
    header = decode_header(header_of(data))
    assert header.size_bytes == size
    assert header.chunks == tuple(sha256(bytes(one)) for one in cut)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'{"chunks":[],"format":"treaty.object/v1","size_bytes":0}',
        b'{"chunks":["' + b"0" * 64 + b'"],"format":"treaty.object/v1","size_bytes":4194305}',
        b'{"chunks":["' + b"0" * 64 + b'"],"format":"treaty.object/v1","size_bytes":-1}',
        b'{"chunks":["' + b"0" * 64 + b'"],"format":"treaty.object/v1","size_bytes":9999999999}',
    ],
)
def test_a_header_that_does_not_add_up_is_refused(text: bytes) -> None:
    with pytest.raises(FormatError):
        decode_header(text)


def test_names_of_parties_become_single_different_tokens() -> None:
    names = [MemberId(text) for text in ("a.b", "a-b", "ab", "a.b.c", "a--b")]
    for make in (NAMES.up, NAMES.down, NAMES.objects, NAMES.up_stream, NAMES.inbox):
        found = [make(name) for name in names]
        assert len(set(found)) == len(names)
        assert len({text.count(".") for text in found}) == 1
        assert not any(set(text) & set("*> ") for text in found)
    streams = {
        make(name)
        for name in names
        for make in (NAMES.up_stream, NAMES.down_stream, NAMES.object_stream)
    }
    assert len(streams) == 3 * len(names) and not any("." in text for text in streams)


def matches(pattern: str, subject: str) -> bool:
    """The rule of NATS: a star is one token, a trailing > one or more."""
    want, have = pattern.split("."), subject.split(".")
    if want[-1] == ">":
        want, have = want[:-1], have[: len(want) - 1] if len(have) >= len(want) else ["\0"]
    return len(want) == len(have) and all(w in ("*", h) for w, h in zip(want, have, strict=True))


def test_a_member_may_use_its_own_subjects_and_no_others() -> None:
    may = NAMES.member_permissions(A)
    own = [
        NAMES.up(A),
        f"{NAMES.objects(A)}.{'0' * 64}.head",
        f"$JS.API.CONSUMER.MSG.NEXT.{NAMES.down_stream(A)}.{NAMES.consumer(A)}",
        f"$JS.ACK.{NAMES.down_stream(A)}.{NAMES.consumer(A)}.1.2.3.4.5",
        f"$JS.API.STREAM.INFO.{NAMES.object_stream(A)}",
        f"$JS.API.DIRECT.GET.{NAMES.object_stream(HUB)}.{NAMES.objects(HUB)}.{'0' * 64}.head",
    ]
    for subject in own:
        assert [p for p in may.publish if matches(p, subject)], subject
    forbidden = [
        NAMES.up(AB),
        NAMES.down(A),
        NAMES.down(AB),
        f"{NAMES.objects(AB)}.{'0' * 64}.head",
        f"{NAMES.objects(HUB)}.{'0' * 64}.head",
        f"$JS.API.CONSUMER.MSG.NEXT.{NAMES.down_stream(AB)}.{NAMES.consumer(AB)}",
        f"$JS.API.CONSUMER.MSG.NEXT.{NAMES.up_stream(A)}.{NAMES.consumer(HUB)}",
        f"$JS.ACK.{NAMES.down_stream(AB)}.{NAMES.consumer(AB)}.1.2.3.4.5",
        f"$JS.API.DIRECT.GET.{NAMES.object_stream(AB)}.{NAMES.objects(AB)}.{'0' * 64}.head",
        f"$JS.API.CONSUMER.CREATE.{NAMES.down_stream(A)}",
        f"$JS.API.CONSUMER.DURABLE.CREATE.{NAMES.down_stream(A)}.{NAMES.consumer(A)}",
        "$JS.API.STREAM.CREATE.mine",
        f"$JS.API.STREAM.DELETE.{NAMES.object_stream(A)}",
        f"$JS.API.STREAM.PURGE.{NAMES.up_stream(A)}",
        f"{NAMES.inbox(AB)}.replies.1",
    ]
    for subject in forbidden:
        assert not [p for p in may.publish if matches(p, subject)], subject
    for subject in (NAMES.down(A), NAMES.up(AB), f"{NAMES.inbox(AB)}.replies.1", ">"):
        assert not [p for p in may.subscribe if matches(p, subject)], subject


def test_the_configuration_lists_the_given_keys_and_nobody_else() -> None:
    keys = {name: SigningKey(bytes([number]) * 32) for number, name in enumerate((HUB, A, AB), 1)}
    known = {A: [keys[A].public, SigningKey(b"n" * 32).public], AB: [keys[AB].public]}
    settings = ServerSettings("/srv/treaty", "0.0.0.0", 4222, 443)
    config = json.loads(server_config(settings, NAMES, keys[HUB].public, known))
    users = config["authorization"]["users"]
    expected = [nkey_of(keys[HUB].public)]
    expected += [nkey_of(key) for key in known[A]]
    expected += [nkey_of(keys[AB].public)]
    assert [user["nkey"] for user in users] == expected
    assert set(config["authorization"]) == {"users"}
    assert config["max_payload"] == 8 << 20
    for part in (config["tls"], config["websocket"]["tls"]):
        assert part["min_version"] == "1.3"
    assert config["tls"]["handshake_first"] is True
    for user, member in zip(users[1:], (A, A, AB), strict=True):
        may = NAMES.member_permissions(member)
        assert user["permissions"]["publish"] == {"allow": list(may.publish)}
        assert user["permissions"]["subscribe"] == {"allow": list(may.subscribe)}
