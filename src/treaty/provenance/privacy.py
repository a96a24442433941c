"""The privacy statement of a study as its log tells it.

A pure function of the folded study: its plan, its contract, the charter version it ran under, and
the noised sums that members answered. Verifier, report and interface use this one.
"""

from collections.abc import Iterator

from treaty.privacy.certificate import Cohort
from treaty.privacy.terms import DistributedGaussian
from treaty.protocol.closed_round import ClosedRound, close
from treaty.protocol.study import Study
from treaty.studies.certificates import Answered, PrivacyStatement, privacy_statement
from treaty.studies.queries import QueryKind

__all__ = ["study_privacy"]


def study_privacy(study: Study) -> PrivacyStatement | None:
    """Return the statement of a study under noise, None for one with exact sums."""
    if not isinstance(study.plan.privacy, DistributedGaussian):
        return None
    charter = study.history.current
    return privacy_statement(study.plan, study.contract, charter, tuple(_answered(study)))


def _answered(study: Study) -> Iterator[Answered]:
    """Yield the noised sums that any member answered, each question and set of members once.

    A sum counts from the first answer on: whoever holds answers of enough members can open it,
    published or not. A question asked again of the same members gets the same vectors.
    """
    terms = study.plan.privacy
    rounds = terms.rounds if isinstance(terms, DistributedGaussian) else 0
    records = study.rounds if study.round is None else (*study.rounds, close(study.round))
    seen: set[tuple[str, tuple[str, ...]]] = set()
    for record in records:
        number = record.round
        if not record.reveals or number > rounds:
            continue
        key = (record.question, record.members_in)
        if key in seen:
            continue
        seen.add(key)
        kind = QueryKind.COUNT if number == 0 else QueryKind.DESCENT
        yield Answered(kind, len(record.members_in), _cohort(record))


def _cohort(record: ClosedRound) -> Cohort:
    group = record.group
    return Cohort(len(group.members), group.min_survivors, group.max_colluders)
