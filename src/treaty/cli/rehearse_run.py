"""What ``treaty simulate`` does: read wishes, run the sweep with progress, write page and JSON."""

import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from treaty import wiring
from treaty.cli.output import aligned
from treaty.cli.study_files import read_contract
from treaty.crypto import canonical
from treaty.errors import UsageError
from treaty.evaluation.forecast import Arm, Forecast
from treaty.reports.forecast_page import forecast_headline, render_forecast
from treaty.reports.numerals import area as shown
from treaty.reports.numerals import signed_area
from treaty.simulation.rehearsal import OneRound, Recipe
from treaty.simulation.stand_in import Cousin, Expectations, SchemaSampled, StandIn
from treaty.simulation.whatif import Scenario, expected_sizes, forecast

__all__ = ["Rehearsal", "Wishes", "rehearse_study"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the command line says, not yet understood."""

    contract: Path | None
    data: str | None
    sites: str
    persons: str
    epsilon: str
    colluders: int
    min_survivors: int | None
    delta_inverse: int | None
    one_round: bool
    rounds: int | None
    clip: float | None
    learning_rate: float | None
    area: float
    prevalence: float
    repeats: int
    jobs: int
    seed: int
    out: Path | None


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A forecast and where its files are."""

    forecast: Forecast
    files: tuple[str, ...]

    def record(self) -> object:
        """Return it for programs: the forecast itself."""
        return self.forecast

    def lines(self) -> Iterator[str]:
        """Yield it for people."""
        data = self.forecast
        yield forecast_headline(data)
        if data.learning_rate_milli is None:
            yield "one noised sum of statistics, from which the model follows"
        yield (
            f"{data.members} sites, stand-in: {data.stand_in}; {data.min_honest} honest shares "
            f"carry the noise; delta 1/{data.delta_inverse}; {data.repeats} repeats"
        )
        epsilons = sorted({one.epsilon_milli for one in data.signals})
        rows: list[list[str]] = []
        for arm in Arm:
            cells = [shown(data.band(arm, epsilon).mean) for epsilon in epsilons]
            rows.append([arm.words, *cells])
        rows.append(
            [
                "dividend: shared noise minus alone",
                *(
                    signed_area(data.band(Arm.SHARED, one).mean - data.band(Arm.ALONE, one).mean)
                    for one in epsilons
                ),
            ]
        )
        by_epsilon = {one.epsilon_milli: one for one in data.signals}
        rows.append(
            [
                "first round: signal to noise",
                *(f"{by_epsilon[one].first_milli / 1000:.2f}" for one in epsilons),
            ]
        )
        rows.append(["light", *(by_epsilon[one].light for one in epsilons)])
        yield from aligned(
            rows, ["area under the curve at epsilon", *(f"{one / 1000:g}" for one in epsilons)]
        )
        yield from (f"written {name}" for name in self.files)


def rehearse_study(wishes: Wishes, *, show_progress: bool) -> Rehearsal:
    """Run the rehearsal; errors are those of `Scenario`, `forecast` and the readers."""
    name, stand_in = _stand_in(wishes)
    scenario = Scenario(
        name=name,
        stand_in=stand_in,
        epsilons=tuple(_numbers(wishes.epsilon, "epsilon")),
        max_colluders=wishes.colluders,
        min_survivors=wishes.min_survivors,
        delta_inverse=wishes.delta_inverse,
        recipe=_recipe(wishes),
        repeats=wishes.repeats,
        seed=wishes.seed,
    )
    found = forecast(
        scenario,
        parts=None if wishes.out is None else wishes.out / "parts",
        jobs=wishes.jobs,
        progress=_progress() if show_progress else None,
    )
    files: tuple[str, ...] = ()
    if wishes.out is not None:
        written = (
            (wishes.out / "forecast.json", canonical.encode(found)),
            (wishes.out / "forecast.html", render_forecast(found).encode()),
        )
        for path, content in written:
            wiring.replace_file(path, content)
        files = tuple(str(path) for path, _ in written)
    return Rehearsal(found, files)


def _recipe(wishes: Wishes) -> Recipe | OneRound:
    """Return how the model is trained; what was not asked for takes its default."""
    asked = {
        name: value
        for name, value in (
            ("clip", wishes.clip),
            ("rounds", wishes.rounds),
            ("learning_rate", wishes.learning_rate),
        )
        if value is not None
    }
    if not wishes.one_round:
        return Recipe(**asked)  # type: ignore[arg-type]  # each of its own type
    if wishes.rounds is not None or wishes.learning_rate is not None:
        raise UsageError(
            "one noised sum of statistics has no rounds and no learning rate: leave --rounds and "
            "--learning-rate out"
        )
    return OneRound(**asked)


def _stand_in(wishes: Wishes) -> tuple[str, StandIn]:
    if wishes.data is not None and wishes.contract is None:
        known = wiring.load_dataset(wishes.data)
        return known.name, Cousin(known.name, known.contract, known.conformed())
    if wishes.contract is None or wishes.data is not None:
        raise UsageError("expected either --contract or --data, to say what to rehearse on")
    contract = read_contract(wishes.contract)
    sizes: Mapping[str, int] = expected_sizes(
        _names(wishes.sites), [round(value) for value in _numbers(wishes.persons, "persons")]
    )
    return contract.name, SchemaSampled(
        contract, sizes, Expectations(area=wishes.area, prevalence=wishes.prevalence)
    )


def _names(text: str) -> list[str]:
    if text.isdecimal():
        count = int(text)
        if not 3 <= count <= 128:
            raise UsageError(f"expected 3 to 128 sites, got {count}")
        return [f"site-{number:03d}" for number in range(1, count + 1)]
    names = [name.strip() for name in text.split(",")]
    if len(set(names)) != len(names) or not all(names):
        raise UsageError(f"expected distinct site names with commas between, got {text!r}")
    return names


def _numbers(text: str, what: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(
            f"expected numbers with commas between for {what}, got {text!r}"
        ) from error
    if not all(math.isfinite(value) and value > 0.0 for value in values):
        raise UsageError(f"expected positive numbers for {what}, got {text!r}")
    return values


def _progress() -> Callable[[int, int], None] | None:
    """Return a reporter of finished repeats on a terminal, one line that is rewritten."""
    if not sys.stderr.isatty():
        return None

    def report(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        sys.stderr.write(f"\rrepeat {done} of {total}{end}")
        sys.stderr.flush()

    return report
