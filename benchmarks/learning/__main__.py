"""Run the frozen splits of a data set through the protected pipeline and judge them.

Run: python -m benchmarks.learning [--data heart|ist] [--splits 50] [--quick]

For every split: logistic regression, ridge 1, with one intercept and with site intercepts, over
secure sums; the same fit over plain sums of the same integers; and the pooled fit of the same
objective, written independently. All fifty splits write benchmarks/results/learning.json and
.md; fewer only print. Exit code 1 when a gate does not hold.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.learning.figures import Figures, figures
from benchmarks.learning.pooled import fit_pooled
from benchmarks.learning.published import flamby_rows
from benchmarks.learning.report import PROBABILITY_GATE, Arm, Table, as_json, as_markdown, gates
from benchmarks.pipeline import (
    Divided,
    Protected,
    divide,
    make_plan,
    run_unmasked,
    site_files,
)
from treaty.contracts.conformance import ConformedData
from treaty.datasets.registry import Dataset, load
from treaty.datasets.splits import FROZEN_SEEDS
from treaty.errors import TreatyError
from treaty.ids import MemberId
from treaty.models.specification import LogisticRegression
from treaty.ports import SiteData

RESULTS = Path(__file__).resolve().parent.parent / "results"
MODELS = {
    "federated": LogisticRegression(site_intercepts=False),
    "federated-sites": LogisticRegression(site_intercepts=True),
}
QUICK = 3


def main() -> int:
    """Run, print and store; return the exit code."""
    parser = argparse.ArgumentParser(description="federated beside pooled, on the frozen splits")
    parser.add_argument("--data", choices=("heart", "ist"), default="heart")
    parser.add_argument("--splits", type=int, default=len(FROZEN_SEEDS))
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK} splits only")
    arguments = parser.parse_args()
    seeds = FROZEN_SEEDS[: QUICK if arguments.quick else arguments.splits]
    dataset = load(arguments.data)
    table = measure(dataset, seeds)
    stored = as_json(table)
    print(as_markdown([stored]))
    if seeds == FROZEN_SEEDS:
        _store(stored)
    return 0 if all(gate.holds for gate in gates(table)) else 1


def measure(dataset: Dataset, seeds: tuple[int, ...]) -> Table:
    """Return the table of `dataset` over the splits of `seeds`."""
    data = dataset.conformed()
    splits: dict[str, list[Arm]] = {}
    for seed in seeds:
        for arm, result in _split(dataset, divide(data, seed), seed).items():
            splits.setdefault(arm, []).append(result)
        print(f"split {seed} done", file=sys.stderr)
    return Table(
        data=dataset.name,
        note=dataset.note,
        rows=sum(one.rows for one in data.values()),
        sites=len(data),
        columns=len(next(iter(data.values())).columns),
        seeds=seeds,
        splits=splits,
        flamby=_flamby(dataset, data) if dataset.name == "heart" else None,
    )


def _split(dataset: Dataset, parts: Divided, seed: int) -> dict[str, Arm]:
    labels = {site: part.holdout.label for site, part in parts.items()}
    arms: dict[str, Arm] = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        Protected(
            Path(scratch) / "consortium", site_files(dataset), dataset.contract, durable=False
        ) as protected,
    ):
        for arm, model in MODELS.items():
            masked = protected.run(arm, model, seed, parts)
            plan = make_plan(dataset.contract, model, seed)
            pooled = fit_pooled(parts, site_intercepts=model.site_intercepts)
            unmasked = run_unmasked(plan, dataset.contract, parts, pooled.scores, PROBABILITY_GATE)
            arms[arm] = Arm(
                figures(masked.scores, labels),
                difference=max(
                    float(np.max(np.abs(masked.scores[site] - pooled.scores[site])))
                    for site in parts
                ),
                rounds=masked.rounds,
                settled=unmasked.settled,
                identical=(masked.model, masked.outcome) == (unmasked.model, unmasked.outcome),
            )
            arms[arm.replace("federated", "pooled")] = Arm(figures(pooled.scores, labels))
    alone = fit_pooled(parts, site_intercepts=False, normalise_per_site=True)
    arms["per-site-normalised"] = Arm(figures(alone.scores, labels))
    order = ("federated", "federated-sites", "pooled", "pooled-sites", "per-site-normalised")
    return {arm: arms[arm] for arm in order}


def _flamby(dataset: Dataset, data: dict[MemberId, ConformedData]) -> dict[str, Figures] | None:
    try:
        rows = {site: flamby_rows(one.label) for site, one in data.items()}
    except ImportError:
        return None
    parts = {
        site: SiteData(_take(data[site], training), _take(data[site], holdout))
        for site, (training, holdout) in rows.items()
    }
    labels = {site: part.holdout.label for site, part in parts.items()}
    found = {
        arm: figures(
            run_unmasked(make_plan(dataset.contract, model, 0), dataset.contract, parts).scores,
            labels,
        )
        for arm, model in MODELS.items()
    }
    alone = fit_pooled(parts, site_intercepts=False, normalise_per_site=True)
    return {**found, "per-site-normalised": figures(alone.scores, labels)}


def _take(data: ConformedData, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> ConformedData:
    return dataclasses.replace(
        data,
        features=np.ascontiguousarray(data.features[rows]),
        label=data.label[rows],
        persons=tuple(data.persons[row] for row in rows.tolist()),
        subgroups={name: member[rows] for name, member in data.subgroups.items()},
    )


def _store(stored: dict[str, object]) -> None:
    RESULTS.mkdir(exist_ok=True)
    place = RESULTS / "learning.json"
    known = json.loads(place.read_text()) if place.exists() else {}
    known[stored["data"]] = stored
    place.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    page = as_markdown([known[name] for name in sorted(known)])
    (RESULTS / "learning.md").write_text(page)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TreatyError as error:
        print(f"not measured: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
