"""One protected study in a process of its own, timed and counted round by round.

Run: python -m benchmarks.rounds.own sites rounds workers out.json started directory

Founds a consortium whose parties share nothing but frames, each with keys, store and log on disk
(SQLite, synchronous=FULL). Officers vote the contract and the plan in; then come the sums over
support and statistics, `rounds` training rounds and the evaluation. The model is logistic
regression by federated averaging (a perceptron without hidden layers), so that the number of rounds
is free.
With rounds = 0 it is Newton's method, as the peers run it, until it has converged. With more than
one worker that many processes host the parties; calls are counted in this one alone, processor time
in all of them.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.pipeline import Protected, divide
from benchmarks.rounds.sites import dealt, files
from treaty.crypto.keys import PublicKey, SigningKey
from treaty.models.specification import LogisticRegression, MultilayerPerceptron
from treaty.stores.sqlite import SqliteStore

NAME = "rounds"


@dataclass(slots=True)
class Counts:
    """Calls so far, in all parties together."""

    signatures: int = 0
    verifications: int = 0
    commits: int = 0
    syncs: int = 0


def counted(counts: Counts, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """Return `call`, counting in the field `name`."""

    def wrapper(*arguments: Any, **named: Any) -> Any:
        setattr(counts, name, getattr(counts, name) + 1)
        return call(*arguments, **named)

    return wrapper


def spent(process: int) -> float:
    """Return the processor seconds of another process, to a hundredth. LIMIT: Linux only."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run the study and write the ends of its training rounds, with the counts at each."""
    sites, rounds, workers, out, started, directory = sys.argv[1:7]
    counts = Counts()
    SigningKey.sign = counted(counts, "signatures", SigningKey.sign)  # type: ignore[method-assign]  # a counter
    PublicKey.verify = counted(counts, "verifications", PublicKey.verify)  # type: ignore[method-assign]  # a counter
    SqliteStore.commit = counted(counts, "commits", SqliteStore.commit)  # type: ignore[method-assign]  # a counter
    os.fsync = counted(counts, "syncs", os.fsync)
    dataset = dealt(int(sites))
    model = (
        MultilayerPerceptron(hidden=(), rounds=int(rounds))
        if int(rounds)
        else LogisticRegression(site_intercepts=False)
    )
    ends: list[float] = []
    processor: list[float] = []
    at: list[Counts] = []
    with Protected(
        Path(directory), files(dataset), dataset.contract, durable=True, workers=int(workers)
    ) as protected:
        coordinator = protected.federation.coordinator
        hosts = [host.process_id for host in protected.federation.hosts]

        def watch() -> None:
            for study in coordinator.state.studies.values():
                if len(study.progress.trace) > len(ends):
                    ends.append(time.time())
                    processor.append(time.process_time() + sum(map(spent, hosts)))
                    at.append(Counts(**asdict(counts)))

        protected.run(NAME, model, 0, divide(dataset.conformed(), 0), watch)
    Path(out).write_text(
        json.dumps(
            {
                "first": ends[0] - float(started),
                "ends": ends,
                "processor": processor,
                "counts": [asdict(one) for one in at],
            }
        )
    )


if __name__ == "__main__":
    main()
