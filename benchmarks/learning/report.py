"""The table of one data set: figures by arm, gates, and how they are written down."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.learning.figures import Figures, Summary, summarise
from benchmarks.learning.published import FLAMBY
from treaty.datasets.splits import FROZEN_SEEDS

__all__ = ["ARMS", "Arm", "Gate", "Table", "as_json", "as_markdown", "gates"]

ARMS = {
    "federated": "federated, one intercept",
    "federated-sites": "federated, site intercepts",
    "pooled": "pooled, one intercept",
    "pooled-sites": "pooled, site intercepts",
    "per-site-normalised": "pooled, every site normalised by itself",
}

PROBABILITY_GATE = 1e-6
ROUNDS_GATE = 8
_HOLDOUT_SHARE = 0.34

# (arm, figure, least value), fixed before the splits were run.
_FLOORS: dict[str, tuple[tuple[str, str, float], ...]] = {
    "heart": (
        ("federated", "accuracy", 0.79),
        ("federated", "auc", 0.87),
        ("federated-sites", "accuracy", 0.80),
        ("federated-sites", "auc", 0.88),
    ),
    "ist": (("federated-sites", "auc", 0.81),),
}


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to fit on one split.

    For federated arms: `difference` is the largest absolute difference of a predicted probability
    from the pooled fit, `rounds` the training rounds, `settled` those after which every probability
    equals that of the pooled fit within the gate (None: never), `identical` whether the masked run
    ended in the same bytes as the unmasked sums.
    """

    figures: Figures
    difference: float | None = None
    rounds: int | None = None
    settled: int | None = None
    identical: bool | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """All splits of one data set. `splits` maps an arm to its values in order of `seeds`."""

    data: str
    note: str
    rows: int
    sites: int
    columns: int
    seeds: tuple[int, ...]
    splits: dict[str, list[Arm]]
    flamby: dict[str, Figures] | None

    def summary(self, arm: str, figure: str) -> Summary:
        """Return mean and interval of one figure of one arm."""
        values = [getattr(one.figures, figure) for one in self.splits[arm]]
        return summarise(values, _HOLDOUT_SHARE)


@dataclass(frozen=True, slots=True)
class Gate:
    """One promise: what was asked, what was found, whether it holds."""

    name: str
    asked: str
    found: str
    holds: bool


def gates(table: Table) -> list[Gate]:
    """Return every gate of `table`."""
    found: list[Gate] = []
    for arm in ("federated", "federated-sites"):
        runs = table.splits[arm]
        worst = max(run.difference or 0.0 for run in runs)
        within = sum((run.difference or 0.0) <= PROBABILITY_GATE for run in runs)
        settled = [run.settled for run in runs if run.settled is not None]
        early = sum(rounds <= ROUNDS_GATE for rounds in settled)
        rounds = [run.rounds or 0 for run in runs]
        name = ARMS[arm]
        found += [
            Gate(
                f"{name}: equals the pooled fit in every split",
                f"<= {PROBABILITY_GATE:.0e}",
                f"{worst:.1e}, {within} of {len(runs)} within",
                worst <= PROBABILITY_GATE,
            ),
            Gate(
                f"{name}: training rounds until it equals the pooled fit",
                f"<= {ROUNDS_GATE}",
                f"{max(settled, default=0)}, {early} of {len(runs)} within; training ends after "
                f"{min(rounds)} to {max(rounds)}",
                early == len(runs),
            ),
            Gate(
                f"{name}: masked sums give the bytes of unmasked sums",
                "all splits",
                f"{sum(bool(run.identical) for run in runs)} of {len(runs)}",
                all(run.identical for run in runs),
            ),
        ]
    # A few splits say little: floors are judged on all of them, never on a chosen few.
    floors = _FLOORS.get(table.data, ()) if table.seeds == FROZEN_SEEDS else ()
    for arm, figure, floor in floors:
        summary = table.summary(arm, figure)
        found.append(
            Gate(
                f"{ARMS[arm]}: mean {figure}",
                f">= {floor:.2f}",
                f"{summary.mean:.4f} ± {summary.half_width:.4f}",
                summary.mean >= floor,
            )
        )
    if table.data == "ist":
        pairs = zip(table.splits["federated-sites"], table.splits["pooled"], strict=True)
        gains = [mine.figures.auc - theirs.figures.auc for mine, theirs in pairs]
        found.append(
            Gate(
                "federated, site intercepts: auc above the pooled model with one intercept",
                "every split",
                f"smallest gain {min(gains):+.4f}, mean {sum(gains) / len(gains):+.4f}",
                min(gains) > 0.0,
            )
        )
    return found


def as_json(table: Table) -> dict[str, Any]:
    """Return `table` as it is stored. Figures are rounded, so that the last bits do not matter."""
    return {
        "data": table.data,
        "note": table.note,
        "rows": table.rows,
        "sites": table.sites,
        "columns": table.columns,
        "seeds": list(table.seeds),
        "arms": {
            arm: {
                "means": {
                    figure: _summary(table.summary(arm, figure))
                    for figure in ("accuracy", "auc", "brier", "site_accuracy")
                },
                "splits": [_arm(run) for run in runs],
            }
            for arm, runs in table.splits.items()
        },
        "gates": [
            {"gate": gate.name, "asked": gate.asked, "found": gate.found, "holds": gate.holds}
            for gate in gates(table)
        ],
        "flamby_split": None
        if table.flamby is None
        else {arm: _figures(figures) for arm, figures in table.flamby.items()},
    }


def _arm(run: Arm) -> dict[str, Any]:
    stored: dict[str, Any] = _figures(run.figures)
    if run.difference is not None:
        stored |= {
            "difference": float(f"{run.difference:.0e}"),
            "rounds": run.rounds,
            "settled": run.settled,
            "identical": run.identical,
        }
    return stored


def _figures(figures: Figures) -> dict[str, float]:
    return {
        "accuracy": round(figures.accuracy, 6),
        "auc": round(figures.auc, 6),
        "brier": round(figures.brier, 6),
        "site_accuracy": round(figures.site_accuracy, 6),
    }


def _summary(summary: Summary) -> dict[str, float]:
    return {
        "mean": round(summary.mean, 6),
        "half_width_95": round(summary.half_width, 6),
        "smallest": round(summary.smallest, 6),
        "largest": round(summary.largest, 6),
    }


def as_markdown(tables: Sequence[dict[str, Any]]) -> str:
    """Return the stored tables as a page."""
    lines = [
        "# Learning: federated beside pooled",
        "",
        "Written by `python -m benchmarks.learning`. Means over splits, plus or minus half of the",
        "95 % interval (Nadeau and Bengio: splits share rows). `accuracy`, `auc` and `brier` are",
        "over the holdout rows of all sites together; `site_accuracy` counts every site once.",
    ]
    for table in tables:
        seeds = table["seeds"]
        size = f"{table['rows']} rows, {table['sites']} sites, {table['columns']} columns"
        lines += ["", f"## {table['data']}", ""]
        lines.append(
            f"{table['note']}: {size}; {len(seeds)} splits, seeds {seeds[0]} to {seeds[-1]}."
        )
        lines += ["", "| fit | accuracy | auc | brier | site_accuracy |", "|---|---|---|---|---|"]
        for arm, stored in table["arms"].items():
            cells = [
                f"{one['mean']:.4f} ± {one['half_width_95']:.4f}"
                for one in stored["means"].values()
            ]
            lines.append(f"| {ARMS[arm]} | {' | '.join(cells)} |")
        lines += ["", "| gate | asked | found | holds |", "|---|---|---|---|"]
        lines += [
            f"| {gate['gate']} | {gate['asked']} | {gate['found']} "
            f"| {'yes' if gate['holds'] else 'NO'} |"
            for gate in table["gates"]
        ]
        if table["data"] == "heart":
            lines += _flamby(table)
    return "\n".join(lines) + "\n"


def _flamby(table: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "### FLamby's single split (information, no gate)",
        "",
        "Accuracy on the 254 holdout rows of one split; a single patient moves it by .004.",
        "Published rows are means over training seeds on that split, ours are over unmasked sums.",
        "",
        "| fit | mean of sites | all rows | auc | brier |",
        "|---|---|---|---|---|",
    ]
    for arm, figures in (table["flamby_split"] or {}).items():
        lines.append(
            f"| {ARMS[arm]} | {figures['site_accuracy']:.3f} | {figures['accuracy']:.3f} "
            f"| {figures['auc']:.3f} | {figures['brier']:.3f} |"
        )
    if table["flamby_split"] is None:
        lines.append("| ours | not computed: scikit-learn is not installed | | | |")
    lines += [f"| {one.name} | {one.mean:.3f} | {one.pooled:.3f} | | |" for one in FLAMBY]
    return lines
