"""The log against vectors that others published.

Sources: transparency-dev/merkle testdata (RFC 6962 proofs, good and bad), transparency-dev/tessera
testdata (a whole tiled log), and the note in the documentation of golang.org/x/mod/sumdb/note.

Planted faults, each seen to fail here: a consistency proof from size 0 accepted; the border of a
consistency proof off by one; the length of a proof not checked; lengths of entries in one byte.
"""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.locations import vectors_root
from treaty.crypto.keys import SigningKey
from treaty.errors import VerificationError
from treaty.tlog.checkpoint import Checkpoint, open_checkpoint, sign
from treaty.tlog.merkle import (
    CompactRange,
    MerkleTree,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from treaty.tlog.notes import Signer, Verifier, open_note
from treaty.tlog.tiles import parse_entry_bundle, resources

pytestmark = pytest.mark.vectors

LOG_ENTRIES = (
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eit",
    "nain",
    "ten",
    "ileven",
    "twelf",
    "threeten",
    "fourten",
    "fivten",
)
LOG_PRIVATE = (
    "PRIVATE+KEY+example.com/log/testdata+33d7b496+AeymY/SZAX0jZcJ8enZ5FY1Dz+wTML2yWSkK+9DSF3eg"
)
LOG_PUBLIC = "example.com/log/testdata+33d7b496+AeHTu4Q3hEIMHNqc6fASMsq3rKNx280NI+oO5xCFkkSx"

NOTE_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
NOTE_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def _cases(name: str) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = json.loads(
        (vectors_root() / "merkle" / f"{name}.json").read_text()
    )
    return loaded


def _bytes(text: str) -> bytes:
    return base64.b64decode(text)


def _proof(case: dict[str, Any]) -> list[bytes]:
    return [_bytes(value) for value in case["proof"] or []]


def test_all_98_inclusion_vectors_are_judged_as_published() -> None:
    """Each of the 98 published proofs is accepted or refused as its file says."""
    judged = {}
    for name, case in _cases("inclusion").items():
        try:
            verify_inclusion(
                _bytes(case["leafHash"]),
                case["leafIdx"],
                case["treeSize"],
                _proof(case),
                _bytes(case["root"]),
            )
            judged[name] = False
        except VerificationError as error:
            assert error.code == "not-included"
            judged[name] = True
    assert judged == {name: case["wantErr"] for name, case in _cases("inclusion").items()}
    assert len(judged) == 98


def test_all_98_consistency_vectors_are_judged_as_published() -> None:
    """Each of the 98 published proofs is accepted or refused as its file says."""
    judged = {}
    for name, case in _cases("consistency").items():
        try:
            verify_consistency(
                case["size1"],
                case["size2"],
                _bytes(case["root1"]),
                _bytes(case["root2"]),
                _proof(case),
            )
            judged[name] = False
        except VerificationError as error:
            assert error.code == "not-consistent"
            judged[name] = True
    assert judged == {name: case["wantErr"] for name, case in _cases("consistency").items()}
    assert len(judged) == 98


def test_the_published_log_is_rebuilt_byte_for_byte() -> None:
    """All 46 files (16 checkpoints, 15 tiles, 15 bundles) follow from 15 entries and the key."""
    key = SigningKey(_bytes(LOG_PRIVATE.split("+", 4)[4])[1:])
    log = Signer("example.com/log/testdata", key)
    assert log.verifier.vkey == LOG_PUBLIC
    entries = [entry.encode() for entry in LOG_ENTRIES]
    tree, growing, made = MerkleTree(), CompactRange(), {}
    for size in range(len(entries) + 1):
        if size:
            tree.append(leaf_hash(entries[size - 1]))
            growing.append(leaf_hash(entries[size - 1]))
            made.update(resources(tree, entries.__getitem__, size, size - 1))
        assert growing.root() == tree.root()
        made[f"checkpoint.{size}"] = sign(Checkpoint(log.name, size, tree.root()), log)
    assert made == _published_files()
    assert len(made) == 46


def test_the_published_checkpoints_open_and_their_bundles_parse() -> None:
    """What others wrote is read back: signature, size, root and entries."""
    files = _published_files()
    log = Verifier.from_vkey(LOG_PUBLIC)
    for size in range(1, 16):
        signed = open_checkpoint(files[f"checkpoint.{size}"], log, strict=True)
        entries = parse_entry_bundle(files[f"tile/entries/000.p/{size}"], size)
        tree = MerkleTree(map(leaf_hash, entries))
        assert (signed.checkpoint.size, signed.checkpoint.root) == (size, tree.root())


def _published_files() -> dict[str, bytes]:
    folder = vectors_root() / "tessera" / "log"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and _is_published(path.relative_to(folder))
    }


def _is_published(path: Path) -> bool:
    return path.parts[0] == "tile" or path.name.startswith("checkpoint.")


def test_the_note_of_the_go_checksum_database_verifies_and_is_made_again() -> None:
    """Key text, key id and signature line equal the published ones, byte for byte."""
    verifier = Verifier.from_vkey(NOTE_VKEY)
    opened = open_note(NOTE.encode(), [verifier], strict=True)
    assert [line.verifier for line in opened.signed_by] == [verifier]
    signer = Signer("PeterNeumann", SigningKey(_bytes(NOTE_PRIVATE.split("+", 4)[4])[1:]))
    assert signer.verifier.vkey == NOTE_VKEY
    assert opened.text + b"\n" + str(signer.sign(opened.text)).encode() == NOTE.encode()
