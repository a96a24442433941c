"""Claims: a member's sketch of its input in its answer, and what everybody holds it against.

EXPERIMENTAL, UNREVIEWED: off unless a plan says `sketched`; no claim of Treaty rests on it
(docs/spec/secagg.md, section 13). The seed of the matrix is the digest of the survivors, which is
unknown until every input is in the log.

Pure functions. A claim is shown to everyone who reads the log.
"""

from collections.abc import Sequence

import numpy as np

from treaty.aggregation import sketch
from treaty.aggregation.quantization import RING_TYPES, RingVector
from treaty.errors import VerificationError
from treaty.protocol.secagg_messages import Reveal, RoundAbandoned, RoundCode

__all__ = ["check_abandoned", "check_claim", "check_sum_of_claims", "claim_of"]


def claim_of(vector: RingVector, survivors: str) -> str:
    """Return the claim about `vector`, a site's input before masking, in a round's answer."""
    return sketch.sketch(vector, bytes.fromhex(survivors)).tobytes().hex()


def check_claim(body: Reveal, bound: int | None, ring_bits: int) -> None:
    """Raise `VerificationError` (``claim-malformed``) unless a claim is there where one is asked.

    `bound` is None in rounds without claims.
    """
    size = 0 if bound is None else 2 * sketch.ROWS * ring_bits // 8
    found = 0 if body.claim is None else len(body.claim)
    if found != size:
        raise VerificationError(
            f"expected a claim of {size} digits in the answer of {body.author}, got {found}",
            code="claim-malformed",
        )


def check_abandoned(body: RoundAbandoned, bound: int | None) -> None:
    """Raise `VerificationError` unless a round that claims end is one with claims."""
    if body.code is RoundCode.CLAIMS_REFUSED and bound is None:
        raise VerificationError("this round has no claims to refuse", code="out-of-order")


def check_sum_of_claims(
    answers: Sequence[Reveal], survivors: int, total: RingVector, bound: int
) -> None:
    """Raise `VerificationError` unless the claims in `answers` bound what `total` was made of.

    ``claim-too-long``, ``claims-differ``; `survivors` is how many inputs are in the sum.
    """
    word = RING_TYPES[total.dtype.itemsize * 8]
    claims = {
        str(one.author): np.frombuffer(bytes.fromhex(one.claim or ""), word) for one in answers
    }
    seed = bytes.fromhex(answers[0].survivors)
    sketch.check_claims(claims, survivors - len(claims), total, seed, bound)
