"""Write tests/vectors/v1/derived_parameters.json: thresholds for every N of the table and every c.

The values are found by search from what they must achieve, not from the formulas of
`treaty.governance.quorum`, so that the two are independent. Run from the project's root.
"""

import json
from pathlib import Path

TARGET = Path("tests/vectors/v1/derived_parameters.json")
SIZES = (3, 4, 5, 10, 25)


def share_threshold(members: int, colluders: int) -> int:
    """Least t at which no one gets both kinds of share: 2(t - c) honest answers exceed N - c."""
    return next(t for t in range(1, 200) if 2 * (t - colluders) > members - colluders)


def tolerated_faults(members: int) -> int:
    """Most f with N > 3f."""
    return max(f for f in range(members) if members > 3 * f)


def witness_quorum(members: int, dishonest: int) -> int:
    """Least q at which any two quorums share more members than may be dishonest."""
    return next(q for q in range(1, 200) if 2 * q - members > dishonest)


def case(members: int, colluders: int) -> dict[str, int]:
    """Return one row of the table."""
    threshold = share_threshold(members, colluders)
    survivors = next(u for u in range(1, 200) if u >= threshold and u - colluders >= 2)
    faults = tolerated_faults(members)
    return {
        "members": members,
        "max_colluders": colluders,
        "share_threshold": threshold,
        "min_survivors": survivors,
        "min_honest": survivors - colluders,
        "tolerated_faults": faults,
        "witness_quorum": witness_quorum(members, max(colluders, faults)),
    }


def table() -> dict[str, list[dict[str, int]]]:
    """Return good rows, and the pairs for which no safe values exist."""
    good, bad = [], []
    for members in SIZES:
        for colluders in range(members + 1):
            row = case(members, colluders)
            if colluders >= 1 and row["min_survivors"] <= members:
                good.append(row)
            else:
                bad.append({"members": members, "max_colluders": colluders})
    bad += [{"members": members, "max_colluders": 1} for members in (0, 1, 2, 201)]
    return {"good": good, "bad_parameters": bad}


if __name__ == "__main__":
    TARGET.write_text(json.dumps(table(), indent=1) + "\n", encoding="utf-8")
