"""One study over the real nodes in a process of its own: what a round costs a member, and sends.

Run: python -m benchmarks.secagg.nodes members hidden rounds profiled out.json directory

A consortium as in `benchmarks.rounds`: keys, store and log on disk for every party. The model is a
perceptron by federated averaging, so that its width sets the length of the vector. What a member
spends while it handles frames is counted, without its trainer; commits are those of its own
store. With `profiled` = 1 the members run under a profiler, which gives shares and no times.
"""

import cProfile
import json
import pstats
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.rounds.sites import dealt, files
from treaty.datasets.splits import HOLDOUT_PERMILLE
from treaty.engines.embedded import EgressRecord, Passage
from treaty.models.specification import MultilayerPerceptron
from treaty.node.participant import Participant
from treaty.protocol.frames import decode_post
from treaty.protocol.secagg_messages import MaskedInput
from treaty.protocol.statements import peek
from treaty.simulation.federation import COORDINATOR, Federation
from treaty.stores.sqlite import SqliteStore
from treaty.studies.plan import AggregationSettings, SplitSettings
from treaty.trainers.numpy_trainer import NumpyTrainer

__all__ = ["Ledger"]

SEED = 0
TOP = 12


@dataclass(slots=True)
class Ledger:
    """What members have spent so far, and which of them is at work; "" when none is."""

    turn: str = ""
    seconds: Counter[str] = field(default_factory=Counter)
    commits: Counter[str] = field(default_factory=Counter)
    profile: cProfile.Profile | None = None


def instrument(ledger: Ledger) -> None:
    """Let the members' nodes, stores and trainers write into `ledger`."""
    handle, commit, compute = Participant.handle, SqliteStore.commit, NumpyTrainer.compute

    def handled(node: Participant, *arguments: Any) -> None:
        ledger.turn = node.name
        start = time.process_time()
        if ledger.profile is not None:
            ledger.profile.enable()
        try:
            handle(node, *arguments)
        finally:
            if ledger.profile is not None:
                ledger.profile.disable()
            ledger.seconds[node.name] += time.process_time() - start
            ledger.turn = ""

    def committed(*arguments: Any) -> None:
        ledger.commits[ledger.turn] += 1
        commit(*arguments)

    def computed(*arguments: Any) -> Any:
        start = time.process_time()
        try:
            return compute(*arguments)
        finally:
            ledger.seconds[ledger.turn] -= time.process_time() - start

    _replace(Participant, "handle", handled)
    _replace(SqliteStore, "commit", committed)
    _replace(NumpyTrainer, "compute", computed)


def _replace(kind: type, name: str, call: Callable[..., Any]) -> None:
    setattr(kind, name, call)


def main() -> None:
    """Run the study and write the figures of its training rounds."""
    members, hidden, rounds, profiled, out, directory = sys.argv[1:7]
    ledger = Ledger()
    dataset = dealt(int(members))
    place = Path(directory)
    Federation.found(place, files(dataset), consortium="benchmark")
    federation = Federation(place, capture=True)
    marks: list[tuple[int, dict[str, float], dict[str, int]]] = []

    def watch() -> None:
        for study in federation.coordinator.state.studies.values():
            if len(study.progress.trace) > len(marks):
                marks.append((study.epochs, dict(ledger.seconds), dict(ledger.commits)))

    try:
        federation.establish()
        plan = federation.plan(
            "nodes",
            dataset.contract,
            MultilayerPerceptron(hidden=(int(hidden),), rounds=int(rounds)),
            split=SplitSettings(holdout_permille=HOLDOUT_PERMILLE, seed=SEED),
            aggregation=AggregationSettings(support_rows=1),
        )
        instrument(ledger)
        if profiled == "1":
            ledger.profile = cProfile.Profile()
        study = federation.run_study(plan, dataset.contract, watch)
        opened = {record.context: record for record in study.rounds}
        sent = list(uploads(federation.network.egress))
    finally:
        federation.close()
    training = max(one.length for one in opened.values())
    spent, committed = [], []
    # A result may bring the opening of the next epoch with it: then the round after it is not one.
    for before, (epoch, seconds, commits), (following, more, others) in zip(
        [marks[0], *marks], marks, marks[1:], strict=False
    ):
        if before[0] == epoch == following:
            spent += [more[name] - seconds[name] for name in federation.members]
            committed += [others[name] - commits[name] for name in federation.members]
    told = {
        "length": training,
        "rounds": len(marks),
        "seconds": statistics.median(spent),
        "least": min(spent),
        "with_epochs": (sum(marks[-1][1].values()) - sum(marks[0][1].values()))
        / ((len(marks) - 1) * len(federation.members)),
        "commits": max(committed),
        "beyond": max(
            size - opened[context].length * opened[context].ring_bits // 8
            for context, size in sent
            if opened[context].length == training
        ),
        "profile": [] if ledger.profile is None else shares(ledger.profile),
    }
    Path(out).write_text(json.dumps(told))


def uploads(records: Iterable[EgressRecord]) -> Iterable[tuple[str, int]]:
    """Yield (context, bytes) of every masked input that left: its frame, and what it offered."""
    offered = {one.digest: one.size_bytes for one in records if one.passage is Passage.OFFER}
    for one in records:
        if one.recipient != COORDINATOR or one.passage is not Passage.FRAME or not one.content:
            continue
        for statement in decode_post(one.content).statements:
            body = peek(statement)[1]
            if isinstance(body, MaskedInput):
                yield body.context, one.size_bytes + offered.get(body.blob, 0)  # type: ignore[call-overload]  # both are hex


def shares(profile: cProfile.Profile) -> list[tuple[str, float]]:
    """Return the largest shares of the profiled time: what each function spends by itself."""
    table = pstats.Stats(profile).stats  # type: ignore[attr-defined]  # untyped, and stable
    own: Counter[str] = Counter()
    for (file, _, name), (_, _, spent, _, _) in table.items():
        # From the library or source tree on: where those lie is this machine's business.
        module = re.split(r"/site-packages/|/src/|/lib/python[0-9.]+/", file)[-1]
        where = name if file == "~" else f"{module.removesuffix('.py').replace('/', '.')}.{name}"
        own[where] += spent
    total = sum(own.values())
    return [(name, round(spent / total, 3)) for name, spent in own.most_common(TOP)]


if __name__ == "__main__":
    main()
