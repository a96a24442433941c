"""The outbox: what is whole is sent once, what is half written or damaged stops nobody.

Planted and caught: a file that is being written is read; a damaged file ends the process; a
statement that stands in the log is sent again; a file that was logged is kept; one that came
too late dropped without a word.
"""

from pathlib import Path

from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.deployment.outbox import Outbox
from treaty.ids import Digest
from treaty.stores.system import MemoryJournal


class Site:
    """As much of a participant as the outbox looks at."""

    def __init__(self) -> None:
        self.journal = MemoryJournal()
        self.logged: list[bytes] = []
        self.sent: list[bytes] = []
        self.over: set[bytes] = set()

    def holds(self, statement: bytes) -> bool:
        return statement in self.logged

    def is_over(self, statement: bytes) -> bool:
        return statement in self.over

    def unlogged(self) -> frozenset[Digest]:
        return frozenset(sha256(one) for one in self.sent if one not in self.logged)

    def submit(self, statement: bytes, documents: dict[Digest, bytes]) -> None:
        assert all(sha256(data) == digest for digest, data in documents.items())
        self.sent.append(statement)


def look(outbox: Outbox, site: Site) -> None:
    outbox.submit(site)  # type: ignore[arg-type]  # see Site


def test_a_statement_is_sent_until_it_stands_in_the_log(tmp_path: Path) -> None:
    site, outbox = Site(), Outbox(tmp_path)
    outbox.put(b"ballot", (b"document",))
    for _ in range(3):
        look(outbox, site)
    assert site.sent == [b"ballot"] and len(outbox.waiting()) == 1
    # The process ends and begins anew: it does not know what the other had sent.
    look(Outbox(tmp_path), site)
    assert site.sent == [b"ballot", b"ballot"]
    site.logged.append(b"ballot")
    look(outbox, site)
    assert outbox.waiting() == ()
    outbox.put(b"ballot")
    look(outbox, site)
    assert outbox.waiting() == () and site.sent == [b"ballot", b"ballot"]


def test_half_written_and_damaged_files_stop_nobody(tmp_path: Path) -> None:
    site, outbox = Site(), Outbox(tmp_path)
    outbox.put(b"good")
    place = tmp_path / "outbox"
    (place / ".writing-1-2-half.json").write_bytes(b'{"docu')
    (place / "bad.json").write_bytes(b'{"docu')
    text = {"documents": (), "format": "treaty.outgoing/v1", "statement": "not base64!"}
    (place / "odd.json").write_bytes(canonical.encode(text))
    for _ in range(2):
        look(outbox, site)
    assert site.sent == [b"good"]
    assert [event for event, _ in site.journal.lines] == ["outbox-damaged"] * 2
    assert "half" not in " ".join(outbox.waiting())


def test_what_was_signed_too_late_is_dropped_and_said(tmp_path: Path) -> None:
    """A vote that an officer gave while another version of the charter took effect."""
    site, outbox = Site(), Outbox(tmp_path)
    for statement in (b"late", b"logged"):
        outbox.put(statement)
    site.over.update({b"late", b"logged"})
    site.logged.append(b"logged")
    look(outbox, site)
    assert outbox.waiting() == () and site.sent == []
    [(event, said)] = site.journal.lines
    assert event == "officer-settled" and sha256(b"late")[:16] in said
