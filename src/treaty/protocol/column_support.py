"""Column support: how many sites surely stand behind every column of a sum over fewer members.

The support sum says how many of its survivors support a column, not which. Whoever chooses the
survivors of a later sum can leave out those that do, until one is left and the column's
coordinates are its own. So each member that was counted and is left out counts as one that
supported the column that has the fewest.

Guarantee (docs/spec/studies.md, 2.3): a set for which `require_support` does not raise has at least
`max_colluders` + 2 sites behind every column, so two honest ones whatever colluders take away.

Pure functions over the folded log. The fold itself does not ask: what is over stays valid history,
and a verdict says where it fell short (`weak_sums`).
"""

from collections.abc import Collection, Sequence

from treaty.errors import PolicyError
from treaty.ids import MemberId
from treaty.protocol.closed_round import ClosedRound
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.study import Study
from treaty.studies.progress import Stage

__all__ = ["is_supported", "require_support", "surely_behind", "weak_sums"]

_BY_COLUMN = (Stage.STATISTICS, Stage.TRAINING)


def surely_behind(study: Study, survivors: Collection[str]) -> int | None:
    """Return how many of `survivors` support each column at least, for the present question.

    None where it is not asked column by column, or under noise: the support sum itself, and the
    evaluation.
    """
    progress = study.progress
    if progress.stage not in _BY_COLUMN or not progress.support:
        return None
    return _left(progress.support, _counted(study.rounds), survivors)


def is_supported(study: Study, survivors: Collection[str]) -> bool:
    """Say whether enough of `survivors` surely stand behind every column asked for now."""
    behind = surely_behind(study, survivors)
    return behind is None or behind >= _least(study)


def require_support(study: Study, survivors: Collection[str]) -> None:
    """Raise `PolicyError` (code ``least-support``) unless they are `is_supported`."""
    if not is_supported(study, survivors):
        raise PolicyError(
            f"only {surely_behind(study, survivors)} of these {len(survivors)} members surely "
            f"support every column, expected {_least(study)}: ask the others too, or merge rare "
            "levels in the contract",
            code="least-support",
        )


def weak_sums(study: Study) -> tuple[int, int]:
    """Return over how many sums fewer may stand behind a column than should, and the fewest.

    A sum counts once its survivors are named. (0, 0) where there is none.
    """
    progress = study.progress
    if not progress.support:
        return 0, 0
    counted, end = _counted(study.rounds), 2 + len(progress.trace)
    over = progress.stage in (Stage.EVALUATION, Stage.COMPLETED)
    found = [
        _left(progress.support, counted, one.members_in)
        for one in study.rounds
        if one.members_in and one.round > 0 and not (over and one.round >= end)
    ]
    short = [behind for behind in found if behind < _least(study)]
    return len(short), max(min(short, default=0), 0)


def _least(study: Study) -> int:
    return study.group.max_colluders + 2


def _counted(rounds: Sequence[ClosedRound]) -> Collection[MemberId]:
    """Return whose support the first published sum counts."""
    for one in rounds:
        if one.phase is RoundPhase.PUBLISHED:
            return one.members_in
    return ()


def _left(support: Sequence[int], counted: Collection[MemberId], survivors: Collection[str]) -> int:
    return min(support) - sum(name not in survivors for name in counted)
