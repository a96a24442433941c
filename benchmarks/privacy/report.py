"""The table of one data set: areas by arm and epsilon, gates, and how they are written down."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.learning.figures import Summary, summarise
from benchmarks.privacy.arms import ARMS
from treaty.datasets.splits import FROZEN_SEEDS

__all__ = ["Gate", "Table", "as_json", "as_markdown", "gates"]

_HOLDOUT_SHARE = 0.34
EPSILONS: Mapping[str, tuple[float, ...]] = {
    "heart": (0.5, 1.0, 3.0, 8.0),
    "breast-cancer": (0.5, 1.0, 3.0, 8.0),
    "ist": (1.0,),
}
"""With the rows of the trial, more than epsilon 1 changes nothing."""

FLOORS: Mapping[tuple[str, float], float] = {
    ("heart", 1.0): 0.860,
    ("heart", 3.0): 0.872,
    ("breast-cancer", 1.0): 0.985,
}
"""Least mean area of ours, fixed before the splits were run."""

ONE_ROUND_FLOORS: Mapping[tuple[str, float], float] = {("heart", 1.0): 0.860}
"""The same for one noised sum of statistics."""

CURATOR_GAP = 0.005
INTEGER_GAP = 0.002
DIVIDEND = 0.10


@dataclass(frozen=True, slots=True)
class Table:
    """All splits of one data set. `splits` maps (epsilon, arm) to areas in order of `seeds`.

    `carried_milli` is the variance of an opened sum of *ours* in thousandths of a curator's.
    `governed` says of each study that ran through the full protocol whether plain sums with its
    noise keys gave the same bytes.
    """

    data: str
    note: str
    rows: int
    sites: int
    min_survivors: int
    min_honest: int
    carried_milli: int
    delta_inverse: int
    seeds: tuple[int, ...]
    splits: Mapping[tuple[float, str], list[float]]
    governed: tuple[bool, ...]

    def summary(self, epsilon: float, arm: str) -> Summary:
        """Return mean and interval of one arm."""
        return summarise(self.splits[epsilon, arm], _HOLDOUT_SHARE)

    def difference(self, epsilon: float, one: str, other: str) -> tuple[float, float]:
        """Return the mean of paired differences, one minus other, and its standard error."""
        pairs = zip(self.splits[epsilon, one], self.splits[epsilon, other], strict=True)
        found = [mine - theirs for mine, theirs in pairs]
        deviation = statistics.stdev(found) if len(found) > 1 else 0.0
        return statistics.fmean(found), deviation / len(found) ** 0.5


@dataclass(frozen=True, slots=True)
class Gate:
    """One promise: what was asked, what was found, whether it holds."""

    name: str
    asked: str
    found: str
    holds: bool


def gates(table: Table) -> list[Gate]:
    """Return every gate of `table`; floors and gaps only over all frozen splits."""
    same = sum(table.governed)
    found = [
        Gate(
            "full protocol: plain sums with its noise keys give its bytes",
            "every study",
            f"{same} of {len(table.governed)}",
            same == len(table.governed) > 0,
        )
    ]
    if table.seeds != FROZEN_SEEDS:
        return found
    gap, error = table.difference(1.0, "curator", "ours")
    found.append(
        Gate(
            "epsilon 1: below the trusted curator",
            f"<= {CURATOR_GAP}",
            f"{gap:.4f} ± {error:.4f} (paired)",
            gap <= CURATOR_GAP,
        )
    )
    if (1.0, "float") in table.splits:
        gap, error = table.difference(1.0, "float", "equal-noise")
        found.append(
            Gate(
                "epsilon 1: integers against floating point at equal noise",
                f"within {INTEGER_GAP}, or within two standard errors of independent noise",
                f"{gap:+.4f} ± {error:.4f}",
                abs(gap) <= max(INTEGER_GAP, 2 * error),
            )
        )
    for arm, floors in (("ours", FLOORS), ("one-round", ONE_ROUND_FLOORS)):
        for (data, epsilon), floor in floors.items():
            if data != table.data or (epsilon, arm) not in table.splits:
                continue
            summary = table.summary(epsilon, arm)
            found.append(
                Gate(
                    f"epsilon {epsilon:g}: mean area of {arm}",
                    f">= {floor:.3f}",
                    f"{summary.mean:.4f} ± {summary.half_width:.4f}",
                    summary.mean >= floor,
                )
            )
    if table.data == "heart":
        gain, error = table.difference(1.0, "ours", "alone")
        found.append(
            Gate(
                "epsilon 1: above each site by itself under the same epsilon",
                f">= +{DIVIDEND:.2f}",
                f"{gain:+.4f} ± {error:.4f}",
                gain >= DIVIDEND,
            )
        )
    return found


def as_json(table: Table) -> dict[str, Any]:
    """Return `table` as it is stored."""
    return {
        "data": table.data,
        "note": table.note,
        "rows": table.rows,
        "sites": table.sites,
        "min_survivors": table.min_survivors,
        "min_honest": table.min_honest,
        "carried_milli": table.carried_milli,
        "delta_inverse": table.delta_inverse,
        "seeds": list(table.seeds),
        "governed": list(table.governed),
        "areas": {
            f"{epsilon:g}": {
                arm: {
                    "mean": round(table.summary(epsilon, arm).mean, 6),
                    "half_width_95": round(table.summary(epsilon, arm).half_width, 6),
                    "splits": [round(value, 6) for value in table.splits[epsilon, arm]],
                }
                for arm in ARMS
                if (epsilon, arm) in table.splits
            }
            for epsilon in sorted({epsilon for epsilon, _ in table.splits})
        },
        "gates": [
            {"gate": one.name, "asked": one.asked, "found": one.found, "holds": one.holds}
            for one in gates(table)
        ],
    }


def as_markdown(tables: Sequence[dict[str, Any]]) -> str:
    """Return the stored tables as a page."""
    lines = [
        "# Privacy: what noise costs",
        "",
        "Written by `python -m benchmarks.privacy`. Areas under the curve over the holdout rows of",
        "all sites together, means over splits, plus or minus half of the 95 % interval (Nadeau",
        "and Bengio: splits share rows). Product defaults, nothing tuned to a set: logistic",
        "regression on rows of length one, 20 rounds over everybody, clip 0.5, learning rate 16,",
        "one colluding member covered. *ours* carries the noise of all sites without the surplus",
        "that their answers take off: still what the colluding one adds above what epsilon counts.",
        "A gate that does not hold is printed as it is.",
    ]
    for table in tables:
        lines += [
            "",
            f"## {table['data']}",
            "",
            _line(table),
            "",
            "| epsilon | " + " | ".join(ARMS) + " |",
            "|---" * (len(ARMS) + 1) + "|",
        ]
        for epsilon, arms in table["areas"].items():
            cells = [_cell(arms.get(arm)) for arm in ARMS]
            lines.append(f"| {epsilon} | " + " | ".join(cells) + " |")
        lines += ["", "| gate | asked | found | holds |", "|---|---|---|---|"]
        for one in table["gates"]:
            holds = "yes" if one["holds"] else "**no**"
            lines.append(f"| {one['gate']} | {one['asked']} | {one['found']} | {holds} |")
    lines += [
        "",
        "Arms: " + "; ".join(f"*{arm}*: {words}" for arm, words in ARMS.items()) + ".",
        "",
    ]
    return "\n".join(lines)


def _cell(arm: dict[str, Any] | None) -> str:
    return "–" if arm is None else f"{arm['mean']:.4f} ± {arm['half_width_95']:.4f}"


def _line(table: dict[str, Any]) -> str:
    # Tables from before answers took noise off do not say what a sum carried: everything.
    carried = table.get("carried_milli", 1000 * table["sites"] // table["min_honest"])
    left_in = "" if "carried_milli" in table else ", surplus left in when it was measured"
    return (
        f"{table['note']}. {table['rows']} rows, {table['sites']} sites, at least "
        f"{table['min_survivors']} in a sum, noise of {table['min_honest']} counted, "
        f"{carried / 1000:.2f} times a curator's variance in a sum{left_in}, delta "
        f"1/{table['delta_inverse']}, {len(table['seeds'])} splits; "
        f"{len(table['governed'])} studies also through the full protocol."
    )
