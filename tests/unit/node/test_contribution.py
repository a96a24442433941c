"""A claim is about the vector that was sent, or there is none.

Planted and caught: a vector that is gone, one without its lock, another one than was sent.
"""

from types import SimpleNamespace
from typing import cast

import pytest

from tests.worlds import digest, refused
from treaty.crypto.canonical import sha256
from treaty.node.contribution import claim_in
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
