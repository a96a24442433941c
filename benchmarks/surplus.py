"""What it costs to take surplus noise off: at a site, and at whoever goes on with the sum.

Run: python -m benchmarks.surplus

CPU seconds, the least of several runs. A site draws its share in parts instead of at once; whoever
folds the log draws again what the survivors opened. Nothing is stored.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from treaty.governance.quorum import DerivedParameters
from treaty.privacy.surplus import NoiseKeys, carried, noise_keys, noised_in_parts, surplus_noise
from treaty.privacy.surplus import tiers_for as divided
from treaty.studies.noise import cohort_of
from treaty.studies.surplus import MOST_DRAWS, parts_within

VARIANCE = 1 << 56
RUNS = 3


def least(act: Callable[[], object]) -> float:
    """Return the least CPU seconds that `act` took; its tables are made before."""
    act()
    found = []
    for _ in range(RUNS):
        begun = time.process_time()
        act()
        found.append(time.process_time() - begun)
    return min(found)


def main() -> int:
    """Print the table."""
    print(f"draws for one sum at most {MOST_DRAWS}; CPU milliseconds, least of {RUNS}")
    print(
        "  N     words  parts  carried  stays in  share at once  in parts  taken off by everybody"
    )
    for members in (4, 10, 25):
        cohort = cohort_of(DerivedParameters(members, 1, None))
        for words in (18, 10_000, 100_000, 1_000_000):
            parts = parts_within(cohort, words)
            tiers = divided(VARIANCE, cohort, parts)
            keys = noise_keys(bytes(32), len(tiers.components))
            zero = np.zeros(words, dtype=np.int64)
            alone = NoiseKeys(keys.base)

            opened = keys.surplus[: tiers.opened(members)]
            times = (
                least(partial(noised_in_parts, zero, tiers, alone, ring_bits=64)),
                least(partial(noised_in_parts, zero, tiers, keys, ring_bits=64)),
                members * least(partial(surplus_noise, tiers, opened, members, words)),
            )
            print(
                f"{members:3} {words:9} {len(tiers.components):6} "
                f"{float(carried(cohort, members, parts)):8.3f} "
                f"{float(carried(cohort, members, 0)):9.3f} "
                f"{times[0] * 1e3:14.2f} {times[1] * 1e3:9.2f} {times[2] * 1e3:10.2f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
