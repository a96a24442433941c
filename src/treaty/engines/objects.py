"""Objects: large bytes in pieces through the streams of a NATS server.

Guarantees (docs/spec/transport.md, section 4): a piece counts only if its digest is the header's,
the whole only if its digest is the one asked for. What a sender had sent before a loss is not sent
again; what a reader had read is kept for its next attempt.

Everything here runs in the engine's loop.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import msgspec

from treaty.crypto.canonical import sha256
from treaty.engines.chunks import CHUNK_BYTES, HEAD, decode_header, header_of, pieces
from treaty.engines.nats_link import Incoming, Link
from treaty.engines.object_checks import check_size
from treaty.engines.subjects import Subjects
from treaty.errors import (
    FormatError,
    PeerError,
    PolicyError,
    ResourceError,
    TreatyError,
    VerificationError,
)
from treaty.ids import Digest, MemberId

__all__ = ["CHUNK_S", "Objects"]

ANSWER_S = 5.0
"""How long the server may take to answer a question."""

OUTAGE_S = 2.0
"""How long an outage of the server is waited for before sends fail at once."""

CHUNK_S = 30.0
"""How long one chunk may take, either way."""

CHUNKS_AT_ONCE = 4

_T = TypeVar("_T")


class _StreamState(msgspec.Struct):
    subjects: dict[str, int] | None = None


class _StreamInfo(msgspec.Struct):
    state: _StreamState | None = None


class Objects:
    """What `party` offers, and what it fetches from `offerers`."""

    def __init__(
        self, link: Link, subjects: Subjects, party: MemberId, offerers: tuple[MemberId, ...]
    ) -> None:
        self._link = link
        self._subjects = subjects
        self._party = party
        self._offerers = offerers
        self._partial: tuple[Digest, dict[int, bytes]] | None = None
        self.moved = 0
        """How many pieces have passed, either way: what tells a long transfer from a standstill."""

    async def store(
        self, subject: str, data: bytes | memoryview, headers: Mapping[str, str], patience_s: float
    ) -> None:
        """Publish until the server has confirmed, within `patience_s`; repetition is harmless."""

        async def once() -> None:
            answer = await self._link.request(subject, data, headers=headers, timeout_s=patience_s)
            _check(answer)

        await self._persist(once, patience_s)

    async def _persist(self, once: Callable[[], Awaitable[_T]], patience_s: float) -> _T:
        """Do `once` until it succeeds, again after a loss of the connection, within a time.

        An outage is waited for once, not by every call: sends must not add up to a standstill.
        """
        end = asyncio.get_running_loop().time() + patience_s
        while True:
            try:
                await self._link.connected(max(OUTAGE_S - self._link.down_for_s, 0.0))
                return await once()
            except ResourceError:
                if asyncio.get_running_loop().time() + 0.1 > end:
                    raise
                await asyncio.sleep(0.1)
            except PolicyError as error:
                raise ResourceError(f"the engine refuses: {error}") from error
            except PeerError as error:
                raise ResourceError(f"the engine cannot be reached: {error}") from error

    async def offer(self, digest: Digest, data: bytes) -> None:
        me = self._party
        stream = self._subjects.object_stream(me)
        prefix = f"{self._subjects.objects(me)}.{digest}"

        async def look() -> set[str]:
            question = msgspec.json.encode({"subjects_filter": f"{prefix}.>"})
            answer = await self._link.request(
                f"$JS.API.STREAM.INFO.{stream}", question, timeout_s=ANSWER_S
            )
            _check(answer)
            info = msgspec.json.decode(answer.data, type=_StreamInfo)
            return set((info.state and info.state.subjects) or {})

        present = await self._persist(look, CHUNK_S)
        parts: list[tuple[str, bytes | memoryview]] = [(HEAD, header_of(data))]
        parts += [(str(number), piece) for number, piece in enumerate(pieces(data))]
        missing = [part for part in parts if f"{prefix}.{part[0]}" not in present]
        gate = asyncio.Semaphore(CHUNKS_AT_ONCE)

        async def put(name: str, piece: bytes | memoryview) -> None:
            async with gate:
                await self.store(f"{prefix}.{name}", piece, {}, CHUNK_S)
            self.moved += 1

        if missing and missing[0][0] == HEAD:
            await put(*missing.pop(0))
        await asyncio.gather(*(put(name, piece) for name, piece in missing))

    # --- fetching -----------------------------------------------------------------------------

    async def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        offers = await asyncio.gather(
            *(self._piece(one, digest, HEAD, ANSWER_S) for one in self._offerers)
        )
        refusal: TreatyError = ResourceError(
            f"object {digest} is not offered by anyone: try again once a peer offers it"
        )
        for offerer, head in zip(self._offerers, offers, strict=True):
            if head is None:
                continue
            try:
                return await self._assemble(offerer, digest, head, most_bytes)
            except (PeerError, ResourceError) as error:
                # Another party may offer the same object whole.
                refusal = error
        raise refusal

    async def _assemble(
        self, offerer: MemberId, digest: Digest, head: bytes, most_bytes: int
    ) -> bytes:
        try:
            header = decode_header(head)
        except FormatError as error:
            raise _mismatch(digest, f"has no valid header: {error}") from error
        check_size(digest, header.size_bytes, most_bytes)
        if self._partial is None or self._partial[0] != digest:
            self._partial = (digest, {})
        kept = self._partial[1]
        gate = asyncio.Semaphore(CHUNKS_AT_ONCE)

        async def get(number: int, expected: str) -> None:
            if number in kept and sha256(kept[number]) == expected:
                return
            async with gate:
                data = await self._piece(offerer, digest, str(number), CHUNK_S)
            if data is None:
                raise ResourceError(
                    f"object {digest} is half sent: try again once {offerer} has sent the rest"
                )
            if len(data) > CHUNK_BYTES or sha256(data) != expected:
                raise _mismatch(digest, f"has another piece {number} than its header says")
            kept[number] = data
            self.moved += 1

        results = await asyncio.gather(
            *(get(number, one) for number, one in enumerate(header.chunks)), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result
        self._partial = None
        whole = b"".join(kept[number] for number in range(len(header.chunks)))
        if sha256(whole) != digest or len(whole) != header.size_bytes:
            raise _mismatch(digest, f"arrived with digest {sha256(whole)}, {len(whole)} bytes")
        return whole

    async def _piece(
        self, offerer: MemberId, digest: Digest, piece: str, patience_s: float
    ) -> bytes | None:
        """Return one piece of an object, None when it is not there."""
        subject = self._subjects.piece(offerer, digest, piece)
        stream = self._subjects.object_stream(offerer)

        async def once() -> bytes | None:
            answer = await self._link.request(
                f"$JS.API.DIRECT.GET.{stream}.{subject}", timeout_s=patience_s
            )
            return answer.data if answer.status == 0 else None

        return await self._persist(once, patience_s)


class _ApiError(msgspec.Struct):
    code: int = 0
    description: str = ""


class _ApiAnswer(msgspec.Struct):
    error: _ApiError | None = None


def _check(answer: Incoming) -> None:
    """Raise `ResourceError` when the server's answer is a refusal."""
    try:
        found = msgspec.json.decode(answer.data, type=_ApiAnswer)
    except msgspec.MsgspecError as error:
        raise ResourceError("the engine's server answers unreadably") from error
    if found.error is not None:
        raise ResourceError(f"the engine's server refuses: {found.error.description}")


def _mismatch(digest: Digest, what: str) -> VerificationError:
    return VerificationError(f"object {digest} {what}: fetch it again", code="blob-mismatch")
