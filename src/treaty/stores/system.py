"""The outside world in small: clock, fresh random bytes, threads, and a party's own journal.

`SeededEntropy` exists for simulations alone, whose founding charter says so. A journal is local:
one JSON object a line, never sent, and without row values by the rule of those who write it.
"""

import functools
import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from treaty.errors import UsageError
from treaty.ids import Timestamp
from treaty.stores.files import os_errors

__all__ = [
    "FileJournal",
    "MemoryJournal",
    "SeededEntropy",
    "SystemClock",
    "SystemEntropy",
    "worker_threads",
]


class SystemClock:
    """The machine's clock."""

    def now(self) -> Timestamp:
        """Return milliseconds since the Unix epoch, UTC."""
        return Timestamp(time.time_ns() // 1_000_000)


class SystemEntropy:
    """The operating system's random numbers."""

    def bytes(self, count: int) -> bytes:
        """Return `count` fresh bytes."""
        return os.urandom(count)


class SeededEntropy:
    """Reproducible bytes for simulations: SHA-256 over a seed, a name and a counter.

    Never for a real site: whoever knows the seed knows every secret.
    """

    def __init__(self, seed: int, name: str) -> None:
        if not 0 <= seed < 2**63:
            raise UsageError(f"expected a seed from 0 to 2^63 - 1, got {seed}")
        self._prefix = b"treaty.simulation/v1" + seed.to_bytes(8, "big") + name.encode()
        self._count = 0

    def __repr__(self) -> str:
        return "SeededEntropy"

    def bytes(self, count: int) -> bytes:
        """Return the next `count` bytes of the stream."""
        taken = bytearray()
        while len(taken) < count:
            self._count += 1
            taken += hashlib.sha256(self._prefix + self._count.to_bytes(8, "big")).digest()
        return bytes(taken[:count])


class MemoryJournal:
    """A journal that only remembers."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def note(self, event: str, detail: str) -> None:
        """Remember one line."""
        self.lines.append((event, detail))


class FileJournal:
    """A journal in a file of mode 0600; lines are appended, never rewritten."""

    def __init__(self, path: Path, clock: SystemClock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()

    def note(self, event: str, detail: str) -> None:
        """Append one line. Raises `ResourceError` when the disk fails."""
        line = json.dumps(
            {"at_ms": self._clock.now(), "detail": detail, "event": event}, sort_keys=True
        )
        with os_errors(self._path, "write"):
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                os.write(handle, (line + "\n").encode())
            finally:
                os.close(handle)


@functools.cache
def worker_threads() -> ThreadPoolExecutor:
    """Return the pool for bulk work: one for this process, a thread for each processor.

    Its threads start with the first vector of more than a million words.
    """
    return ThreadPoolExecutor(max_workers=os.cpu_count(), thread_name_prefix="bulk")
