"""Run the frozen splits under noise and judge them.

Run: python -m benchmarks.privacy [--data heart|breast-cancer|ist] [--splits 50] [--quick]

For every split and epsilon: the product's training over plain sums of the very integers that sites
would mask; beside it a trusted curator, floating point, each site by itself, and no noise. On the
first split of every epsilon the study also runs through the full protocol, and plain sums with its
own noise keys must end in its bytes. All fifty splits write benchmarks/results/privacy.json and
.md; fewer only print, unless asked to be stored as what they are. Exit code 1 when a gate does not
hold.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.pipeline import divide, make_plan
from benchmarks.privacy.arms import ARMS, ONE_ROUND, SPEC, areas, make_private_plan
from benchmarks.privacy.protected import found_governed
from benchmarks.privacy.report import EPSILONS, Table, as_json, as_markdown, gates
from treaty.contracts.normalisation import with_public_bounds
from treaty.datasets.registry import Dataset, load
from treaty.datasets.splits import FROZEN_SEEDS
from treaty.errors import TreatyError
from treaty.governance.quorum import DerivedParameters
from treaty.privacy.terms import sum_variance
from treaty.studies.noise import cohort_of, noise_terms

RESULTS = Path(__file__).resolve().parent.parent / "results"
QUICK = 3


def main() -> int:
    """Run, print and store; return the exit code."""
    parser = argparse.ArgumentParser(description="what noise costs, on the frozen splits")
    parser.add_argument("--data", choices=("heart", "breast-cancer", "ist"), default="heart")
    parser.add_argument("--splits", type=int, default=len(FROZEN_SEEDS))
    parser.add_argument("--quick", action="store_true", help=f"the first {QUICK}, epsilon 1 only")
    parser.add_argument("--store", action="store_true", help="store fewer splits than all, too")
    arguments = parser.parse_args()
    seeds = FROZEN_SEEDS[: QUICK if arguments.quick else arguments.splits]
    epsilons = (1.0,) if arguments.quick else EPSILONS[arguments.data]
    table = measure(load(arguments.data), seeds, epsilons)
    stored = as_json(table)
    print(as_markdown([stored]))
    if seeds == FROZEN_SEEDS or arguments.store:
        _store(stored)
    return 0 if all(gate.holds for gate in gates(table)) else 1


def measure(dataset: Dataset, seeds: tuple[int, ...], epsilons: tuple[float, ...]) -> Table:
    """Return the table of `dataset` over the splits of `seeds`."""
    data = dataset.conformed()
    cohort = cohort_of(DerivedParameters(len(data), 1, None))
    splits: dict[tuple[float, str], list[float]] = {}
    delta_inverse = carried_milli = 0
    for seed in seeds:
        parts = divide(data, seed, each_by_itself=True)
        base = make_plan(dataset.contract, SPEC, seed)
        for epsilon in epsilons:
            plan = make_private_plan(base, dataset.contract, epsilon, members=len(data))
            terms = noise_terms(plan)
            delta_inverse = terms.delta_inverse
            left = sum_variance(terms, terms.variance, cohort, len(data))
            carried_milli = 1000 * left // int(terms.variance, 16)
            label = (dataset.name, seed, epsilon)
            # The controls answer questions that are asked at epsilon 1 alone.
            arms = tuple(ARMS) if epsilon == 1.0 else ("ours", "curator", *ONE_ROUND)
            if dataset.name == "ist":
                # With 25 sites the controls alone would take most of the time.
                arms = ("ours", "curator", "no-noise", *ONE_ROUND)
            once = make_private_plan(
                base, dataset.contract, epsilon, members=len(data), one_round=True
            )
            found_by_arm = areas(plan, dataset.contract, parts, cohort, label, arms, once)
            for arm, found in found_by_arm.items():
                splits.setdefault((epsilon, arm), []).append(found)
        print(f"{dataset.name}: split {seed} done", file=sys.stderr, flush=True)
    return Table(
        data=dataset.name,
        note=dataset.note,
        rows=sum(one.rows for one in data.values()),
        sites=len(data),
        min_survivors=cohort.min_survivors,
        min_honest=cohort.min_honest,
        carried_milli=carried_milli,
        delta_inverse=delta_inverse,
        seeds=seeds,
        splits=splits,
        governed=tuple(
            _governed(dataset, seeds[0], epsilon, one_round=one_round)
            for epsilon in epsilons
            for one_round in (False, True)
        ),
    )


def _governed(dataset: Dataset, seed: int, epsilon: float, *, one_round: bool) -> bool:
    """Run one study through the full protocol; say whether plain sums give its bytes."""
    with tempfile.TemporaryDirectory() as scratch:
        federation = found_governed(Path(scratch) / "consortium", dataset)
        try:
            base = federation.plan(
                "benchmark",
                with_public_bounds(dataset.contract),
                SPEC,
                split=make_plan(dataset.contract, SPEC, seed).split,
            )
            plan = make_private_plan(
                base, dataset.contract, epsilon, members=len(dataset.sites), one_round=one_round
            )
            return federation.repeats(federation.run_private(plan, dataset))
        finally:
            federation.close()


def _store(stored: dict[str, object]) -> None:
    RESULTS.mkdir(exist_ok=True)
    place = RESULTS / "privacy.json"
    known = json.loads(place.read_text()) if place.exists() else {}
    known[stored["data"]] = stored
    place.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    page = as_markdown([known[name] for name in sorted(known)])
    (RESULTS / "privacy.md").write_text(page)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except TreatyError as error:
        print(f"not measured: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
