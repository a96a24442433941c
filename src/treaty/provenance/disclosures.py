"""Disclosures: what a log shows, or may have shown, of single sites, beside what it proves.

Each is a line of the verdict that stands only where there is something to say, and is never more
than *not covered* (docs/spec/verification.md, section 4). Pure functions over the folded log.
"""

from collections.abc import Iterable, Iterator

from treaty.protocol.column_support import weak_sums
from treaty.protocol.consortium import Consortium
from treaty.protocol.differencing import lone_changes, unpublished
from treaty.protocol.study import Study
from treaty.provenance.privacy import rounds_of

__all__ = ["disclosures"]


def disclosures(state: Consortium) -> Iterator[tuple[str, str]]:
    """Yield (name, statement) for each thing that is to be said of the studies of a log."""
    studies = tuple(state.studies.values())
    for name, said in (
        ("differences", _differences(studies)),
        ("support", _support(studies)),
        ("unpublished", _unpublished(studies)),
    ):
        if said:
            yield name, said


def _differences(studies: Iterable[Study]) -> str:
    """What differences of published sums show of one site.

    Survivors of two sums may differ by one member, by chance or because it approved.
    """
    exposed: list[str] = []
    alone = 0
    for study in studies:
        exposed += [name for one in study.exposures for name in one.members]
        alone += len(lone_changes(study.rounds))
    said = []
    if exposed:
        said.append(
            f"one question was summed with and without {', '.join(sorted(set(exposed)))}, who "
            "approved: the difference of the sums is theirs"
        )
    if alone:
        said.append(
            f"{alone} sums are over one member more or less than the sum before: between questions "
            "that differ little, the difference tells of it"
        )
    return "; ".join(said)


def _support(studies: Iterable[Study]) -> str:
    """Where fewer sites than should may stand behind a column.

    Members refuse such sums (`column_support`); histories of those that did not look are valid.
    """
    found = [weak_sums(study) for study in studies]
    sums, fewest = sum(one for one, _ in found), min((few for one, few in found if one), default=0)
    return (
        f"{sums} sums left out members whose support was counted: as few as {fewest} may stand "
        "behind a column, too few to hide one of them"
        if sums
        else ""
    )


def _unpublished(studies: Iterable[Study]) -> str:
    """Which sums can have been opened by answers that were kept back."""
    hidden = sum(unpublished(rounds_of(study)) for study in studies)
    return (
        f"the survivors of {hidden} question(s) were named and no sum was published: who "
        "holds the answers can have opened it"
        if hidden
        else ""
    )
