"""Write tests/vectors/v1/secagg_degree.json: degrees and thresholds of large groups.

Computed a second time, from the definitions in docs/spec/secagg.md, section 10, and not with the
product: tails as exact fractions, the union bound in floating-point logarithms, which it passes
by more than a hundred bits. Regenerating changes nothing.

Run: python tools/gen_degree_vectors.py [FOLDER]
"""

import json
import sys
from fractions import Fraction
from math import comb, inf, lgamma, log, log2
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "tests" / "vectors" / "v1"

PRIVACY = Fraction(1, 2**41)
COMPLETION = Fraction(1, 2**20)

SHARES = ((5, 5), (10, 5), (10, 10), (20, 10), (1, 5), (33, 33))
"""Per cent of the members that collude, per cent that may be lost."""


def above(population: int, marked: int, drawn: int, limit: int) -> Fraction:
    """P[more than `limit` marked among `drawn`], hypergeometric."""
    ways = sum(
        comb(marked, count) * comb(population - marked, drawn - count)
        for count in range(max(limit + 1, 0), min(marked, drawn) + 1)
    )
    return Fraction(ways, comb(population, drawn))


def log_comb(size: int, part: int) -> float:
    """log2 of a binomial coefficient."""
    if not 0 <= part <= size:
        return -inf
    return (lgamma(size + 1) - lgamma(part + 1) - lgamma(size - part + 1)) / log(2)


def parted(members: int, corrupt: int, lost: int, holders: int, least: int) -> float:
    """log2 of the union bound over all sets that no mask joins to the rest."""
    honest = members - corrupt
    base = log_comb(members - 1, holders)
    total = 0.0
    for small in range(least, honest // 2 + 1):
        for removed in range(lost + 1):
            large = honest - small - removed
            if large < small:
                break
            bits = log_comb(honest, small) + log_comb(honest - small, removed)
            bits += small * (log_comb(members - 1 - large, holders) - base)
            bits += large * (log_comb(members - 1 - small, holders) - base)
            total += 2.0 ** max(bits, -1000.0)
    return log2(total) if total else -inf


def degree(members: int, corrupt: int, lost: int) -> tuple[int, int] | None:
    """The smallest number of holders that keeps all three promises, with its threshold."""
    for holders in range(2, members // 2):
        worst = 0
        while members * above(members - 1, corrupt, holders, worst) > PRIVACY:
            worst += 1
        threshold = (holders + 1 + worst) // 2 + 1
        if threshold > holders:
            continue
        if members * above(members - 1, lost, holders, holders - threshold) > COMPLETION:
            continue
        if parted(members, corrupt, lost, holders, threshold - worst) < -41:
            return holders, threshold
    return None


def rows() -> list[dict[str, int | None]]:
    """One row for each size and each pair of shares."""
    made = []
    for members in (129, 200, 500, 1000):
        for colluding, losing in SHARES:
            corrupt = max(1, members * colluding // 100)
            lost = members * losing // 100
            # Such a charter needs min_survivors of at least its share threshold.
            if members - lost < (members + corrupt) // 2 + 1:
                continue
            found = degree(members, corrupt, lost) if colluding < 33 else None
            made.append(
                {
                    "members": members,
                    "max_colluders": corrupt,
                    "min_survivors": members - lost,
                    "holders": None if found is None else found[0],
                    "threshold": None if found is None else found[1],
                }
            )
    return made


def main() -> None:
    """Write the file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    text = json.dumps({"format": "treaty.vectors/secagg-degree/v1", "rows": rows()}, indent=1)
    (folder / "secagg_degree.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
