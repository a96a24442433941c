"""Comparison table: federated against each site alone, and against pooled in a simulation."""

from collections.abc import Iterator
from dataclasses import dataclass

from treaty.protocol.messages import Figures
from treaty.studies.outcome import FigureRecord

__all__ = ["ComparisonTable", "figures_row"]


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
