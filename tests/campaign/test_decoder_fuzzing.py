"""T-50: decoder fuzzing in bulk: nothing but a value or the decoder's own refusal, ever.

Every decoder of `tests/fuzz/decoders.py` takes its turn: one damaged or random input each, the
slow ones (signatures, replay) every tenth turn. ``ci`` is 100,000 inputs under a fixed seed;
``full`` is 10,000,000 from a seed of the day, and stores inputs, readings and the slowest input of
each decoder in `tests/campaign/results/decoder_fuzzing.json`; a run that is ended early leaves the
table as far as it came.

A failure prints the target and the input in hexadecimal: make it a line of
`tests/fuzz/test_decoders.py`. Planted faults: see there; each also fails here.
"""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.fuzz.decoders import SLOW, Target, damaged, targets

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
RESULTS = Path(__file__).parent / "results" / "decoder_fuzzing.json"
COUNT = 10_000_000 if FULL else 100_000
SEED = 20_261_129
SLOW_EVERY = 10
SLOWEST_S = 1.0
"""CPU time that no input of a few kilobytes may take; the bundle target replays a log in it."""


class Tally:
    """What came of the inputs of each target."""

    def __init__(self) -> None:
        self.inputs: Counter[str] = Counter()
        self.read: Counter[str] = Counter()
        self.slowest: dict[str, float] = {}

    def judge(self, target: Target, data: bytes) -> None:
        """Give `data` to the target; fail on anything but a value or its refusals."""
        name = target.name
        self.inputs[name] += 1
        began = time.thread_time()
        try:
            value = target.read(data)
        except target.refusals:
            value = None
        except BaseException as error:
            raise AssertionError(f"{name}: {type(error).__name__} from {data.hex()}") from error
        took = time.thread_time() - began
        if took > self.slowest.get(name, 0.0):
            self.slowest[name] = took
            assert took < SLOWEST_S, f"{name}: {took:.2f} s for {data.hex()}"
        if value is not None:
            self.read[name] += 1
            if target.again is not None:
                assert target.again(value) == data, f"{name} reads another spelling: {data.hex()}"


def run(count: int, seed: int, progress: Callable[[Tally], None] | None = None) -> Tally:
    """Give `count` inputs to the targets in turn; report every ten thousand turns."""
    draw = random.Random(seed)
    tally, made, turn = Tally(), 0, 0
    everything = targets()
    while made < count:
        for target in everything:
            if target.name in SLOW and turn % SLOW_EVERY:
                continue
            tally.judge(target, damaged(target, draw))
            made += 1
        turn += 1
        if progress is not None and turn % 10_000 == 0:
            progress(tally)
    return tally


def store(tally: Tally, seed: int, began: float) -> None:
    """Write the table of a full run, as far as it has come."""
    inputs = sum(tally.inputs.values())
    table = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": "TREATY_CAMPAIGN=full python -m pytest tests/campaign/test_decoder_fuzzing.py",
        "seed": seed,
        "asked": COUNT,
        "inputs": inputs,
        "complete": inputs >= COUNT,
        "cpu_seconds": round(time.process_time() - began),
        "other_errors": 0,
        "targets": [
            {
                "target": name,
                "inputs": tally.inputs[name],
                "read": tally.read[name],
                "slowest_ms": round(tally.slowest[name] * 1000, 1),
            }
            for name in tally.inputs
        ],
    }
    RESULTS.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


@pytest.mark.timeout(0 if FULL else 400)
def test_only_refusals_come_out() -> None:
    seed = int(datetime.now(UTC).strftime("%Y%m%d")) if FULL else SEED
    began = time.process_time()
    tally = run(COUNT, seed, (lambda part: store(part, seed, began)) if FULL else None)
    if FULL:
        store(tally, seed, began)
    # Damage must reach past the first check of a decoder, or the campaign tries nothing.
    assert sum(tally.read.values()) > sum(tally.inputs.values()) // 100
    assert sum(tally.inputs.values()) >= COUNT


def test_the_stored_run_says_what_it_is() -> None:
    """The table adds up, has every target of its day, and does not claim more than it did."""
    stored = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert sum(row["inputs"] for row in stored["targets"]) == stored["inputs"] > 1_000_000
    assert stored["complete"] == (stored["inputs"] >= stored["asked"] == 10_000_000)
    assert stored["other_errors"] == 0
    assert {row["target"] for row in stored["targets"]} <= {one.name for one in targets()}
