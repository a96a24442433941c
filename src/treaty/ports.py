"""Ports: what the nodes ask of the world outside, as interfaces with promises.

Every method's docstring is the contract; `tests/contract` runs one suite per
port on every implementation, with the in-memory one as the reference. Failures
surface as `ResourceError` (the store, disk or engine failed), as
`VerificationError` (bytes came back that are not the bytes named) or as
`UsageError` (a mistake of the caller), never as an exception of a library.

Nothing here is trusted with meaning: records, blobs and frames are opaque bytes
whose signatures and digests the callers check (docs/spec/storage.md).

This module does no input or output.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import NamedTensors
from treaty.contracts.conformance import ConformedData
from treaty.contracts.schema import Contract
from treaty.errors import UsageError
from treaty.ids import Digest, MemberId, Timestamp
from treaty.models.specification import ModelSpecification
from treaty.models.task import GradientPart, TrainingTask

__all__ = [
    "FRAME_LIMIT_BYTES",
    "OBJECT_LIMIT_BYTES",
    "Append",
    "Batch",
    "BlobStore",
    "Clock",
    "DataSource",
    "Delivery",
    "Engine",
    "Entropy",
    "EventStore",
    "Journal",
    "Ledger",
    "SecretFile",
    "SiteData",
    "Trainer",
]

FRAME_LIMIT_BYTES = 8 * 1024 * 1024
OBJECT_LIMIT_BYTES = 1 << 31
"""The largest frame an engine carries. Larger objects go through `offer` and `fetch`."""

_LABEL_ALPHABET = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-_")


class Append(NamedTuple):
    """Records for the end of `stream`, if it holds `expected_version` records now.

    No records at all is a pure condition: nothing is appended, but the batch is
    refused unless the version matches.
    """

    stream: str
    expected_version: int
    records: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """What one commit stores: everything, or nothing.

    A stream, and a key, appears at most once. `blobs` become readable by their
    SHA-256 in the store's blobs. `label` names the persist point, so that tests
    can stop the process right before or after it; it is not stored.
    """

    appends: tuple[tuple[str, int, tuple[bytes, ...]], ...] = ()
    puts: tuple[tuple[str, bytes], ...] = ()
    deletes: tuple[str, ...] = ()
    blobs: tuple[bytes, ...] = field(default=(), repr=False)
    label: str = ""

    def __post_init__(self) -> None:
        _once([stream for stream, _, _ in self.appends], "stream")
        _once([key for key, _ in self.puts] + list(self.deletes), "key")
        for stream, expected_version, _ in self.appends:
            if expected_version < 0:
                raise UsageError(
                    f"expected version of stream {stream!r} is {expected_version}, "
                    "expected 0 or more"
                )
        if not _LABEL_ALPHABET.issuperset(self.label):
            raise UsageError(f"label {self.label!r}: expected only a-z, 0-9, dot, dash, underscore")


def check_name(name: str, kind: str) -> None:
    """Refuse a name of a stream or key that not every store can hold."""
    if not 1 <= len(name) <= 512 or not name.isascii() or not name.isprintable():
        raise UsageError(f"{kind} {name!r}: expected 1 to 512 printable ASCII characters")


def _once(names: Sequence[str], kind: str) -> None:
    seen: set[str] = set()
    for name in names:
        check_name(name, kind)
        if name in seen:
            raise UsageError(f"{kind} {name!r} appears twice in one batch, expected once")
        seen.add(name)


class EventStore(Protocol):
    """One party's durable state: append-only streams of records, and a few keyed values.

    A stream that was never written has version 0. Positions count from 0
    without gaps; a stored record never changes. Names of streams and keys are 1
    to 512 printable ASCII characters; other names raise `UsageError`.
    """

    def version(self, stream: str) -> int:
        """Return how many records `stream` holds."""

    def read(self, stream: str, start: int = 0, limit: int | None = None) -> list[bytes]:
        """Return the records from position `start` on, in order, at most `limit`.

        A start at or past the end gives an empty list. Raises `UsageError` if
        `start` or `limit` is negative.
        """

    def get(self, key: str) -> bytes | None:
        """Return the value last put under `key`, or None if there is none."""

    def commit(self, batch: Batch) -> None:
        """Store the whole batch atomically and durably, if every version matches.

        On return everything is on the disk and survives the loss of power.
        Raises `ResourceError` "stale version" if a stream holds another number
        of records than expected: nothing changed, read again. Any other
        `ResourceError` says that the disk failed, and leaves open whether the
        batch was stored: it was all of it or nothing, so compare `version` (or
        repeat the same batch: "stale version" then means that it was stored).
        Deleting a key that does not exist is no error.
        """

    def close(self) -> None:
        """Release the store; a second call does nothing. Later calls raise `ResourceError`."""


class BlobStore(Protocol):
    """Large objects by their SHA-256. Durable on return; the same content is stored once."""

    def put(self, data: bytes) -> Digest:
        """Store `data` and return its digest. Repeating is harmless and mends a damaged copy."""

    def get(self, digest: Digest) -> bytes:
        """Return the object, checked against `digest`.

        Raises `ResourceError` if it is missing, `VerificationError` with code
        ``blob-mismatch`` if what is stored is something else.
        """

    def has(self, digest: Digest) -> bool:
        """Say whether an object is stored under `digest`, without reading it."""

    def delete(self, digest: Digest) -> None:
        """Remove the object; if there is none, do nothing."""

    def put_chunks(self, chunks: Iterable[bytes]) -> Digest:
        """Store the concatenation of `chunks` without holding it in memory; as `put`.

        If the iterable raises, nothing is stored and its exception passes on.
        """

    def chunks(self, digest: Digest) -> Iterator[bytes]:
        """Yield the object in pieces; errors as `get`, all raised before the first piece."""


class Ledger(Protocol):
    """One data set's privacy ledger: records in order, append only, shared by all its studies.

    It belongs to the data set, not to a consortium: it outlives every store, several processes may
    use it in turn, and it is never restored from a backup. Records are 1 byte to 1 MiB, without
    newline or byte 0; other records raise `UsageError`.
    """

    def read(self, start: int = 0) -> list[bytes]:
        """Return the records from position `start` on, those of other processes included.

        None at all means that there is no ledger. Raises `ResourceError` when the ledger is
        damaged, was exchanged for another file, or others could write to it.
        """

    def append(self, count: int, records: Sequence[bytes], label: str = "ledger") -> None:
        """Append `records`, in order, if the ledger holds `count` records now.

        On return all of them survive the loss of power. Raises `ResourceError` "stale count" if
        another process appended first: nothing changed, read again. After any other
        `ResourceError`, or when the process ends, some of them may be stored, from the first on and
        each whole or not at all: `read` tells, or fails until the process starts anew.
        """

    def close(self) -> None:
        """Release the ledger; a second call does nothing. Later calls raise `ResourceError`."""


class SecretFile(Protocol):
    """Short-lived secrets (slot seeds, key shares), outside the database and its backups.

    Names are 1 to 128 of ``a-z 0-9 . - _`` and start with a letter or digit.
    """

    def write(self, name: str, data: bytes) -> None:
        """Store `data` under `name`, atomically and durably; an older value is overwritten.

        The bytes of an older value are zeroed on the disk, as in `erase`.
        """

    def write_all(self, items: Mapping[str, bytes]) -> None:
        """Store several secrets together: all of them durably, or none; as `write` for each."""

    def read(self, name: str) -> bytes:
        """Return the secret. Raises `ResourceError` if missing, damaged or readable by others."""

    def erase(self, name: str) -> None:
        """Overwrite with zeros, make that durable, remove. If there is none, do nothing."""

    def names(self) -> tuple[str, ...]:
        """Return the names of the stored secrets, sorted."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One frame that arrived. `sender` is what the engine says, until a signature proves it.

    Call `ack` once the effect of the frame is durable. A second call does nothing.
    """

    sender: MemberId
    frame: bytes = field(repr=False)
    ack: Callable[[], None] = field(repr=False)


class Engine(Protocol):
    """One party's end of the message engine. The engine is not trusted.

    Frames between two parties arrive at least once and, unless something
    fails, in the order sent. Loss, repetition, reordering and forgery are the
    business of whoever reads the frames.
    """

    def send(self, recipient: MemberId, frame: bytes, key: str) -> None:
        """Hand over one frame; with the same `key` to the same recipient it is one message.

        The first frame under a key counts. Engines may forget a key after some
        time, so receivers must bear repetition. Raises `UsageError` if the frame
        is larger than `FRAME_LIMIT_BYTES` or the recipient is unknown,
        `ResourceError` if the engine cannot be reached: try again with the same key.
        """

    def receive(self) -> Delivery | None:
        """Return the next frame, or None if there is none now. Never waits.

        What was received but not acknowledged comes again after a restart.
        """

    def offer(self, digest: Digest, data: bytes) -> None:
        """Make a large object available to the peers; repeating is harmless.

        Raises `UsageError` if `digest` is not the SHA-256 of `data`.
        """

    def fetch(self, digest: Digest, most_bytes: int) -> bytes:
        """Return an offered object of at most `most_bytes`, checked against `digest`.

        The reader says how large it can be: peers serve what they like.

        Raises `ResourceError` if nobody offers it now, `VerificationError` with
        code ``blob-mismatch`` if the engine delivered something else, ``blob-too-large`` if it
        is larger, before its bytes are read.
        """

    def peers(self) -> tuple[MemberId, ...]:
        """Return the parties that frames can be sent to, sorted, without this one."""


class Clock(Protocol):
    """The wall clock."""

    def now(self) -> Timestamp:
        """Return milliseconds since the Unix epoch. It may step backwards."""


class Entropy(Protocol):
    """A source of bytes nobody can predict (seeded only in simulations, which say so)."""

    def bytes(self, count: int) -> bytes:
        """Return `count` fresh random bytes."""


@dataclass(frozen=True, slots=True)
class SiteData:
    """A site's rows in the contract's terms, divided into training and holdout. Never leaves.

    `naming` says how the site's file names persons: equal where and only where an identifier means
    the same person as before.
    """

    training: ConformedData = field(repr=False)
    holdout: ConformedData = field(repr=False)
    naming: str = ""


class DataSource(Protocol):
    """A site's own data, read through its adapter."""

    def load(
        self,
        contract: Contract,
        *,
        holdout_permille: int,
        seed: int,
        held_out: Callable[[str], bool] | None = None,
    ) -> SiteData:
        """Return the site's rows under `contract`, divided as the plan's split says.

        With `held_out` a person is in the holdout when it says so, whatever the plan says: studies
        under noise use the partitions of the registered data set, the same in every study. The
        same data, contract and split give the same rows. Raises `UsageError` when the local
        data do not conform, `ResourceError` when they cannot be read; the message is for the
        site alone.
        """


class Trainer(Protocol):
    """The local step of training and prediction for the model families it knows."""

    def compute(self, task: TrainingTask) -> NamedTensors:
        """Return the site's contribution: tensors that conform to the plan's manifest.

        Raises `TrainerFailure` with a closed code; never free text.
        """

    def site_state(self, task: TrainingTask) -> bytes:
        """Return what stays at the site for predicting with the task's model (its intercept)."""

    def predict(
        self,
        specification: ModelSpecification,
        model: NamedTensors,
        features: NDArray[np.float64],
        site_state: bytes = b"",
    ) -> NDArray[np.float64]:
        """Return float64 of shape (n,): the expected label of each row; raises `TrainerFailure`."""

    def alone(self, task: TrainingTask) -> NamedTensors:
        """Return the site's own model, trained on its rows only; raises `TrainerFailure`."""

    def layers(self, task: TrainingTask) -> Sequence[GradientPart]:
        """Return what every row's gradient at `task.model` is made of, for clipping by person.

        What stands for a row depends on that row and the model alone. Raises `TrainerFailure`.
        """


class Journal(Protocol):
    """A party's own log of what happened and why. It never leaves the party."""

    def note(self, event: str, detail: str) -> None:
        """Append one line. `event` is a short stable name; `detail` is for local people."""
