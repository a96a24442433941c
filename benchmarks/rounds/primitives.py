"""What one signature, verification and durable commit cost on this machine, in this run."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from treaty.crypto.keys import SigningKey
from treaty.ports import Batch
from treaty.stores.sqlite import SqliteStore

__all__ = ["Costs", "measure_costs"]

_REPEATS = 300


@dataclass(frozen=True, slots=True)
class Costs:
    """Median seconds of one call each."""

    sign: float
    verify: float
    commit: float


def measure_costs(directory: Path) -> Costs:
    """Measure; the commit of one 1 kB record goes to a fresh store in `directory`."""
    key = SigningKey.generate(bytes(range(32)))
    message = bytes(500)
    signature = key.sign(message)
    store = SqliteStore(directory / "commit.db")
    number = iter(range(1 << 30))

    def commit() -> None:
        place = next(number)
        store.commit(Batch(appends=(("log", place, (bytes(1000),)),), puts=()))

    try:
        return Costs(
            sign=_median(lambda: key.sign(message)),
            verify=_median(lambda: key.public.verify(signature, message)),
            commit=_median(commit),
        )
    finally:
        store.close()


def _median(call: Callable[[], object]) -> float:
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)
