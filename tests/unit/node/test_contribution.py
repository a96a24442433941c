"""What is said of a vector is of the one that was sent, and of the noise that it needs now.

Planted and caught: a claim about a vector that is gone, one without its lock, another one than was
sent; a stored vector sent again whose noise counts on more honest members than there are.
"""

from types import SimpleNamespace
from typing import cast

import pytest

from tests.worlds import digest, refused
from treaty.crypto.canonical import sha256
from treaty.node.contribution import claim_in
from treaty.node.noise_kept import kept_noise, noise_record
from treaty.protocol.secagg_keys import Group
from treaty.protocol.secagg_lifecycle import Lock
from treaty.protocol.secure_round import RoundRecord

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
