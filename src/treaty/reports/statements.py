"""The log of a verified bundle, opened for reading.

`read_log` gives every statement with its type's name and signatures. It checks no signature: the
verdict did. It does check that the entries are those of the verdict, so that nobody reports on one
bundle with the verdict of another.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from treaty.crypto import canonical
from treaty.errors import UsageError
from treaty.ids import Digest
from treaty.protocol.statements import Body, peek, registered
from treaty.provenance.bundle import BLOBS, CHECKPOINT, LOG, MANIFEST, Manifest
from treaty.provenance.verify import Verdict
from treaty.tlog.tiles import parse_entry_bundle, tiles_of_size

__all__ = ["Logged", "blob", "read_log"]


@dataclass(frozen=True, slots=True)
class Logged:
    """One entry: its index, its digest, its type's name, what it says, and whose keys signed."""

    index: int
    digest: Digest
    kind: str
    body: Body
    keyids: tuple[Digest, ...]


def read_log(verdict: Verdict, files: Mapping[str, bytes]) -> tuple[Logged, ...]:
    """Return the statements of the bundle `files`, on which `verdict` was given.

    Raises `UsageError` when the verdict is on another bundle.
    """
    record = verdict.record
    manifest = canonical.decode(_file(files, MANIFEST), Manifest)
    found = (manifest.anchor, manifest.size, manifest.edition)
    if (
        found != (record.anchor, record.size, record.edition)
        or canonical.sha256(_file(files, CHECKPOINT)) != manifest.checkpoint
    ):
        raise _another()
    entries: list[bytes] = []
    for tile in tiles_of_size(manifest.size):
        if tile.level is None:
            entries.extend(parse_entry_bundle(_file(files, LOG + tile.path), tile.width))
    logged = tuple(_opened(index, data) for index, data in enumerate(entries))
    lines = verdict.history.entries
    if [one.digest for one in logged] != [line.digest for line in lines]:
        raise _another()
    return logged


def blob(files: Mapping[str, bytes], digest: Digest) -> bytes:
    """Return the blob with `digest`; raises `UsageError` when `files` has none or another."""
    data = _file(files, BLOBS + digest)
    if canonical.sha256(data) != digest:
        raise _another()
    return data


def _opened(index: int, data: bytes) -> Logged:
    envelope, body = peek(data)
    return Logged(
        index,
        canonical.sha256(data),
        registered(type(body)).name,
        body,
        tuple(keyid for keyid, _ in envelope.signatures),
    )


def _file(files: Mapping[str, bytes], path: str) -> bytes:
    data = files.get(path)
    if data is None:
        raise UsageError(f"expected {path} in the bundle: verify it before reporting on it")
    return data


def _another() -> UsageError:
    return UsageError(
        "the verdict is on another bundle than these files: verify them before reporting on them"
    )
