"""NATS link: one connection to a NATS server that is made again whenever it breaks.

Everything here runs in one asyncio loop. Guarantees (docs/spec/transport.md, section 2):
  * The server proves the pinned key before anything is said; this party proves its transport key.
  * What the server refuses (a subject, a key) is noted as a refusal and ends nothing: permission
    errors arrive on their own, apart from what caused them, and fail the request they belong to.
  * After a loss the link connects again, for as long as it is not closed, with a pause that grows
    up to `MAX_PAUSE_S`. Requests that were under way fail with `ResourceError`.

The only module that imports the NATS client.
"""

import asyncio
import contextlib
import logging
import re
import ssl
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from treaty.crypto.keys import SigningKey
from treaty.crypto.transport_keys import answer_nonce, nkey_of
from treaty.engines.pinned_tls import PinMismatch, pinned_context
from treaty.errors import PolicyError, ResourceError, TreatyError, VerificationError
from treaty.ids import Digest

# The client loads aiohttp wherever it is installed: 9 MB that only WebSocket needs.
_spared = "aiohttp" not in sys.modules
if _spared:
    sys.modules["aiohttp"] = None  # type: ignore[assignment]  # the marker of a missing module
from nats.aio import transport  # noqa: E402 - see above
from nats.aio.client import Client  # noqa: E402 - see above
from nats.aio.msg import Msg  # noqa: E402 - see above
from nats.errors import AuthorizationError  # noqa: E402 - see above
from nats.errors import Error as NatsError  # noqa: E402 - see above

if _spared:
    del sys.modules["aiohttp"]

__all__ = ["Incoming", "Link", "LinkSettings"]

CONNECT_S = 5
CLOSE_S = 0.3
LOOK_S = 1.0
FIRST_PAUSE_S = 0.05
MAX_PAUSE_S = 1.0
PENDING_BYTES = 64 << 20
_KEEP_ALIVE_S = 20

_VIOLATION = re.compile(r"permissions violation for (publish|subscription) to \"([^\"]+)\"", re.I)


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """Where the server is, which key it must prove, and which key proves this party.

    `url` is ``tls://host:port``, or ``wss://host:port`` through proxies that pass nothing else.
    """

    url: str
    pin: Digest
    key: SigningKey = field(repr=False)
    inbox: str
    name: str


@dataclass(frozen=True, slots=True)
class Incoming:
    """One message: `status` is 0 for content, else the server's three digits."""

    subject: str
    reply: str
    data: bytes = field(repr=False)
    headers: Mapping[str, str]
    status: int
    description: str

    @staticmethod
    def of(message: Msg) -> "Incoming":
        """Return what the client library received."""
        headers = dict(message.headers or {})
        code = headers.get("Status", "0")
        return Incoming(
            message.subject,
            message.reply,
            bytes(message.data),
            headers,
            int(code) if code.isdigit() else 0,
            headers.get("Description", ""),
        )


class _NkeyClient(Client):
    """A client that signs in with an nkey held as one of our keys.

    The library takes nkeys only as seeds in text, through a package of its own.
    """

    def __init__(self, key: SigningKey) -> None:
        super().__init__()
        self._public_nkey = nkey_of(key.public)
        self._auth_configured = True


class Link:
    """A connection of one party. Its methods belong to the loop in which it was started."""

    def __init__(self, settings: LinkSettings, note: Callable[[str, str], None]) -> None:
        self._settings = settings
        self._note = note
        self._client: Client | None = None
        self._up = asyncio.Event()
        self._failed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._cause: TreatyError = ResourceError(f"{settings.url} has not answered yet")
        self._noted = ""
        self._tokens = 0
        self._down_since = asyncio.get_running_loop().time()
        self._waiting: dict[str, tuple[str, asyncio.Queue[Incoming | TreatyError]]] = {}
        self.connections = 0
        """How often the link was made."""

    @property
    def is_up(self) -> bool:
        """Say whether the connection stands now, as far as is known."""
        return self._up.is_set()

    @property
    def key_refused(self) -> bool:
        """Say whether there is no connection because the server refused the key."""
        cause = self._cause
        return not self.is_up and isinstance(cause, PolicyError) and cause.code == "key-refused"

    @property
    def cause(self) -> TreatyError:
        """Return why the last attempt failed, or the connection was lost."""
        return self._cause

    @property
    def down_for_s(self) -> float:
        """Return for how long there has been no connection, 0 while there is one."""
        if self._up.is_set():
            return 0.0
        return asyncio.get_running_loop().time() - self._down_since

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._supervise())

    async def connected(self, timeout_s: float, *, give_up: bool = False) -> None:
        """Return when the connection stands; raise the cause when it does not in time.

        With `give_up` a refusal is final: a wrong certificate does not mend itself.
        """
        if self._up.is_set():
            return
        waits = [asyncio.create_task(self._up.wait())]
        if give_up:
            waits.append(asyncio.create_task(self._failed.wait()))
        try:
            await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in waits:
                one.cancel()
        if not self._up.is_set():
            raise self._cause

    async def close(self) -> None:
        """End the connection; a second call does nothing."""
        self._closing = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._drop()

    # --- talking ------------------------------------------------------------------------------

    async def publish(
        self,
        subject: str,
        data: bytes | memoryview = b"",
        *,
        reply: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Hand one message to the connection; `ResourceError` when there is none."""
        client = self._client
        if client is None or not self._up.is_set():
            raise self._unreachable()
        try:
            await client.publish(
                subject, bytes(data), reply=reply, headers=dict(headers) if headers else None
            )
        except (NatsError, OSError) as error:
            raise ResourceError(f"the engine cannot be reached: {error}: try again") from error

    def open_inbox(self, asked: str) -> tuple[str, "asyncio.Queue[Incoming | TreatyError]"]:
        """Return a subject for replies to a request to `asked`, and where they arrive."""
        self._tokens += 1
        reply = f"{self._settings.inbox}.replies.{self.connections}-{self._tokens}"
        queue: asyncio.Queue[Incoming | TreatyError] = asyncio.Queue()
        self._waiting[reply] = (asked, queue)
        return reply, queue

    async def subscribe(self, name: str) -> tuple[str, "asyncio.Queue[Incoming | TreatyError]"]:
        """Return a subject below the inbox, and where whatever is sent below it arrives.

        For streams, whose messages keep the subject under which they were stored. It lasts as long
        as the connection; then a `ResourceError` arrives last.
        """
        client = self._client
        if client is None or not self._up.is_set():
            raise self._unreachable()
        queue: asyncio.Queue[Incoming | TreatyError] = asyncio.Queue()

        async def arrived(message: Msg) -> None:
            queue.put_nowait(Incoming.of(message))

        below = f"{self._settings.inbox}.frames-{name}"
        try:
            await client.subscribe(f"{below}.*", cb=arrived)
        except (NatsError, OSError) as error:
            raise ResourceError(f"the engine cannot be reached: {error}: try again") from error
        self._waiting[below] = ("", queue)
        return below, queue

    def close_inbox(self, reply: str) -> None:
        """Expect no more replies there."""
        self._waiting.pop(reply, None)

    async def request(
        self,
        subject: str,
        data: bytes | memoryview = b"",
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> Incoming:
        """Return the first reply to a message.

        Raises `PolicyError` (code ``not-permitted``) when the server forbids the subject, and
        `ResourceError` when nobody answers in time or the connection breaks.
        """
        reply, queue = self.open_inbox(subject)
        try:
            await self.publish(subject, data, reply=reply, headers=headers)
            # Not `wait_for`, which makes a task of every wait.
            async with asyncio.timeout(timeout_s):
                found = await queue.get()
        except TimeoutError as error:
            raise ResourceError(
                f"the engine did not answer within {timeout_s:g} s: try again"
            ) from error
        finally:
            self.close_inbox(reply)
        if isinstance(found, TreatyError):
            raise found
        if found.status == 503:
            raise ResourceError("the engine's store is not there (yet): try again")
        return found

    # --- connecting ---------------------------------------------------------------------------

    async def _supervise(self) -> None:
        pause = FIRST_PAUSE_S
        while not self._closing:
            lost = asyncio.Event()
            try:
                self._client = await self._connect(lost)
            except TreatyError as error:
                self._cause = error
                self._say(error)
                if not isinstance(error, ResourceError):
                    self._failed.set()
                await self._drop()
                await asyncio.sleep(pause)
                pause = min(pause * 2, MAX_PAUSE_S)
                continue
            pause = FIRST_PAUSE_S
            self._noted = ""
            self._cause = ResourceError(f"the connection to {self._settings.url} was lost")
            self.connections += 1
            self._up.set()
            while not lost.is_set() and not self._client.is_closed:
                # The library does not call back for every way in which a connection ends.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(lost.wait(), LOOK_S)
            self._up.clear()
            self._down_since = asyncio.get_running_loop().time()
            if not self._closing:
                self._say(self._cause)
            await self._drop()

    async def _connect(self, lost: asyncio.Event) -> Client:
        settings = self._settings
        if settings.url.startswith("wss:"):
            _need_websocket()
        client = _NkeyClient(settings.key)

        trouble: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

        async def on_error(error: Exception) -> None:
            if not trouble.done():
                trouble.set_result(error)
            else:
                self._on_error(error)

        async def on_closed() -> None:
            lost.set()

        attempt = asyncio.ensure_future(
            client.connect(
                servers=[settings.url],
                name=settings.name,
                error_cb=on_error,
                closed_cb=on_closed,
                disconnected_cb=on_closed,
                allow_reconnect=False,
                connect_timeout=CONNECT_S,
                ping_interval=_KEEP_ALIVE_S,
                max_outstanding_pings=2,
                tls=pinned_context(settings.pin),
                tls_handshake_first=settings.url.startswith("tls:"),
                signature_cb=lambda nonce: answer_nonce(settings.key, nonce.encode()),
                pending_size=PENDING_BYTES,
            )
        )
        try:
            # The library tries again by itself, quietly: here the first trouble ends the attempt.
            races: set[asyncio.Future[None] | asyncio.Future[Exception]] = {attempt, trouble}
            await asyncio.wait(races, return_when=asyncio.FIRST_COMPLETED)
            if trouble.done():
                raise trouble.result()
            await attempt
            await client.subscribe(f"{settings.inbox}.replies.*", cb=self._on_message)
            await client.flush(timeout=CONNECT_S)
            if trouble.done():
                raise trouble.result()
            trouble.set_result(ResourceError("connected"))
        except (NatsError, OSError, TimeoutError, TreatyError) as error:
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)
            await _end(client)
            raise self._explain(error) from error
        return client

    def _explain(self, error: Exception) -> TreatyError:
        """Return what `error` means here: who must do what."""
        url = self._settings.url
        mismatch = _pin_mismatch(error)
        if mismatch is not None:
            return VerificationError(
                f"{url} is not the server of this consortium: {mismatch.args[1]}; compare the "
                "address with the invite and call the coordinator",
                code="wrong-certificate",
            )
        if isinstance(error, TreatyError):
            return error
        if isinstance(error, AuthorizationError) or "uthorization" in str(error):
            return PolicyError(
                f"{url} does not accept this party's transport key: it is suspended, not yet "
                "accepted, or not the key that the charter lists",
                code="key-refused",
            )
        if isinstance(error, ssl.SSLError):
            reason = getattr(error, "reason", None) or error
            return VerificationError(
                f"{url} does not speak TLS 1.3 as expected ({reason}): check the address and "
                "the port",
                code="no-tls",
            )
        if isinstance(error, ConnectionRefusedError):
            return ResourceError(
                f"nobody listens at {url}: start the coordinator, or check address and port"
            )
        return ResourceError(
            f"{url} cannot be reached ({str(error) or type(error).__name__}): check the address "
            "and the port"
        )

    async def _drop(self) -> None:
        """Close what is left of the connection, and fail what waits for an answer on it."""
        client, self._client = self._client, None
        self._up.clear()
        waiting, self._waiting = self._waiting, {}
        for _, queue in waiting.values():
            queue.put_nowait(self._unreachable())
        if client is not None:
            await _end(client)

    def _unreachable(self) -> TreatyError:
        if isinstance(self._cause, ResourceError):
            return self._cause
        return ResourceError(f"the engine cannot be reached: {self._cause}")

    # --- hearing ------------------------------------------------------------------------------

    async def _on_message(self, message: Msg) -> None:
        found = self._waiting.get(message.subject)
        if found is not None:
            found[1].put_nowait(Incoming.of(message))

    def _on_error(self, error: Exception) -> None:
        """Take an error that came on its own. Nothing here may end the process."""
        text = str(error)
        violation = _VIOLATION.search(text)
        if violation is None:
            if isinstance(error, AuthorizationError) or "uthorization" in text:
                self._cause = self._explain(error)
            return
        verb, subject = violation[1].lower(), violation[2]
        refusal = PolicyError(
            f"the server permits this party no {verb} to {subject}", code="not-permitted"
        )
        self._note("refused.not-permitted", str(refusal))
        for asked, queue in list(self._waiting.values()):
            # The library changes the case of what the server says.
            if asked.lower() == subject.lower():
                queue.put_nowait(refusal)

    def _say(self, error: TreatyError) -> None:
        """Note a cause once, not at every attempt."""
        if str(error) != self._noted:
            self._noted = str(error)
            kind = "unreachable" if isinstance(error, ResourceError) else "refused"
            code = getattr(error, "code", "")
            self._note(f"{kind}.{code}" if code else kind, str(error))


def _need_websocket() -> None:
    """Let the client speak WebSocket. Raises `ResourceError` where the extra is missing."""
    if getattr(transport, "aiohttp", None) is None:
        try:
            import aiohttp
        except ImportError as error:
            raise ResourceError(
                "WebSocket needs an extra: pip install 'treaty[websocket]'"
            ) from error
        vars(transport)["aiohttp"] = aiohttp


def _pin_mismatch(error: BaseException | None) -> PinMismatch | None:
    """Return the wrong key behind `error`, which the WebSocket library wraps."""
    while error is not None:
        if isinstance(error, PinMismatch):
            return error
        error = error.__cause__ or error.__context__
    return None


async def _end(client: Client) -> None:
    """Close `client`; a connection that broke in the handshake never says that it has closed."""
    with contextlib.suppress(NatsError, OSError, TimeoutError):
        await asyncio.wait_for(client.close(), CLOSE_S)


# What the library says beside our journal would be said twice.
logging.getLogger("nats").setLevel(logging.CRITICAL)
