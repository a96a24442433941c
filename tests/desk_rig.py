"""What an officer's desk has left for its site to send, for the tests of desks."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from treaty.crypto.envelope import decode_base64
from treaty.deployment.outbox import Outbox, Outgoing
from treaty.protocol.statements import peek


def signed(place: Path) -> list[bytes]:
    """Return and remove what waits to be sent, in the order in which the site sends it."""
    found = []
    for path in Outbox(place)._files():
        record = msgspec.json.decode(path.read_bytes(), type=Outgoing)
        found.append(decode_base64(record.statement))
        path.unlink()
    return found


def kinds(statements: Sequence[bytes]) -> list[str]:
    return [type(peek(one)[1]).__name__ for one in statements]
