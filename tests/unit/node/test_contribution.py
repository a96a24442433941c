"""What is said of a vector is of the one that was sent, and of the noise that it needs now.

Planted and caught: a claim about a vector that is gone, one without its lock, another one than was
sent; a stored vector sent again whose noise counts on more honest members than there are; more rows
than the plan's bounds count with, noise without a group, features without a normaliser.
"""

from types import SimpleNamespace
from typing import cast

import pytest

from tests.worlds import digest, refused
from treaty.crypto.canonical import sha256
from treaty.errors import UsageError
from treaty.node.contribution import LocalStudy, claim_in
from treaty.node.noise_kept import kept_noise, noise_record
from treaty.ports import SiteData
from treaty.protocol.secagg_keys import Group
from treaty.protocol.secagg_lifecycle import Lock
from treaty.protocol.secure_round import RoundRecord
from treaty.studies.plan import Plan
from treaty.studies.progress import StudyProgress
from treaty.studies.queries import NOISED, Query, QueryKind
from treaty.trainers.numpy_trainer import NumpyTrainer

VECTOR = bytes(8)


def _round(*, bounded: bool) -> RoundRecord:
    asked = SimpleNamespace(ring_bits=32, length=2)
    record = SimpleNamespace(
        claim_bound=1 if bounded else None,
        survivors=digest("survivors"),
        opened=SimpleNamespace(predicate=asked),
    )
    return cast("RoundRecord", record)


def _lock(vector: bytes) -> Lock:
    return cast("Lock", SimpleNamespace(vector=sha256(vector)))


@pytest.mark.parametrize(
    ("premask", "lock"),
    [(None, _lock(VECTOR)), (VECTOR, None), (VECTOR, _lock(b"another"))],
    ids=["gone", "no lock", "another"],
)
def test_a_member_claims_nothing_of_a_vector_that_it_did_not_send(
    premask: bytes | None, lock: Lock | None
) -> None:
    with refused("vector-differs"):
        claim_in(_round(bounded=True), premask, lock)
    assert claim_in(_round(bounded=False), premask, lock) is None
    assert claim_in(_round(bounded=True), VECTOR, _lock(VECTOR)) is not None


def test_a_stored_vector_has_the_noise_that_the_members_of_now_ask_for() -> None:
    """After a suspension each share has to carry more; one that was drawn before is not sent."""

    def group(min_honest: int) -> Group:
        return cast("Group", SimpleNamespace(cohort=SimpleNamespace(min_honest=min_honest)))

    whole, part = digest("noise"), digest("part")
    kept = noise_record(whole, (part,), group(4))
    assert kept is not None and noise_record(None, (), group(4)) is None
    assert kept_noise(None, group(4)) == (None, ())
    for honest in (4, 5):
        assert kept_noise(kept.encode(), group(honest)) == (whole, (part,))
    with refused("noise-share"):
        kept_noise(kept.encode(), group(3))


def _local(training: int, holdout: int) -> LocalStudy:
    """Return a site with so many rows, of which nobody sees one here; the plan takes ten."""
    plan = SimpleNamespace(aggregation=SimpleNamespace(max_persons_per_site=10, feature_clip=4))
    rows = [SimpleNamespace(rows=count, features=None) for count in (training, holdout)]
    data = SimpleNamespace(training=rows[0], holdout=rows[1])
    return LocalStudy(cast("Plan", plan), cast("SiteData", data), NumpyTrainer())


@pytest.mark.parametrize("kind", list(QueryKind))
@pytest.mark.parametrize(("training", "holdout"), [(11, 0), (0, 11)])
def test_a_site_with_more_rows_than_the_plan_counts_with_answers_nothing(
    kind: QueryKind, training: int, holdout: int
) -> None:
    """What a sum can hold, and the noise beside it, follow from that number."""
    query = cast("Query", SimpleNamespace(kind=kind))
    with refused("rows-over-bound"):
        _local(training, holdout).answer(query, cast("StudyProgress", None), bytes(32))


@pytest.mark.parametrize("kind", sorted(NOISED, key=str))
def test_no_share_of_noise_is_drawn_without_the_group_that_it_is_of(kind: QueryKind) -> None:
    query = cast("Query", SimpleNamespace(kind=kind))
    with pytest.raises(UsageError, match="group from which shares follow"):
        _local(10, 10).answer(query, cast("StudyProgress", None), bytes(32))


def test_features_are_normalised_or_not_used() -> None:
    progress = cast("StudyProgress", SimpleNamespace(normaliser=None))
    local = _local(1, 1)
    with pytest.raises(UsageError, match="expected a normaliser before training"):
        local.rows(progress)
