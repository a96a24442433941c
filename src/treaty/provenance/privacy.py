"""The privacy statement of a study as its log tells it.

A pure function of the folded study: its plan, its contract, the charter version it ran under, and
the noised sums that members answered. Verifier, report and interface use this one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from treaty.ids import Digest
from treaty.privacy.accountant import composed_epsilon, delta_of
from treaty.privacy.certificate import Cohort, epsilon_micro
from treaty.privacy.events import Event
from treaty.privacy.terms import NoisedTerms
from treaty.protocol.closed_round import ClosedRound, close
from treaty.protocol.consortium import Consortium
from treaty.protocol.study import Study
from treaty.studies.certificates import (
    Answered,
    PrivacyStatement,
    answered_events,
    privacy_statement,
)
from treaty.studies.queries import QueryKind, noised_kind

__all__ = ["LogPrivacy", "log_privacy", "rounds_of", "study_privacy"]


@dataclass(frozen=True, slots=True)
class LogPrivacy:
    """All studies of a log: how many under noise and exact, comparisons, and epsilon together.

    `epsilon_micro` is in millionths at 1 / `delta_inverse`, None when infinite; exact sums are
    counted in `exact`, not in it.
    """

    private: int
    exact: int
    comparisons: int
    epsilon_micro: int | None
    delta_inverse: int


def study_privacy(study: Study) -> PrivacyStatement | None:
    """Return the statement of a study under noise, None for one with exact sums."""
    if not isinstance(study.plan.privacy, NoisedTerms):
        return None
    group = study.group
    cohort = Cohort(len(group.members), group.min_survivors, group.max_colluders)
    return privacy_statement(
        study.plan, study.contract, study.history.current, tuple(_answered(study)), cohort=cohort
    )


def log_privacy(state: Consortium) -> LogPrivacy:
    """Return what all studies of a log together mean for a person whose rows are in each.

    Guarantee: as `accountant.composed_epsilon` over all noised sums that members answered, of
    training or of the holdout, whichever costs more, at the smallest delta of the plans; rounded
    up.
    """
    private, exact, delta_inverse = 0, 0, 2
    events: dict[bool, list[Event]] = {True: [], False: []}
    for study in state.studies.values():
        terms = study.plan.privacy
        if not isinstance(terms, NoisedTerms):
            # The first two sums are over training rows, whatever came of the study; and a sum can
            # have been opened by answers that were kept back (`_answered`).
            exact += any(record.members_in for record in rounds_of(study))
            continue
        private += 1
        answered = tuple(_answered(study))
        for training, found in events.items():
            chosen = [one for one in answered if one.kind.over_training_rows is training]
            found += answered_events(study.plan, study.contract, chosen)
        delta_inverse = max(delta_inverse, terms.delta_inverse)
    # A person is in training or in the holdout, in all studies alike: the larger of both holds.
    delta = delta_of(delta_inverse)
    spent = epsilon_micro(max(composed_epsilon(found, delta) for found in events.values()))
    return LogPrivacy(private, exact, len(state.comparisons), spent, delta_inverse)


def rounds_of(study: Study) -> tuple[ClosedRound, ...]:
    """Return every round of `study`, the open one as it stands among them."""
    return study.rounds if study.round is None else (*study.rounds, close(study.round))


def _answered(study: Study) -> Iterator[Answered]:
    """Yield the noised sums that can have been opened, each release of a question once.

    A sum counts from the naming of its survivors on: whoever holds answers of enough members can
    open it, published or not, and a coordinator may keep answers back. Of one release one set can
    be opened: members are bound to it, and two sets need more members than there are. Where the
    log does not show which, that with the fewest shares counts.
    """
    named: dict[str, tuple[QueryKind, list[ClosedRound]]] = {}
    planned: dict[int, Digest] = {}
    for record in rounds_of(study):
        kind = noised_kind(study.plan, record.round)
        if record.members_in and kind is not None:
            # The first that can have been opened is the one that the plan asked for.
            planned.setdefault(record.round, record.question)
            named.setdefault(record.question, (kind, []))[1].append(record)
    for kind, sealed in named.values():
        shown = [one for one in sealed if one.reveals or one.confirmed] or sealed
        fewest = min(shown, key=lambda one: len(one.members_in))
        again = fewest.question != planned[fewest.round]
        yield Answered(kind, len(fewest.members_in), _cohort(fewest), fresh=again)


def _cohort(record: ClosedRound) -> Cohort:
    group = record.group
    return Cohort(len(group.members), group.min_survivors, group.max_colluders)
