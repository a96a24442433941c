"""Endpoint: answers GET requests of a monitoring system, in a thread beside the party.

Guarantees: whoever asks cannot block, stop or exhaust the party. It listens on loopback unless told
otherwise; a connection carries one request and ends within `TIME_S`; a request's head is at most
`HEAD_BYTES`, a body is refused and never read; at most `CONNECTIONS` are open, and about
`REQUESTS_PER_S` are answered a second, beyond which connections are cut. Answers come from a
snapshot: nothing here touches the party's state, store or keys.

LIMIT: there is no encryption and no password. On another address than loopback everybody who
reaches the port reads what it says (docs/spec/operate.md).
"""

import asyncio
import contextlib
import ipaddress
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from treaty.errors import ResourceError, UsageError

__all__ = ["Address", "Answer", "Endpoint", "parse_address"]

TIME_S = 5.0
HEAD_BYTES = 8192
CONNECTIONS = 16
REQUESTS_PER_S = 20
BURST = 40

_START = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,255}) HTTP/1\.[01]")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([ -~\t\x80-\xff]*)")
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the endpoint listens. Port 0 lets the system choose."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Say whether only this machine reaches it."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back: status, type and text."""

    status: int
    content_type: str
    text: str


def parse_address(text: str) -> Address:
    """Return the address of ``HOST:PORT``, ``:PORT`` or ``PORT``; without a host it is loopback.

    The host is an IP address, an IPv6 one in brackets, or ``localhost``. Raises `UsageError`.
    """
    found = re.fullmatch(r"(?:(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9.-]*)):)?([0-9]{1,5})", text)
    if found is None or int(found[3]) > 65535:
        raise UsageError(f"expected HOST:PORT such as 127.0.0.1:9464, got {text!r}")
    host = found[1] or found[2] or "127.0.0.1"
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError as error:
            raise UsageError(f"expected an IP address or localhost, got {host!r}") from error
    return Address(host, int(found[3]))


class Endpoint:
    """A listening socket and its thread. `answer` maps a path to what it says, None if unknown."""

    def __init__(self, address: Address, answer: Callable[[str], Answer | None]) -> None:
        self._address = address
        self._answer = answer
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="endpoint", daemon=True)
        self._open = 0
        self._tokens = float(BURST)
        self._filled = time.monotonic()
        self._server: asyncio.Server | None = None
        self.port = address.port
        """The port, once it listens."""

    def start(self) -> None:
        """Listen. Raises `ResourceError` when the address cannot be had."""
        try:
            self._server = self._loop.run_until_complete(self._listen())
        except OSError as error:
            self._loop.close()
            raise ResourceError(
                f"cannot listen for metrics at {self._address.host}:{self._address.port}: "
                f"{error.strerror or error}; choose another with --metrics"
            ) from error
        self.port = self._server.sockets[0].getsockname()[1]
        self._thread.start()

    def stop(self) -> None:
        """Stop listening and end the thread; open connections are cut. Repeating is harmless."""
        if not self._thread.is_alive():
            return
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    async def _listen(self) -> asyncio.Server:
        # `start_server` with a limit bounds the buffer of every reader.
        return await asyncio.start_server(
            self._serve,
            self._address.host,
            self._address.port,
            limit=HEAD_BYTES,
            backlog=CONNECTIONS,
        )

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            if self._server is not None:
                self._server.close()
            waiting = asyncio.all_tasks(self._loop)
            for task in waiting:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*waiting, return_exceptions=True))
            self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= CONNECTIONS or not self._take_token():
            writer.transport.abort()
            return
        self._open += 1
        try:
            # The peer may go away, or be slow, at any point: then nobody is left to be told.
            with contextlib.suppress(TimeoutError, OSError, asyncio.IncompleteReadError):
                async with asyncio.timeout(TIME_S):
                    writer.write(self._respond(await _head(reader)))
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
        finally:
            self._open -= 1
            writer.transport.abort()

    def _take_token(self) -> bool:
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._filled) * REQUESTS_PER_S)
        self._filled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _respond(self, head: bytes | None) -> bytes:
        found = _plain(431, "the head is too large") if head is None else self._judge(head)
        body = found.text.encode()
        lines = [
            f"HTTP/1.1 {found.status} {_REASONS[found.status]}",
            f"Content-Type: {found.content_type}",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "X-Content-Type-Options: nosniff",
            "Connection: close",
            *(["Allow: GET"] if found.status == 405 else []),
        ]
        return "\r\n".join([*lines, "", ""]).encode() + body

    def _judge(self, head: bytes) -> Answer:
        start, *rest = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        request = _START.fullmatch(start)
        headers: dict[bytes, bytes] = {}
        for line in rest:
            header = _HEADER.fullmatch(line)
            if header is None or header[1].lower() in headers:
                return _plain(400, "malformed header")
            headers[header[1].lower()] = header[2].strip()
        if request is None:
            return _plain(400, "malformed request")
        if request[1] != b"GET":
            return _plain(405, "GET only")
        if headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers:
            return _plain(400, "no body is read")
        if self._address.is_loopback and not _is_loopback_name(headers.get(b"host", b"")):
            # Prevents a page in a browser of this machine from reading it under its own name.
            return _plain(403, "the host is another than this machine's loopback")
        path = request[2].decode("ascii").split("?", 1)[0]
        return self._answer(path) or _plain(404, "try /metrics, /healthz or /readyz")


async def _head(reader: asyncio.StreamReader) -> bytes | None:
    """Return the head of a request, None when it is too large."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError:
        return None


def _is_loopback_name(host: bytes) -> bool:
    found = re.fullmatch(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?", host)
    if found is None:
        return False
    name = found[1].decode("ascii").strip("[]").lower()
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _plain(status: int, text: str) -> Answer:
    return Answer(status, "text/plain; charset=utf-8", text + "\n")
