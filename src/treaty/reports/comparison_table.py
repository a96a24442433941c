"""Comparison table: federated against each site alone, and against pooled in a simulation."""

from collections.abc import Iterator
from dataclasses import dataclass

from treaty.errors import UsageError
from treaty.protocol.messages import ComparisonPublished, Figures
from treaty.protocol.study import Study
from treaty.studies.outcome import FigureRecord, noised_note

__all__ = ["ComparisonTable", "compared", "figures_row"]


@dataclass(frozen=True, slots=True)
class ComparisonTable:
    """Federated against each site alone, and against pooled where a simulation allows it.

    Rows are (name, accuracy, AUC, Brier) in parts per million; `str` draws them, and adds `note`,
    which says what is missing.
    """

    rows: tuple[tuple[str, int, int | None, int], ...]
    note: str = ""

    def __iter__(self) -> Iterator[tuple[str, int, int | None, int]]:
        return iter(self.rows)

    def __str__(self) -> str:
        width = max(len(row[0]) for row in self.rows)
        lines = [f"{'':<{width}}  accuracy    AUC    Brier"]
        for name, accuracy, auc, brier in self.rows:
            area = "     -" if auc is None else f"{auc / 1e6:6.3f}"
            lines.append(f"{name:<{width}}  {accuracy / 1e6:8.3f}  {area}  {brier / 1e6:6.3f}")
        return "\n".join([*lines, *([self.note] if self.note else [])])


def figures_row(name: str, figures: Figures | FigureRecord) -> tuple[str, int, int | None, int]:
    """Return the row of one model's figures, in parts per million."""
    return (name, figures.accuracy, figures.auc, figures.brier)


def compared(
    study: Study, found: ComparisonPublished | None, *, missing: str = ""
) -> ComparisonTable:
    """Return the table of an evaluated `study`, with the pooled figures where they were `found`.

    The note says that figures are estimates, which members' rows are not in them, and `missing`
    where there is nothing pooled. Raises `UsageError` for a study without an evaluation.
    """
    outcome = study.progress.evaluation
    if outcome is None:
        raise UsageError("the study has no evaluation to compare")
    rows: list[tuple[str, int, int | None, int]] = [figures_row("federated", outcome.federated)]
    if outcome.alone is not None:
        rows.append(figures_row("each site alone", outcome.alone))
    for name, report in sorted(study.reports.items()):
        for label, figures in (("federated", report.federated), ("alone", report.alone)):
            rows.append((f"  {name} {label}", figures.accuracy, figures.auc, figures.brier))
    note = f"{noised_note(outcome.federated)} {_absent_note(study)}".strip()
    if found is None:
        return ComparisonTable(tuple(rows), f"{note} {missing}".strip())
    if found.alone_private_everywhere is None:
        rows.append(figures_row("pooled (simulation only)", found.pooled))
        return ComparisonTable(tuple(rows), note)
    rows.append(figures_row("all rows, no noise (simulation only)", found.pooled))
    for label, table in (
        ("same epsilon", found.alone_private_everywhere),
        ("no noise", found.alone_everywhere),
    ):
        for site, figures in sorted(table.items()):
            rows.append(figures_row(f"  {site} alone, {label} (simulation only)", figures))
    return ComparisonTable(tuple(rows), note)


def _absent_note(study: Study) -> str:
    """Return which members' rows are not in the figures, where there are such."""
    there = study.rounds[-1].members_in
    absent = [name for name in sorted(study.group.members) if name not in there]
    return f"Not in these figures: {', '.join(absent)}." if absent else ""
