"""An end of an engine that hands everything over: tests override what their member's end alters."""

from treaty.ids import Digest, MemberId
from treaty.ports import Delivery, Engine


class PassingEngine:
    """An `Engine` in front of another, which does all of the work."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """Hand it over."""
        self._engine.send(recipient, frame, key)

    def receive(self) -> Delivery | None:
        """Return the next frame."""
        return self._engine.receive()

    def offer(self, digest: Digest, data: bytes) -> None:
        """Hand it over."""
        self._engine.offer(digest, data)

    def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        """Return what the others offer."""
        return self._engine.fetch(digest, most_bytes)

    def peers(self) -> tuple[MemberId, ...]:
        """Return the parties."""
        return self._engine.peers()
