"""Time one durable commit: 25 records of 1 kB and 3 values of 500 bytes.

Run: python benchmarks/store_commit.py [directory]. Prints milliseconds. The bar
is a median of 0.5 ms on a local solid-state disk.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from treaty.ports import Batch
from treaty.stores.sqlite import SqliteStore

COMMITS = 400
RECORDS = 25


def main() -> None:
    """Commit to a fresh store in a temporary directory and print the distribution."""
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=parent) as directory:
        store = SqliteStore(Path(directory) / "bench.db")
        times = []
        for number in range(COMMITS):
            batch = Batch(
                appends=(
                    ("log", number * RECORDS, tuple(os.urandom(1000) for _ in range(RECORDS))),
                ),
                puts=tuple((f"key-{index}", os.urandom(500)) for index in range(3)),
            )
            start = time.perf_counter()
            store.commit(batch)
            times.append(1000 * (time.perf_counter() - start))
        store.close()
    times.sort()
    print(f"commits {COMMITS}, records each {RECORDS}, milliseconds:")
    print(f"  median {statistics.median(times):.3f}  mean {statistics.fmean(times):.3f}")
    print(f"  95 % {times[int(0.95 * COMMITS)]:.3f}  worst {times[-1]:.3f}")


if __name__ == "__main__":
    main()
