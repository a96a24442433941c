"""The demonstration: real hospitals train one model, and anyone can check it afterwards.

`run_demo` founds a simulated consortium on a known data set, runs one study to its release, exports
the bundle, has it verified by a process of its own, and writes the report and the result. A
directory in which an earlier run was cut off is taken up where it stands: what was asked for then
lies in demo.json, and asking for something else is refused.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from treaty import wiring
from treaty.api import Consortium, Study, from_dataset
from treaty.cli.output import verify_command
from treaty.errors import ResourceError, UsageError
from treaty.models.specification import (
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
)
from treaty.protocol.consortium import Consortium as State
from treaty.protocol.messages import Figures
from treaty.protocol.secure_round import RoundPhase
from treaty.provenance.verify import VerdictRecord, said_lines, verify_bundle
from treaty.reports.summary import report_html
from treaty.studies.calibrating import Privacy
from treaty.studies.certificates import happened_line, holdout_line, partition_lines
from treaty.studies.outcome import FigureRecord

if TYPE_CHECKING:
    from treaty.wiring import Dataset

__all__ = [
    "EXACT_MODELS",
    "MODELS",
    "DemoProgress",
    "DemoResult",
    "DemoSettings",
    "choose_data",
    "run_demo",
]

SETTINGS = "demo.json"
WITH_DP = (
    "privacy: differential, epsilon 1 for a person; every site adds its share of noise to each sum"
)
NO_DP = (
    "PRIVACY: NONE IS CLAIMED. --no-dp makes every sum exact: a published total can be subtracted "
    "by whoever knows the rest"
)

MODELS: dict[str, ModelSpecification] = {
    "logistic": LogisticRegression(),
    "perceptron": MultilayerPerceptron(hidden=(16,), rounds=20),
}
"""The models that the demonstration trains under noise, fixed before anything was run."""

EXACT_MODELS: dict[str, ModelSpecification] = {
    "site-intercepts": LogisticRegression(site_intercepts=True),
    "plain": LogisticRegression(site_intercepts=False),
    "perceptron": MODELS["perceptron"],
}
"""The models that it trains on exact sums."""


@dataclass(frozen=True, slots=True)
class DemoProgress:
    """Where the run stands: phase in words, round, sites in, late and lost, loss, log size.

    `sums` counts the sums published so far, `summed` the sites in the last of them.
    """

    phase: str
    round: int
    sites_in: int
    late: int
    lost: int
    loss: float | None
    log_size: int
    sums: int = 0
    summed: int = 0


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What came out: `record` is result.json, `verdict` what the verifier printed."""

    study: Study
    dataset: "Dataset"
    record: dict[str, object]
    verdict: tuple[str, ...]
    verified: bool
    learned: tuple[tuple[str, str, str], ...]


class DemoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a run was asked for: the data set that was found, what is said of it, model, seed.

    `exact` says that sums are exact, without differential privacy; `holdout_milli` is epsilon of
    the evaluation in thousandths, None where its histogram is exact.
    """

    data: str
    note: str
    model: str
    seed: int
    exact: bool = False
    holdout_milli: int | None = None
    format: Literal["treaty.demo/v1"] = "treaty.demo/v1"


def choose_data(name: str, cache: Path | None) -> "Dataset":
    """Return what `--data` names; ``auto`` is heart from disk, by download, or a substitute."""
    match name:
        case "auto":
            return wiring.load_dataset("heart", cache=cache, substitute=True)
        case "heart" | "ist" | "breast-cancer":
            return wiring.load_dataset(name, cache=cache)
        case _:
            raise UsageError(f"expected auto, heart, ist or breast-cancer, got {name!r}")


def run_demo(
    out: Path,
    *,
    data: str = "auto",
    seed: int = 0,
    model: str | None = None,
    exact: bool = False,
    holdout_epsilon: float | None = None,
    progress: Callable[[DemoProgress], None] | None = None,
    announce: Callable[[str], None] | None = None,
) -> DemoResult:
    """Run the demonstration in `out` and return its result.

    Training is differentially private, at epsilon 1, unless `exact`. `model` None takes the first
    of `MODELS`, or of `EXACT_MODELS`. `announce` gets a sentence on the data, one on privacy, and
    one when an interrupted run goes on. Raises `UsageError` for unknown names and for a directory
    that is finished or not a demonstration's, `ResourceError` when data, disk or verifier fail.
    """
    say = announce or (lambda _: None)
    started = time.monotonic()
    offered = EXACT_MODELS if exact else MODELS
    model = model or next(iter(offered))
    if model not in offered:
        hint = "" if exact or model not in EXACT_MODELS else ": it needs --no-dp"
        raise UsageError(f"expected a model of {', '.join(offered)}, got {model!r}{hint}")
    if exact and holdout_epsilon is not None:
        raise UsageError("exact sums have no noise: leave out --holdout-epsilon, or --no-dp")
    asked = None if exact else Privacy(holdout_epsilon=holdout_epsilon)
    held = None if holdout_epsilon is None else round(holdout_epsilon * 1000)
    earlier = _earlier(out, data, model, seed, exact, held)
    wiring.make_directory(out, mode=0o755)
    if earlier is None:
        dataset = choose_data(data, out / "cache")
        settings = DemoSettings(dataset.name, dataset.note, model, seed, exact, held)
        wiring.write_file(out / SETTINGS, msgspec.json.encode(settings))
    else:
        dataset = replace(choose_data(earlier.data, out / "cache"), note=earlier.note)
        say(f"an interrupted run lies in {out}: it goes on where its log ends")
    say(f"data: {dataset.note}")
    say(NO_DP if exact else WITH_DP)
    consortium = from_dataset(
        dataset,
        out,
        consortium=f"{dataset.name}.example",
        title=f"Demonstration: {dataset.note}",
        exact_sums=exact,
    )
    ready = time.monotonic()
    try:
        study = consortium.train(
            offered[model],
            privacy=asked,
            name=f"{dataset.name}-{model}",
            seed=seed,
            site_figures=exact,
            compare_pooled=not exact or model != "perceptron",
            progress=None if progress is None else lambda state: progress(_progress(state)),
        )
        trained = time.monotonic()
        if study.state.final_model is None:
            code = study.state.halt_code
            raise ResourceError(
                f"the study halted ({'no code' if code is None else code.value}): "
                f"{study.state.progress.halt_reason}"
            )
        files = consortium.federation.bundle("full")
    finally:
        consortium.close()
    staging = out / "bundle.partial"
    _remove(staging)
    wiring.write_bundle(staging, files)
    verified, verdict = _verify_apart(
        staging,
        study.anchor,
        study.state.final_model,
        consortium.federation.coordinator.size,
    )
    own = verify_bundle(wiring.read_bundle(staging), study.state.history.anchor)
    wiring.write_file(out / "report.html", report_html(own, files).encode())
    record = _record(study, dataset, verified, trained - ready, time.monotonic() - started)
    text = json.dumps(record, indent=1, sort_keys=True) + "\n"
    wiring.write_file(out / "result.json", text.encode())
    # Last: a directory with a bundle is a finished demonstration.
    os.replace(staging, out / "bundle")
    return DemoResult(study, dataset, record, verdict, verified, _learned(consortium, study))


def _earlier(
    out: Path, data: str, model: str, seed: int, exact: bool, held: int | None
) -> DemoSettings | None:
    """Return what the interrupted run in `out` was asked for, None for a new directory.

    Raises `UsageError` when it is finished, asked for something else, or is no demonstration.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file: name a new directory with --out")
    if (out / "bundle").exists():
        command = verify_command(out / "bundle", "HEX")
        raise UsageError(
            f"{out} holds a finished demonstration: check it with `{command}`, "
            f"HEX from {out}/anchor.txt, or name another directory with --out"
        )
    if not (out / SETTINGS).exists():
        if out.exists() and {path.name for path in out.iterdir()} - {"cache"}:
            raise UsageError(f"{out} is in use for something else: name another one with --out")
        return None
    try:
        found = msgspec.json.decode(wiring.read_file(out / SETTINGS), type=DemoSettings)
    except msgspec.MsgspecError as error:
        raise ResourceError(f"{out / SETTINGS} is damaged: remove {out} and start anew") from error
    asked = (model, seed, exact, held)
    before = (found.model, found.seed, found.exact, found.holdout_milli)
    if data not in ("auto", found.data) or asked != before:
        raise UsageError(
            f"{out} holds an interrupted run with --data {found.data} --model {found.model} "
            f"--seed {found.seed}{' --no-dp' if found.exact else ''}{_held(found)}: ask for the "
            "same, or name "
            "another directory with --out"
        )
    return found


def _held(found: DemoSettings) -> str:
    milli = found.holdout_milli
    return "" if milli is None else f" --holdout-epsilon {milli / 1000:g}"


def _progress(state: State) -> DemoProgress:
    study = state.running or next(reversed(list(state.studies.values())), None)
    if study is None:
        return DemoProgress("founding and voting", 0, 0, 0, 0, None, state.size)
    trace = study.progress.trace
    record = study.round
    asked = 0 if record is None else len(record.participants)
    done = [one for one in study.rounds if one.phase is RoundPhase.PUBLISHED]
    last = 0 if not done else len(done[-1].members_in)
    sent = last if record is None else len(record.inputs)
    late = 0 if record is None else asked - sent
    lost = 0 if not done else len(study.group.members) - last
    return DemoProgress(
        study.progress.stage.value,
        len(trace),
        sent,
        late,
        lost,
        trace[-1].loss if trace else None,
        state.size,
        study.progress.index,
        last,
    )


def _verify_apart(bundle: Path, anchor: str, model: str, size: int) -> tuple[bool, tuple[str, ...]]:
    """Run the verifier as a process of its own, as an auditor would; return its verdict.

    It holds only if the process says so of this model and this log: an exit code alone would also
    be that of a process that checked nothing.
    """
    command = [sys.executable, "-m", "treaty", "verify", str(bundle), "--anchor", anchor]
    done = subprocess.run(
        [*command, "--format", "json"], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode != 0:
        return False, tuple((done.stdout + done.stderr).splitlines())
    try:
        said = msgspec.json.decode(done.stdout.encode(), type=VerdictRecord)
    except msgspec.MsgspecError:
        return False, ("the verifier printed no verdict",)
    holds = (said.verdict, said.model, said.size, said.anchor) == ("holds", model, size, anchor)
    return holds, said_lines(said)


def _record(
    study: Study, dataset: "Dataset", verified: bool, study_seconds: float, seconds: float
) -> dict[str, object]:
    outcome, comparison = study.evaluation, study.comparison
    state = study.state
    record: dict[str, object] = {
        "format": "treaty.demo-result/v1",
        "data": dataset.name,
        "data_note": dataset.note,
        "sites": len(state.group.members),
        "federated": _figures(outcome.federated),
        "alone": None if outcome.alone is None else _figures(outcome.alone),
        "per_site": {
            name: {"federated": _figures(one.federated), "alone": _figures(one.alone)}
            for name, one in sorted(state.reports.items())
        },
        "rounds": len(state.progress.trace),
        "secure_sums": state.progress.index,
        "model": state.final_model,
        "log_size": study._consortium.state.size,
        "anchor": study.anchor,
        "verdict": "holds" if verified else "refused",
        "comparison_verdict": outcome.verdict,
        "differential_privacy": _certified(study),
        "study_seconds": round(study_seconds, 3),
        "seconds": round(seconds, 3),
    }
    if comparison is not None and comparison.alone_private_everywhere is not None:
        record["alone_everywhere_same_epsilon_simulation_only"] = {
            name: _figures(one) for name, one in comparison.alone_private_everywhere.items()
        }
        record["alone_everywhere_no_noise_simulation_only"] = {
            name: _figures(one) for name, one in comparison.alone_everywhere.items()
        }
    if comparison is not None:
        record["pooled_simulation_only"] = _figures(comparison.pooled)
        record["max_probability_gap_simulation_only"] = comparison.max_probability_gap_e12 / 1e12
    return record


def _certified(study: Study) -> dict[str, object] | None:
    """Return the privacy statement for result.json, None where sums are exact."""
    statement = study.privacy
    if statement is None:
        return None
    lines = [*partition_lines(statement), happened_line(statement)]
    noised = holdout_line(statement)
    lines += [] if noised is None else [noised]
    return {"lines": lines, "statement": msgspec.to_builtins(statement)}


def _figures(figures: Figures | FigureRecord) -> dict[str, float | None]:
    return {
        "accuracy": figures.accuracy / 1e6,
        "auc": None if figures.auc is None else figures.auc / 1e6,
        "brier": figures.brier / 1e6,
    }


def _learned(consortium: Consortium, study: Study) -> tuple[tuple[str, str, str], ...]:
    """Return who learned what: (who, what, how it was seen)."""
    sums = study.state.progress.index
    survivors = study.state.group.min_survivors
    reports = len(study.state.reports)
    if study.privacy is not None:
        exact = study.privacy.certificates[1].non_private
        return (
            (
                "coordinator, members",
                f"{sums - 1} sums over training rows, each over at least {survivors} sites",
                "noised: every site's share is in it",
            ),
            ("coordinator, members", "the model after every round", "derived from the noised sums"),
            (
                "coordinator, members",
                "one histogram of scores on test rows",
                "exact, as the charter accepts by name"
                if exact
                else "noised: every site's share is in it",
            ),
            (
                "coordinator",
                "masked vectors",
                "indistinguishable from random before they are summed",
            ),
            ("nobody but the site", "rows, counts, means, its own model", "never leave"),
        )
    return (
        (
            "coordinator, members",
            f"{sums} sums, each over at least {survivors} sites",
            "exact, as the charter accepts by name",
        ),
        ("coordinator, members", "the model after every round", "derived from the sums"),
        (
            "coordinator, members",
            f"accuracy, AUC and Brier of {reports} sites on their own holdouts",
            "exact, because this charter's row site-metric says so",
        ),
        ("coordinator", "masked vectors", "indistinguishable from random before they are summed"),
        ("nobody but the site", "rows, counts, means, intercepts", "never leave"),
    )


def _remove(directory: Path) -> None:
    """Remove what an interrupted run left in a staging directory of ours."""
    if not directory.exists():
        return
    for path in sorted(directory.rglob("*"), reverse=True):
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink()
    directory.rmdir()
