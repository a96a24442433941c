"""Run a command in a process tree of its own: bounded in time, its memory sampled.

The tree is found by a mark in the environment, which children inherit also when they detach.
Memory is the sum over the tree of proportional set sizes (shared pages counted once), sampled
twice a second, which takes half a percent of a processor; the peak is the largest sample.

LIMIT: Linux only, for `/proc`.
"""

import os
import secrets
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Ran", "run_bounded"]

_MARK = "ROUNDS_BENCHMARK"
_INTERVAL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended. `failure` is None, or one line that says why there is no result."""

    failure: str | None
    peak_mebibytes: float
    seconds: float


def run_bounded(
    command: Sequence[str],
    *,
    directory: Path,
    limit_seconds: float,
    environment: Mapping[str, str] | None = None,
    log: Path | None = None,
) -> Ran:
    """Run `command` in `directory`, ending what is left of its tree after `limit_seconds`.

    What it prints goes to `log`, by default ``output.log`` in `directory`.
    """
    mark = secrets.token_hex(16)
    variables = {**os.environ, **(environment or {}), _MARK: mark}
    log = log or directory / "output.log"
    start = time.monotonic()
    peak = 0.0
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, env=variables, stdout=output, stderr=subprocess.STDOUT
        )
        while process.poll() is None and time.monotonic() - start < limit_seconds:
            peak = max(peak, sum(_proportional(identity) for identity in _tree(mark)))
            time.sleep(_INTERVAL_SECONDS)
    seconds = time.monotonic() - start
    late = process.poll() is None
    _end(mark)
    process.wait()
    if late:
        return Ran(f"no result within {limit_seconds:.0f} s", peak, seconds)
    if process.returncode != 0:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        return Ran(f"exit code {process.returncode}: {''.join(last)[:200]}", peak, seconds)
    return Ran(None, peak, seconds)


def _tree(mark: str) -> list[int]:
    wanted = f"{_MARK}={mark}".encode()
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                if wanted in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
            except OSError:
                # Gone meanwhile, or another user's.
                continue
    return found


def _proportional(identity: int) -> float:
    try:
        text = Path(f"/proc/{identity}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _end(mark: str) -> None:
    """End what is left of the tree: asked first, then made to."""
    for wanted, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        for identity in _tree(mark):
            try:
                os.kill(identity, wanted)
            except ProcessLookupError:
                continue
        while _tree(mark) and time.monotonic() < deadline:
            time.sleep(0.1)
