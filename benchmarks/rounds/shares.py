"""Where the processor time of a protected round goes: all parties of one process, sampled.

Run: python -m benchmarks.rounds.shares [--sites N] [--rounds N]

The study is that of `benchmarks.rounds` by federated averaging. The kernel interrupts the process
every few milliseconds of its own processor time, that of the kernel for it included; waiting does
not count, so other work on the machine moves the shares little. A sample belongs to the innermost
function of ours; what it calls in libraries is its own. Training rounds count, with the epochs of
keys between them; founding, votes and the first sums do not.

LIMIT: a sample is taken when the interpreter is next between two steps: a long call into a library
is charged rightly, the first step after it a little too much.
"""

import argparse
import signal
import tempfile
from collections import Counter
from pathlib import Path
from types import FrameType

from benchmarks.pipeline import Protected, divide
from benchmarks.rounds.sites import dealt, files
from treaty.models.specification import MultilayerPerceptron

INTERVAL_SECONDS = 0.002
"""Asked of the kernel, which gives what its clock allows: often four milliseconds."""

OTHER = "nodes, engine, everything else"
PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Ed25519, verifying", ("crypto/ed25519.py:", "crypto/keys.py:verify")),
    ("Ed25519, signing", ("crypto/keys.py:",)),
    ("X25519 and ML-KEM", ("crypto/key_agreement.py:",)),
    ("SQLite, with its syncs", ("stores/sqlite.py:",)),
    ("secrets and ledger, in files", ("stores/",)),
    (
        "reading and writing statements",
        (
            "crypto/canonical.py:",
            "crypto/envelope.py:",
            "protocol/compact.py:",
            "protocol/frames.py:",
            "protocol/statements.py:",
        ),
    ),
    ("tree and checkpoints", ("tlog/", "node/log_keeper.py:")),
    (
        "masks, shares and their keys",
        (
            "crypto/",
            "aggregation/masking.py:",
            "aggregation/quantization.py:",
            "protocol/secagg_keys.py:",
            "protocol/secagg_dealing.py:",
            "protocol/secagg_opening.py:",
        ),
    ),
    (
        "training, and the next model",
        ("trainers/", "models/", "aggregation/", "contracts/", "studies/", "node/contribution.py:"),
    ),
    ("state machines", ("protocol/", "governance/", "privacy/")),
)
"""Parts by beginnings of file and function; the first that fits counts."""


def part_of(frame: FrameType | None) -> str:
    """Return the part of the round that a stack belongs to."""
    while frame is not None:
        _, inside, place = frame.f_code.co_filename.partition("/src/treaty/")
        if inside:
            name = f"{place}:{frame.f_code.co_name}"
            found = (part for part, beginnings in PARTS if name.startswith(beginnings))
            return next(found, OTHER)
        frame = frame.f_back
    return OTHER


def main() -> None:
    """Run, and print the shares."""
    parser = argparse.ArgumentParser(description="where the time of a protected round goes")
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=100)
    arguments = parser.parse_args()
    samples: Counter[str] = Counter()
    signal.signal(signal.SIGPROF, lambda _, frame: samples.update((part_of(frame),)))
    dataset = dealt(arguments.sites)
    model = MultilayerPerceptron(hidden=(), rounds=arguments.rounds)
    with (
        tempfile.TemporaryDirectory() as place,
        Protected(Path(place) / "c", files(dataset), dataset.contract, durable=True) as protected,
    ):
        coordinator = protected.federation.coordinator

        def watch() -> None:
            for study in coordinator.state.studies.values():
                done = len(study.progress.trace)
                on = 0 < done < arguments.rounds
                if on != (signal.getitimer(signal.ITIMER_PROF)[1] > 0):
                    interval = INTERVAL_SECONDS if on else 0.0
                    signal.setitimer(signal.ITIMER_PROF, interval, interval)

        protected.run("shares", model, 0, divide(dataset.conformed(), 0), watch)
    total = sum(samples.values())
    print(f"{arguments.sites} sites, {total} samples\n")
    print("| part of a round | share |\n|---|---|")
    for part, count in samples.most_common():
        print(f"| {part} | {count / total:.0%} |")


if __name__ == "__main__":
    main()
