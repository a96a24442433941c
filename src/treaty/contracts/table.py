"""A site's rows as text, before the contract gives them meaning.

A `RawTable` is rectangular, its columns have distinct names and every cell is text; the empty
text is the one spelling of "missing" that adapters write. It never leaves the site and its
`repr` shows only its size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from treaty.errors import UsageError

__all__ = ["RawTable"]


@dataclass(frozen=True, slots=True)
class RawTable:
    """Named columns of text, equally long, with the units that the adapter declares."""

    columns: Mapping[str, tuple[str, ...]] = field(repr=False)
    units: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        lengths = {len(values) for values in self.columns.values()}
        if len(lengths) > 1:
            raise UsageError(f"expected columns of one length, got lengths {sorted(lengths)}")
        strangers = sorted(set(self.units) - set(self.columns))
        if strangers:
            raise UsageError(f"expected units of columns only, got one for {strangers[0]!r}")

    @classmethod
    def from_rows(cls, names: Sequence[str], rows: Sequence[Sequence[str]]) -> "RawTable":
        """Return the table of `rows`; `UsageError` for repeated names or rows of another width."""
        if len(set(names)) != len(names):
            # By place, not by name: where a header is missing, the names are cells.
            later = next(i for i, name in enumerate(names) if name in names[:i])
            first = list(names).index(names[later])
            raise UsageError(
                "expected distinct column names, got one more than once: columns "
                f"{first + 1} and {later + 1}"
            )
        for number, row in enumerate(rows, start=1):
            if len(row) != len(names):
                raise UsageError(f"row {number}: expected {len(names)} cells, got {len(row)}")
        cells = zip(*rows, strict=True) if rows else (() for _ in names)
        return cls(dict(zip(names, cells, strict=True)))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(next(iter(self.columns.values()), ()))

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(self.columns)

    def select(self, rows: Sequence[int]) -> "RawTable":
        """Return the table of the given row numbers (from 0), in that order."""
        picked = {name: tuple(values[row] for row in rows) for name, values in self.columns.items()}
        return RawTable(picked, self.units)
