"""Frequency: how often a site has contributed to sums of one class, held against the matrix's rows.

A row says how often, at most, what it allows may be shown. A sum is shown once for each question
that it answers: a question that is asked again, in another round, is one; a fresh release of a
noised question is another. An input counts from the log, whether or not its sum was opened.

Guarantee (docs/spec/governance.md, 5.6): a site that asks `require_rare` before each input
contributes, of one class and form, to at most one question in the log (`once`), in a study
(`per-study`) or in an epoch (`per-epoch`).

Pure functions over the folded log.
"""

from collections.abc import Iterable, Iterator

from treaty.errors import PolicyError
from treaty.governance.exposure import HowOften
from treaty.ids import Digest
from treaty.protocol.secure_round import RoundRecord
from treaty.protocol.study import Study
from treaty.studies.lint import kinds_of
from treaty.studies.progress import Stage
from treaty.studies.queries import QueryKind, evaluation_kind, noised_kind, noised_kinds

__all__ = ["kind_of", "require_rare"]

_UNLIMITED = (HowOften.PER_ROUND, HowOften.ALWAYS)


def kind_of(study: Study, number: int) -> QueryKind:
    """Return the kind of query `number` of `study`, which was asked."""
    if noised_kinds(study.plan):
        return noised_kind(study.plan, number) or evaluation_kind(study.plan)
    support, statistics, training, evaluation = kinds_of(study.plan)
    if number < 2:
        return (support, statistics)[number]
    fitted = study.progress.stage in (Stage.EVALUATION, Stage.COMPLETED)
    return evaluation if fitted and number >= 2 + len(study.progress.trace) else training


def require_rare(
    studies: Iterable[Study],
    study: Study,
    record: RoundRecord,
    member: str,
    *,
    masked: HowOften,
    shown: HowOften,
) -> None:
    """Raise `PolicyError` (``exposure``) if an input of `member` to `record` is one too many.

    `studies` are all of the log, `study` that of the open round `record`; `masked` and `shown` are
    what the rows for masked inputs and for the sum allow (`gate.check_sum`).
    """
    kind = study.progress.expected_query().kind
    for often, about in ((masked, None), (shown, kind)):
        if often in _UNLIMITED:
            continue
        chosen = studies if often is HowOften.ONCE else (study,)
        epoch = record.opened.predicate.epoch_hash if often is HowOften.PER_EPOCH else None
        found = {one for other in chosen for one in _answered(other, member, about, epoch)}
        if found - {record.question}:
            what = "masked inputs" if about is None else f"a {kind.artefact.value}"
            raise PolicyError(
                f"the exposure matrix allows {what} {often.value}, and this site has contributed "
                f"to {len(found - {record.question})}: expected no more",
                code="exposure",
            )


def _answered(
    study: Study, member: str, kind: QueryKind | None, epoch: str | None
) -> Iterator[Digest]:
    """Yield the questions to which `member` contributed, of this class and form, in this epoch."""
    for past in study.rounds:
        if member not in past.inputs or epoch not in (None, past.epoch_hash):
            continue
        if kind is not None:
            other = kind_of(study, past.round)
            if (other.artefact, other.form) != (kind.artefact, kind.form):
                continue
        yield past.question
