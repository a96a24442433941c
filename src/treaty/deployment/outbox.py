"""Outbox: what commands leave for the running process to send, and what became of it.

A command signs and writes one file; the process, now or when it is started, submits it until it
stands in the log, then removes the file. So a command needs no connection, and what it wrote
survives every crash.
"""

from pathlib import Path
from typing import Literal

from treaty.crypto import canonical, envelope
from treaty.crypto.canonical import Record, sha256
from treaty.deployment.places import read_record, settled_files
from treaty.errors import FormatError, ResourceError
from treaty.ids import Digest
from treaty.node.participant import Participant
from treaty.wiring import make_directory, remove_file, write_file

__all__ = ["Outbox", "Outgoing"]

DONE = "outbox-done"
"""The persist point at which a file is removed, because its statement stands in the log."""


class Outgoing(Record):
    """A signed statement with its documents, all in base64."""

    format: Literal["treaty.outgoing/v1"] = "treaty.outgoing/v1"
    statement: str
    documents: tuple[str, ...] = ()


class Outbox:
    """The outbox of the party in `directory`."""

    def __init__(self, directory: Path) -> None:
        self._place = directory / "outbox"
        self._submitted: dict[Path, Digest] = {}
        self._damaged: set[Path] = set()

    def put(self, statement: bytes, documents: tuple[bytes, ...] = ()) -> Digest:
        """Leave a statement to be sent; return its digest."""
        record = Outgoing(
            statement=envelope.encode_base64(statement),
            documents=tuple(map(envelope.encode_base64, documents)),
        )
        return self._write(sha256(statement), record)

    def waiting(self) -> tuple[str, ...]:
        """Return the names of what was not taken into the log yet."""
        return tuple(path.stem for path in self._files())

    def submit(self, node: Participant) -> None:
        """Hand new files to `node`, and remove those that stand in its log."""
        unlogged = node.unlogged()
        for path in self._files():
            known = self._submitted.get(path)
            if known is not None:
                if known not in unlogged:
                    remove_file(path, label=DONE)
                    del self._submitted[path]
                continue
            if path in self._damaged:
                continue
            try:
                found = read_record(path, Outgoing)
                statement = envelope.decode_base64(found.statement)
                papers = [envelope.decode_base64(text) for text in found.documents]
            except (FormatError, ResourceError) as error:
                # One bad file must not keep a site from its rounds.
                self._damaged.add(path)
                node.journal.note("outbox-damaged", f"{error}; sign again and remove {path}")
                continue
            held = node.holds(statement)
            if held or node.is_over(statement):
                # It was logged before this process came to remove it, or signed too late.
                if not held:
                    said = "in effect, or made under a charter that is over: not sent"
                    node.journal.note(
                        "officer-settled", f"statement {sha256(statement)[:16]} is {said}"
                    )
                remove_file(path, label=DONE)
                continue
            self._submitted[path] = sha256(statement)
            node.submit(statement, {sha256(data): data for data in papers})

    def _files(self) -> list[Path]:
        """Return what lies there in the order in which it was signed: questions before answers."""
        found = []
        for path in settled_files(self._place):
            try:
                found.append((path.stat().st_mtime_ns, path))
            except FileNotFoundError:
                # The running process has taken it meanwhile.
                continue
        return [path for _, path in sorted(found)]

    def _write(self, name: Digest, record: Outgoing) -> Digest:
        make_directory(self._place)
        path = self._place / f"{name}.json"
        write_file(path, canonical.encode(record), mode=0o600, label="outbox")
        return name
