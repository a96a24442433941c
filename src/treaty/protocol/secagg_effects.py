"""Orders of a member's secure-aggregation machines to their caller, and its answer.

The write-ahead rule stands in these types: a machine emits `Send` of a key, share, input,
confirmation or reveal only in the step that consumes `Persisted`, so what left a member is always
on its disk first. Orders of one step are performed in sequence; each may be repeated after a crash.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from treaty.aggregation.masking import MaskPlan
from treaty.ids import Digest
from treaty.protocol.statements import Predicate

__all__ = [
    "Effect",
    "EraseSecret",
    "NeedInput",
    "Persist",
    "Persisted",
    "Send",
    "StoreSecret",
]


@dataclass(frozen=True, slots=True)
class Persist:
    """Order: store all records and blobs in one durable transaction, then report `Persisted`."""

    records: tuple[tuple[str, bytes], ...]
    token: str
    blobs: tuple[bytes, ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Persisted:
    """Event: what was ordered under `token` is durable."""

    token: str


@dataclass(frozen=True, slots=True)
class StoreSecret:
    """Order: write a secret file, durably, outside the database and its backups."""

    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class EraseSecret:
    """Order: overwrite and remove a secret file; if there is none, do nothing."""

    name: str


@dataclass(frozen=True, slots=True)
class Send:
    """Order: sign the statement and post it, with the stored blobs it names.

    Signing is deterministic, so repeating the order sends the same bytes.
    """

    predicate: Predicate
    blobs: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class NeedInput:
    """Order: compute the vector, add the masks of `plan`, store it, report its digests.

    `length` words of `ring_bits` bits. With `vector` set, an input for the same question was
    sent before: the vector before masking must be the same, by the SHA-256 of its bytes.
    """

    context: Digest
    length: int
    ring_bits: int
    plan: MaskPlan = field(repr=False)
    vector: Digest | None = None


Effect: TypeAlias = Persist | StoreSecret | EraseSecret | Send | NeedInput
