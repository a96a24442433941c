"""How the demonstration shows itself: live while it runs, and one summary at the end.

On a terminal one line is kept up to date; elsewhere each published sum prints a line of its own, so
that a transcript of the run reads the same everywhere. Everything goes to standard output and
comes from the folded log and the verifier's process.
"""

import sys
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table

from treaty.cli.demo import DemoProgress, DemoResult
from treaty.cli.output import aligned, printable, verify_command
from treaty.studies.certificates import statement_lines
from treaty.studies.outcome import noised_note

__all__ = ["DemoView", "result_lines", "result_record"]

_HEADINGS = ("phase", "round", "in", "late", "lost", "loss", "log")


class DemoView:
    """Shows the progress of a run; with `silent` nothing."""

    def __init__(self, *, silent: bool = False) -> None:
        self._silent = silent
        self._live: Live | None = None
        if not silent and sys.stdout.isatty():
            self._live = Live(console=Console(), transient=True, refresh_per_second=8)
        self._before: DemoProgress | None = None

    def __enter__(self) -> "DemoView":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def announce(self, sentence: str) -> None:
        """Print a sentence at once."""
        if not self._silent:
            self._print(sentence)

    def show(self, now: DemoProgress) -> None:
        """Take note of where the run stands."""
        before, self._before = self._before, now
        if self._silent or now == before:
            return
        if self._live is not None:
            self._live.update(_table(now))
        elif before is None or (before.phase != now.phase and now.sums == before.sums):
            # Before the first sum there is nothing to count but the log.
            self._print(f"{now.phase}: log {now.log_size}")
        elif now.sums > before.sums:
            self._print(_line(before.phase, now))

    def _print(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(printable(text), markup=False, highlight=False)
        else:
            sys.stdout.write(printable(text) + "\n")
            sys.stdout.flush()


def result_lines(result: DemoResult, out: Path) -> list[str]:
    """Return the summary: one table, who learned what, the verdict, and where everything lies."""
    study = result.study
    rows = [
        (name, _share(accuracy), _share(auc), _share(brier))
        for name, accuracy, auc, brier in study.compare()
    ]
    anchor = study.anchor
    return [
        "",
        "Federated against alone, on rows held out",
        *_indented(aligned(rows, ("", "accuracy", "AUC", "Brier"))),
        *([f"  {note}"] if (note := noised_note(study.evaluation.federated)) else []),
        "",
        "Who learned what",
        *_indented(aligned(result.learned)),
        "",
        "What a person risks",
        *_indented(_privacy_lines(result)),
        "",
        "What a separate process found in the bundle",
        *_indented(list(result.verdict)),
        "" if result.verified else "  it does not hold: do not use this model",
        *_indented(
            aligned(
                [
                    ("anchor", out / "anchor.txt"),
                    ("bundle", f"{out / 'bundle'}/"),
                    ("report", out / "report.html"),
                    ("result", out / "result.json"),
                    ("verify", verify_command(out / "bundle", anchor)),
                ]
            )
        ),
    ]


def _privacy_lines(result: DemoResult) -> list[str]:
    """Return one certificate line for each partition, and what the log shows."""
    statement = result.study.privacy
    if statement is None:
        return [
            "PRIVACY: NONE IS CLAIMED. Sums are exact (--no-dp), as the charter accepts by name"
        ]
    return statement_lines(statement)


def result_record(result: DemoResult, out: Path) -> dict[str, object]:
    """Return the summary for programs; shares are parts per million."""
    return {
        "anchor": result.study.anchor,
        "bundle": str(out / "bundle"),
        "data": result.dataset.name,
        "data_note": result.dataset.note,
        "differential_privacy": result.record["differential_privacy"],
        "figures": [
            {"accuracy_ppm": accuracy, "auc_ppm": auc, "brier_ppm": brier, "name": name.strip()}
            for name, accuracy, auc, brier in result.study.compare()
        ],
        "learned": [{"form": form, "what": what, "who": who} for who, what, form in result.learned],
        "model": result.study.state.final_model,
        "report": str(out / "report.html"),
        "result": str(out / "result.json"),
        "simulation": True,
        "verdict": list(result.verdict),
        "verified": result.verified,
    }


def _table(now: DemoProgress) -> Table:
    table = Table(*_HEADINGS, box=None, pad_edge=False)
    table.add_row(*_cells(now.phase, now))
    return table


def _cells(phase: str, now: DemoProgress) -> tuple[str, ...]:
    loss = "-" if now.loss is None else f"{now.loss:.4f}"
    return (
        phase,
        str(now.round),
        str(now.sites_in),
        str(now.late),
        str(now.lost),
        loss,
        str(now.log_size),
    )


def _line(phase: str, now: DemoProgress) -> str:
    number = f" {now.round}" if phase == "training" else ""
    loss = "" if now.loss is None or phase != "training" else f", loss {now.loss:.4f}"
    return f"{phase}{number}: {now.summed} sites in, {now.lost} lost{loss}, log {now.log_size}"


def _share(parts: int | None) -> str:
    return "-" if parts is None else f"{parts / 1e6:.3f}"


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]
