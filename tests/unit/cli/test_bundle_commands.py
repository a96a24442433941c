"""Bundles on the command line: what holds is explained, what was altered is refused.

The bundle is the smallest there is: the founding charter of four members, cosigned by all.

Planted and caught: the anchor taken from the bundle, entries read before they were verified, the
least size or the greatest age not handed on, another entry written beside the proof, all kinds
listed, an anchor of another form accepted, minutes read as hours, a kind that there is not
answered with an empty list, a least size of nothing, the name of a temporary file in an error, a
bundle written to a file.
"""

import json
from pathlib import Path

import pytest

from tests.unit.cli.conftest import FAR, Command
from tests.unit.governance.consortia import NAMES, founding, key
from treaty.cli.bundle_files import milliseconds_of
from treaty.errors import UsageError
from treaty.governance.charter import charter_bytes, charter_digest, witness_name
from treaty.governance.template import CharterOptions
from treaty.protocol.messages import CharterPublished
from treaty.protocol.statements import seal_statement
from treaty.provenance.bundle import export, policy_of
from treaty.provenance.verify import anchor_of
from treaty.tlog.checkpoint import Checkpoint, add_cosignatures, cosign, sign
from treaty.tlog.merkle import MerkleTree, leaf_hash
from treaty.tlog.notes import Cosigner, Signer
from treaty.tlog.proof import verify_proof
from treaty.wiring import write_bundle

CHARTER = founding(4, CharterOptions(expires=FAR))
ANCHOR = charter_digest(CHARTER)
COSIGNED_S = 1_700_000_000


def _entry() -> bytes:
    labels = [
        f"{name} {role} 1" for name in NAMES[:4] for role in ("approval", "runner", "witness")
    ]
    labels += ["coordinator runner", "coordinator log"]
    body = CharterPublished(charter=ANCHOR, author=CHARTER.coordinator.name, version=1)
    return seal_statement(body, *(key(label) for label in labels))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that holds."""
    entry = _entry()
    tree = MerkleTree([leaf_hash(entry)])
    checkpoint = Checkpoint(CHARTER.log.origin, 1, tree.root())
    note = sign(checkpoint, Signer(CHARTER.log.origin, key("coordinator log")))
    lines = [
        cosign(checkpoint, Cosigner(witness_name(name), key(f"{name} witness 1")), COSIGNED_S)
        for name in NAMES[:4]
    ]
    documents = {ANCHOR: charter_bytes(CHARTER)}
    files = export(
        [entry],
        add_cosignatures(note, lines),
        ANCHOR,
        documents.__getitem__,
        documents.__contains__,
    )
    write_bundle(tmp_path / "bundle", files)
    return tmp_path / "bundle"


def test_a_bundle_that_holds_says_what_it_proves(treaty: Command, bundle: Path) -> None:
    """For people line by line, for programs as a canonical record."""
    shown = treaty("verify", bundle, "--anchor", ANCHOR)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("holds: proved to size 1, 4 cosignatures")
    assert "not covered" in shown.out
    record = json.loads(treaty("verify", bundle, "--anchor", ANCHOR, "--format", "json").out)
    assert (record["format"], record["anchor"], record["size"]) == ("treaty.verdict/v1", ANCHOR, 1)


READERS = {
    "verify": ["verify"],
    "log show": ["log", "show"],
    "log prove": ["log", "prove", "--entry", "0", "--out", "proof"],
}


@pytest.mark.parametrize("reader", READERS)
def test_nothing_is_shown_of_a_bundle_that_does_not_hold(
    reader: str, treaty: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another anchor, an altered blob, a missing file, a strange one: exit 3 and no output."""
    monkeypatch.chdir(bundle.parent)
    words = [*READERS[reader], bundle, "--anchor"]
    blob = bundle / "blobs" / ANCHOR
    good = blob.read_bytes()
    other = treaty(*words, "0" * 64)
    blob.write_bytes(good + b" ")
    altered = treaty(*words, ANCHOR)
    blob.unlink()
    missing = treaty(*words, ANCHOR)
    blob.write_bytes(good)
    (bundle / "readme.txt").write_text("trust me")
    strange = treaty(*words, ANCHOR)
    for shown in (other, altered, missing, strange):
        assert (shown.code, shown.out) == (3, "")
        assert shown.err.count("\n") == 1
    assert not (bundle.parent / "proof").exists()
    (bundle / "readme.txt").unlink()
    assert treaty(*words, ANCHOR).code == 0


@pytest.mark.parametrize("anchor", ["", "0" * 63, "Z" * 64, ANCHOR.upper()])
def test_an_anchor_that_is_none_is_a_mistake_on_this_side(
    anchor: str, treaty: Command, bundle: Path
) -> None:
    """It came from the caller, so exit 2."""
    assert treaty("verify", bundle, "--anchor", anchor).code == 2


def test_an_anchor_is_text_and_an_edition_one_of_two() -> None:
    for wrong in (None, 7, ANCHOR.encode()):
        with pytest.raises(UsageError, match="64 lower-case hexadecimal digits"):
            anchor_of(wrong)
    assert anchor_of(str(ANCHOR)) == ANCHOR
    with pytest.raises(UsageError, match="edition full or attested, got 'half'"):
        export([], b"", ANCHOR, lambda _: b"", lambda _: False, "half")  # type: ignore[arg-type]  # wrong on purpose


def test_a_directory_that_is_not_there_is_a_mistake_too(treaty: Command, tmp_path: Path) -> None:
    """Not a failed verification."""
    assert treaty("verify", tmp_path / "absent", "--anchor", ANCHOR).code == 2


def test_freshness_is_refused_only_where_it_is_asked_for(treaty: Command, bundle: Path) -> None:
    """A genuine older history is valid, until somebody wants a newer one."""
    words = ["verify", bundle, "--anchor", ANCHOR, "--format", "json"]
    assert treaty(*words, "--min-size", "1").code == 0
    short = treaty(*words, "--min-size", "2")
    assert (short.code, json.loads(short.out)["code"]) == (3, "too-short")
    old = treaty(*words, "--max-age", "1h")
    assert (old.code, json.loads(old.out)["code"]) == (3, "too-old")
    fresh = json.loads(treaty(*words, "--max-age", "900000d").out)
    status = {one["name"]: one["status"] for one in fresh["guarantees"]}
    assert status["freshness"] == "proved"
    assert treaty(*words, "--max-age", "soon").code == 2


@pytest.mark.parametrize(
    ("age", "span"),
    [("90s", 90_000), ("15m", 900_000), ("1h", 3_600_000), ("2d", 172_800_000)],
)
def test_a_span_is_read_with_its_unit(age: str, span: int) -> None:
    """In milliseconds."""
    assert milliseconds_of(age) == span


@pytest.mark.parametrize("age", ["", "1", "h", "0h", "-1h", "1.5h", "1w", "1h ", "01h"])
def test_a_span_without_a_clear_meaning_is_refused(age: str) -> None:
    """Nothing is guessed."""
    with pytest.raises(UsageError, match="time span"):
        milliseconds_of(age)


def test_the_log_is_listed_by_kind(treaty: Command, bundle: Path) -> None:
    """Index, kind, author and digest."""
    words = ["log", "show", bundle, "--anchor", ANCHOR]
    shown = treaty(*words)
    assert shown.code == 0
    assert [line.split()[:2] for line in shown.out.splitlines()] == [
        ["entry", "kind"],
        ["0", "CharterPublished"],
    ]
    (line,) = json.loads(treaty(*words, "--format", "json", "--kind", "CharterPublished").out)
    assert (line["index"], line["author"]) == (0, CHARTER.coordinator.name)
    assert json.loads(treaty(*words, "--format", "json", "--kind", "BallotCast").out) == []


def test_a_kind_that_no_entry_can_have_is_refused(treaty: Command, bundle: Path) -> None:
    """An empty list would say that the log holds none of what was merely misspelt."""
    shown = treaty("log", "show", bundle, "--anchor", ANCHOR, "--kind", "ballot-cast")
    assert (shown.code, shown.out) == (2, "")
    assert "BallotCast, " in shown.err
    none = treaty("log", "show", bundle, "--anchor", ANCHOR, "--kind", "BallotCast")
    assert (none.code, none.out) == (0, "")


@pytest.mark.parametrize("size", [0, -1])
def test_a_least_size_that_asks_for_nothing_is_refused(
    size: int, treaty: Command, bundle: Path
) -> None:
    shown = treaty("verify", bundle, "--anchor", ANCHOR, "--min-size", size)
    assert (shown.code, shown.out) == (2, "")
    assert "--min-size" in shown.err


def test_an_error_names_the_file_that_was_asked_for(
    treaty: Command, bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "no" / "report.html"
    shown = treaty("report", bundle, "--anchor", ANCHOR, "--out", out)
    assert (shown.code, shown.err.split(": ")[1]) == (5, f"cannot write {out}")


def test_a_bundle_is_not_written_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "bundle").write_bytes(b"kept")
    with pytest.raises(UsageError, match="is a file: name a new directory"):
        write_bundle(tmp_path / "bundle", {"manifest.json": b"{}"})
    assert (tmp_path / "bundle").read_bytes() == b"kept"


def test_a_proof_stands_without_the_bundle(treaty: Command, bundle: Path, tmp_path: Path) -> None:
    """Entry and proof verify under the log's key alone; no file is written over."""
    words = ["log", "prove", bundle, "--anchor", ANCHOR, "--out", tmp_path / "proof"]
    shown = treaty(*words, "--entry", "0", "--content", tmp_path / "entry")
    assert shown.code == 0
    entry = (tmp_path / "entry").read_bytes()
    assert entry == _entry()
    proof = (tmp_path / "proof").read_bytes()
    assert verify_proof(proof, entry, policy_of(CHARTER)).checkpoint.size == 1
    assert treaty(*words, "--entry", "0").code == 5
    assert treaty(*words, "--entry", "1").code == 2
    assert treaty(*words, "--entry", "-1").code == 2
