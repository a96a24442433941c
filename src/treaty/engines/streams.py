"""Streams: what the coordinator prepares on a NATS server for every member, and with which limits.

Guarantees (docs/spec/transport.md, section 3): a stream that exists is brought to these settings
and loses nothing. A member's consumer hands out one frame at a time, so that frames keep their
order. The coordinator's own consumers are made anew at each of its starts: then what it has not
acknowledged comes again, first and in order.

Limits count messages, not bytes, since a limit in bytes would reserve the disk. When one is
reached the oldest message goes: what a stream loses is sent again, as after any loss.
"""

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from treaty.engines.chunks import CHUNK_BYTES
from treaty.engines.nats_link import Link
from treaty.engines.subjects import Subjects
from treaty.errors import ResourceError
from treaty.ids import MemberId

__all__ = ["ACK_WAIT_S", "prepare"]

ACK_WAIT_S = 2.0
"""After how long without a sign of life a frame in work is handed out again."""

API_S = 5.0
FRAMES_KEPT = 1024
PIECES_KEPT = 1024
OBJECTS_KEPT_S = 24 * 3600
DUPLICATES_S = 120

_SECOND = 10**9
_EXISTS = 10058
_ABSENT = (10014, 10059)


class _Error(msgspec.Struct):
    err_code: int = 0
    description: str = ""


class _Answer(msgspec.Struct):
    error: _Error | None = None


async def prepare(link: Link, subjects: Subjects, members: Iterable[MemberId]) -> None:
    """Make or mend all streams and consumers. Raises `ResourceError` when the server refuses."""
    hub = subjects.coordinator
    await asyncio.gather(
        _objects(link, subjects, hub), *(_member(link, subjects, one) for one in members)
    )


async def _member(link: Link, subjects: Subjects, member: MemberId) -> None:
    up, down = subjects.up_stream(member), subjects.down_stream(member)
    await asyncio.gather(
        _stream(link, up, _queue(subjects.up(member))),
        _stream(link, down, _queue(subjects.down(member))),
        _objects(link, subjects, member),
    )
    hub = subjects.consumer(subjects.coordinator)
    await _ask(link, f"$JS.API.CONSUMER.DELETE.{up}.{hub}", {}, accept=_ABSENT)
    await _consumer(link, up, hub, in_work=256)
    await _consumer(link, down, subjects.consumer(member), in_work=1)


def _queue(subject: str) -> dict[str, object]:
    return {
        "subjects": [subject],
        "retention": "workqueue",
        "max_msgs": FRAMES_KEPT,
        "max_msg_size": CHUNK_BYTES + (64 << 10),
        "duplicate_window": DUPLICATES_S * _SECOND,
    }


async def _objects(link: Link, subjects: Subjects, party: MemberId) -> None:
    settings = {
        "subjects": [f"{subjects.objects(party)}.>"],
        "retention": "limits",
        "max_msgs": PIECES_KEPT,
        "max_msgs_per_subject": 1,
        "max_msg_size": CHUNK_BYTES + (64 << 10),
        "max_age": OBJECTS_KEPT_S * _SECOND,
        "allow_direct": True,
    }
    await _stream(link, subjects.object_stream(party), settings)


async def _stream(link: Link, name: str, settings: Mapping[str, object]) -> None:
    whole = {
        "name": name,
        "storage": "file",
        "discard": "old",
        "deny_delete": False,
        "num_replicas": 1,
        **settings,
    }
    if await _ask(link, f"$JS.API.STREAM.CREATE.{name}", whole, accept=(_EXISTS,)) == _EXISTS:
        await _ask(link, f"$JS.API.STREAM.UPDATE.{name}", whole)


async def _consumer(link: Link, stream: str, name: str, *, in_work: int) -> None:
    whole = {
        "stream_name": stream,
        "config": {
            "durable_name": name,
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_S * _SECOND),
            "max_ack_pending": in_work,
            "deliver_policy": "all",
            "max_deliver": -1,
        },
    }
    await _ask(link, f"$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{name}", whole)


async def _ask(
    link: Link, subject: str, body: Mapping[str, object], *, accept: tuple[int, ...] = ()
) -> int:
    """Ask the server's API; return 0, or the error code where it is one to `accept`."""
    answer = await link.request(subject, msgspec.json.encode(body), timeout_s=API_S)
    try:
        found = msgspec.json.decode(answer.data, type=_Answer)
    except msgspec.MsgspecError as error:
        raise ResourceError("the engine's server answers unreadably") from error
    if found.error is None or found.error.err_code in accept:
        return 0 if found.error is None else found.error.err_code
    raise ResourceError(f"the engine's server refuses {subject}: {found.error.description}")
