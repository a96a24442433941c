"""The opened sums of a study, in order, with what each was for.

The order is that of the study's program, which the replay enforced: support, statistics, training
rounds, evaluation. So the kind of a sum follows from its place.
"""

from dataclasses import dataclass

from treaty.protocol.closed_round import ClosedRound
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.study import Study
from treaty.studies.lint import kinds_of
from treaty.studies.queries import QueryKind

__all__ = ["OpenedSum", "opened_sums"]


@dataclass(frozen=True, slots=True)
class OpenedSum:
    """One secure sum that was opened; `training` counts training rounds from 0."""

    record: ClosedRound
    kind: QueryKind
    training: int | None = None


def opened_sums(study: Study) -> tuple[OpenedSum, ...]:
    """Return the opened sums of `study` in order of the log."""
    records = [one for one in study.rounds if one.phase is RoundPhase.PUBLISHED]
    rounds = len(study.progress.trace)
    *before, fitted, last = kinds_of(study.plan)
    kinds = [*before, *[fitted] * rounds, last]
    # A study that stopped early has fewer records than its program has kinds.
    return tuple(
        OpenedSum(record, kind, place - len(before) if kind is fitted else None)
        for place, (record, kind) in enumerate(zip(records, kinds, strict=False))
    )
