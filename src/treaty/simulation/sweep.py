"""Sweep: many independent repeats, side by side, with progress, and taken up after a stop.

Each finished repeat is a file of its own under a directory named by the digest of everything that
determines the results, so a sweep that was cut off goes on where it stood and another
scenario never meets its files (docs/spec/whatif.md, section 5).

Several jobs run through joblib (the extra ``[simulate]``), whose backends reach past one machine.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from treaty.errors import ResourceError, UsageError
from treaty.ids import Digest

__all__ = ["Repeat", "run_sweep"]

Numbers = Mapping[str, float]
Repeat = Callable[[int], Numbers]
"""Returns the numbers of one repeat; must be picklable by joblib's backend."""


def run_sweep(
    repeat: Repeat,
    repeats: int,
    *,
    scenario: Digest,
    parts: Path | None = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> list[Numbers]:
    """Return the numbers of repeats 0 .. `repeats` - 1, in order.

    `progress` is told (done, of) after each. With `parts`, finished repeats are kept there and
    not run again. Raises `ResourceError` when they cannot be read or written.
    """
    if not 1 <= repeats <= 10_000:
        raise UsageError(f"repeats must be in 1 .. 10000, got {repeats}")
    if jobs < 1:
        raise UsageError(f"jobs must be at least 1, got {jobs}")
    place = None if parts is None else parts / scenario[:16]
    found = {} if place is None else _stored(place, repeats)
    missing = [number for number in range(repeats) if number not in found]
    if progress is not None:
        progress(len(found), repeats)
    for number, numbers in _outcomes(repeat, missing, jobs):
        if place is not None:
            _keep(place / f"{number}.json", numbers)
        found[number] = numbers
        if progress is not None:
            progress(len(found), repeats)
    return [found[number] for number in range(repeats)]


class _Numbered:
    """A repeat that says which it was, for results that come in any order."""

    def __init__(self, repeat: Repeat) -> None:
        self._repeat = repeat

    def __call__(self, number: int) -> tuple[int, Numbers]:
        return number, self._repeat(number)


def _outcomes(repeat: Repeat, missing: list[int], jobs: int) -> Iterator[tuple[int, Numbers]]:
    numbered = _Numbered(repeat)
    if jobs == 1 or len(missing) < 2:
        yield from (numbered(number) for number in missing)
        return
    try:
        import joblib
    except ImportError as error:
        raise ResourceError(
            "several jobs need joblib: install the extra [simulate], or use --jobs 1"
        ) from error
    work = (joblib.delayed(numbered)(number) for number in missing)
    yield from joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(work)


def _stored(place: Path, repeats: int) -> dict[int, Numbers]:
    found: dict[int, Numbers] = {}
    for number in range(repeats):
        path = place / f"{number}.json"
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ResourceError(f"cannot read {path}: {error.strerror}") from error
        numbers = _parsed(text)
        # A file that was cut off is run again.
        if numbers is not None:
            found[number] = numbers
    return found


def _parsed(text: str) -> Numbers | None:
    try:
        value = json.loads(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not all(
        isinstance(number, int | float) for number in value.values()
    ):
        return None
    return {str(key): float(number) for key, number in value.items()}


def _keep(path: Path, numbers: Numbers) -> None:
    partial = path.with_suffix(".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(dict(numbers), sort_keys=True), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise ResourceError(f"cannot keep {path}: {error.strerror}") from error
