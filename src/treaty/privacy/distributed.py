"""One site's part of a noised sum: persons in, integers out.

Guarantees (docs/spec/privacy.md, section 9):
  * `person_sum` adds integer vectors, one per person, each within the clip: its sensitivity is
    the clip in grid units, exactly. `ghost_person_sum` forms no row's gradient and has the
    sensitivity of `mechanisms.ghost_sensitivity`.
  * `noised` adds one discrete Gaussian share per coordinate from a 256-bit key, the same
    integers for the same key on every machine.
  * `noise_commitment` hides the key and binds it to one question: who holds the key can show
    later which noise was added.

Pure: rows, keys and terms come in, nothing is kept. Left to others: gradients, keys that are
used once, charging, masking.
"""

import hmac
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from treaty.crypto.derivation import kdf, labelled_hash
from treaty.crypto.prg import Keystream
from treaty.errors import UsageError, VerificationError
from treaty.ids import Digest
from treaty.privacy.events import SAMPLING_UNIT
from treaty.privacy.mechanisms import (
    Clip,
    Layer,
    add_noise,
    clipped_sum,
    ghost_factors,
    ghost_sum,
)

__all__ = [
    "NOISE_KEY_BYTES",
    "count_units",
    "ghost_person_sum",
    "noise_commitment",
    "noise_key",
    "noised",
    "person_sum",
    "persons_in_order",
    "sampled_persons",
    "verify_noise_key",
]

NOISE_KEY_BYTES = 32

Integers = NDArray[np.int64]
Rows = NDArray[np.int64]


def persons_in_order(persons: Sequence[str]) -> tuple[Rows, Rows]:
    """Return (order, person): row numbers sorted by person, and each such row's person number.

    Persons are numbered from 0 in order of their names, so that equal names are one person.
    """
    if not persons:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    # Not numpy's strings: they drop a trailing NUL and would merge two persons.
    place = {name: index for index, name in enumerate(sorted(set(persons)))}
    number = np.array([place[name] for name in persons], dtype=np.int64)
    order = np.argsort(number, kind="stable")
    return order.astype(np.int64), number[order]


def sampled_persons(person: Rows, sampling: int, key: bytes) -> NDArray[np.bool_]:
    """Return which rows take part: each person by its own draw at rate `sampling` / 2^53.

    `person` (rows,) is sorted. All rows of a person come or stay away together. Exact: a
    53-bit uniform number below `sampling`. Raises `UsageError` for a rate outside 1 .. 2^53.
    """
    if not 1 <= sampling <= SAMPLING_UNIT:
        raise UsageError(f"sampling must be in 1 .. 2^53 (units of 2^-53), got {sampling}")
    if sampling == SAMPLING_UNIT or not len(person):
        return np.ones(len(person), dtype=np.bool_)
    words = np.empty(int(person[-1]) + 1, dtype="<u8")
    Keystream(kdf(key, "poisson-sample")).fill(words.data.cast("B"))
    chosen = (words >> np.uint64(11)) < np.uint64(sampling)
    return np.asarray(chosen[person], dtype=np.bool_)


def count_units(person: Rows, clip: Clip) -> Integers:
    """Return the number of persons times the clip in grid units, int64 (1,).

    Guarantee: one person added or removed moves it by exactly `clip.units`.
    """
    distinct = len(np.unique(person))
    return np.array([distinct * clip.units], dtype=np.int64)


def person_sum(layers: Sequence[Layer], person: Rows, clip: Clip) -> Integers:
    """Return the sum over persons of their clipped gradients on the grid, int64 (width,).

    The coordinates are those of `layers` in order: weights row by row (fan-in, fan-out), then
    the bias where there is one. Rows' gradients are formed a few thousand at a time.

    Guarantee: one person's rows added or removed move the result by at most `clip.units` in L2
    norm, exactly, if a row's activations and errors depend on that row alone. Raises
    `PolicyError` ``not-finite`` and ``overflow``.
    """
    width = sum(_width(layer) for layer in layers)

    def gradients(start: int, stop: int) -> NDArray[np.float64]:
        parts: list[NDArray[np.float64]] = []
        for layer in layers:
            inputs, errors = layer.inputs[start:stop], layer.errors[start:stop]
            outer = inputs[:, :, None] * errors[:, None, :]
            parts.append(outer.reshape(len(inputs), -1))
            if layer.has_bias:
                parts.append(errors)
        return np.concatenate(parts, axis=1)

    return clipped_sum(gradients, person, width, clip)


def ghost_person_sum(layers: Sequence[Layer], person: Rows, clip: Clip) -> Integers:
    """Return what `person_sum` returns, up to rounding, without any row's gradient.

    Guarantee: sensitivity `mechanisms.ghost_sensitivity`. Raises as `ghost_sum`.
    """
    return ghost_sum(layers, ghost_factors(layers, person, clip), clip)


def noise_key(entropy: bytes) -> bytes:
    """Return the key of one noised vector, 32 bytes, from at least 32 fresh uniform bytes."""
    if len(entropy) < NOISE_KEY_BYTES:
        raise UsageError(f"expected at least {NOISE_KEY_BYTES} bytes of entropy")
    return kdf(entropy, "noise-key")


def noised(total: Integers, *, share_variance: int, ring_bits: int, key: bytes) -> Integers:
    """Return `total` plus one share of noise per coordinate, drawn from `key` (32 bytes).

    `key` is used for one vector only. Guarantee and refusals as `mechanisms.add_noise`.
    """
    if len(key) != NOISE_KEY_BYTES:
        raise UsageError(f"expected a noise key of {NOISE_KEY_BYTES} bytes, got {len(key)}")
    return add_noise(
        total, share_variance=share_variance, ring_bits=ring_bits, fill=Keystream(key).fill
    )


def noise_commitment(key: bytes, query: Digest) -> Digest:
    """Return the commitment to the noise key of one question.

    Hiding because the key has 256 random bits, binding because SHA-256 has no known collisions.
    """
    return Digest(labelled_hash("noise-commitment", bytes.fromhex(query), key).hex())


def verify_noise_key(commitment: Digest, key: bytes, query: Digest) -> None:
    """Raise `VerificationError` (code ``not-opened``) unless `key` opens `commitment`.

    An auditor within the site then draws the noise again with `noised` and finds what was clipped.
    """
    if not hmac.compare_digest(noise_commitment(key, query).encode(), commitment.encode()):
        raise VerificationError("the noise key does not open the commitment", code="not-opened")


def _width(layer: Layer) -> int:
    outputs = int(layer.errors.shape[1])
    return (int(layer.inputs.shape[1]) + int(layer.has_bias)) * outputs
