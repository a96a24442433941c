"""Metrics: figures of a running party in the Prometheus text format, version 0.0.4.

Guarantee: names are ``treaty_*`` in base units, label values are short words of a closed alphabet,
so that nothing said by a peer, and no row, can become part of the text. The format is that of
https://prometheus.io/docs/instrumenting/exposition_formats/.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from treaty.errors import UsageError

__all__ = ["CONTENT_TYPE", "Family", "Kind", "Sample", "render", "word"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_NAME = re.compile(r"treaty_[a-z][a-z0-9_]{0,80}")
_LABEL = re.compile(r"[a-z][a-z0-9_]{0,30}")
_WORD = re.compile(r"[a-z0-9][a-z0-9.-]{0,63}")


class Kind(Enum):
    """Whether a figure only grows."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure, with what tells it from others of its family."""

    value: int | float
    labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.value, float) and math.isnan(self.value):
            raise UsageError("a figure that is not a number cannot be shown: leave it out")
        for name, value in self.labels:
            if not _LABEL.fullmatch(name) or not _WORD.fullmatch(value):
                raise UsageError(f"label {name}: expected a closed word, see `word`")


@dataclass(frozen=True, slots=True)
class Family:
    """The figures of one name. Counters end in ``_total``, gauges do not."""

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]

    def __post_init__(self) -> None:
        counts = self.name.endswith("_total")
        if not _NAME.fullmatch(self.name) or counts != (self.kind is Kind.COUNTER):
            raise UsageError(f"metric {self.name}: expected treaty_*, with _total if it counts")
        if not self.help.isprintable() or "\\" in self.help:
            raise UsageError(f"metric {self.name}: expected a help text on one line")
        if len({sample.labels for sample in self.samples}) != len(self.samples):
            raise UsageError(f"metric {self.name}: the same labels twice")


def word(text: str) -> str:
    """Return `text` as a label value: lower case, one dash for what no word holds."""
    found = re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:64].strip("-.")
    return found or "other"


def render(families: Iterable[Family]) -> str:
    """Return the families as text, in the order given. Raises `UsageError` for a repeated name."""
    lines: list[str] = []
    names: set[str] = set()
    for family in families:
        if family.name in names:
            raise UsageError(f"metric {family.name} appears twice")
        names.add(family.name)
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {family.help}")
        lines.append(f"# TYPE {family.name} {family.kind.value}")
        lines += [
            f"{family.name}{_labels(one.labels)} {_value(one.value)}" for one in family.samples
        ]
    return "".join(f"{line}\n" for line in lines)


def _labels(labels: Sequence[tuple[str, str]]) -> str:
    if not labels:
        return ""
    # Words hold neither a quote nor a backslash nor a line end: nothing to escape.
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels) + "}"


def _value(value: int | float) -> str:
    if isinstance(value, float) and math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)
