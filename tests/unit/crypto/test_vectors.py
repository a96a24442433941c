"""The frozen answers of tests/vectors/v1/crypto.json, and that they can be made again.

Planted and caught: the domain renamed, another version of the key file, integers of 4 bytes, the
stream from block 1.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from tests.locations import PROJECT_ROOT
from treaty.crypto import derivation, envelope, sealing, shamir
from treaty.crypto.canonical import sha256
from treaty.crypto.commitment import commit
from treaty.crypto.key_agreement import EncapsulationKey, combine
from treaty.crypto.keys import SigningKey, decode_key_file, encode_key_file
from treaty.crypto.prg import Keystream

FOLDER = PROJECT_ROOT / "tests" / "vectors" / "v1"
VECTORS: dict[str, Any] = json.loads((FOLDER / "crypto.json").read_text(encoding="utf-8"))


def _field(text: str) -> derivation.Field:
    kind, _, value = text.partition(":")
    return {"bytes": bytes.fromhex, "text": str, "int": int}[kind](value)  # type: ignore[operator]  # one of three


@pytest.mark.parametrize("row", VECTORS["keys"])
def test_keys_ids_signatures_and_files(row: dict[str, str]) -> None:
    """From a published seed to the bytes of the key file."""
    key = SigningKey.generate(bytes.fromhex(row["seed"]))
    assert key.public.hex == row["public_key"]
    assert key.public.keyid == row["keyid"]
    assert key.sign(b"treaty").hex() == row["signature_of_treaty"]
    assert encode_key_file("runner", key).decode() == row["key_file"]
    assert decode_key_file(row["key_file"].encode()).key.public == key.public


def test_the_envelope() -> None:
    """Three published keys seal one statement."""
    row = VECTORS["envelope"]
    signers = [SigningKey.generate(bytes.fromhex(one["seed"])) for one in VECTORS["keys"]]
    payload = row["payload"].encode()
    assert envelope.pae(envelope.PAYLOAD_TYPE, payload).decode() == row["pae"]
    assert envelope.seal(payload, signers).decode() == row["envelope"]
    known = {signer.public.keyid: signer.public for signer in signers}
    assert envelope.verified_keys(envelope.parse(row["envelope"].encode()), known) == set(known)


def test_derivation_and_commitment() -> None:
    """Fields, hash, key and commitment."""
    row = VECTORS["derivation"]
    fields = [_field(text) for text in row["fields"]]
    assert derivation.enc(*fields).hex() == row["enc"]
    assert derivation.labelled_hash("example", *fields).hex() == row["labelled_hash"]
    assert derivation.kdf(bytes.fromhex(row["kdf_key"]), "example", *fields).hex() == row["kdf"]
    assert commit("rows", bytes.fromhex(row["salt"]), b"42") == row["commitment_to_42"]


def test_shares() -> None:
    """The polynomial with known coefficients."""
    row = VECTORS["shamir"]
    draws = iter(row["coefficients"])
    shares = {int(point): int(value, 16) for point, value in row["shares"].items()}
    secret = int(row["secret"], 16)
    dealt = shamir.deal(secret, 3, list(shares), lambda _: bytes.fromhex(next(draws)))
    assert dealt == shares
    assert shamir.combine(shares) == secret


def test_stream_and_sealing() -> None:
    """The stream at two places, and a sealed share."""
    row = VECTORS["prg"]
    key = bytes.fromhex(row["key"])
    assert Keystream(key).take(48).hex() == row["block_0"]
    assert Keystream(key, 16_384).take(48).hex() == row["block_16384"]
    assert sealing.seal(key, b"share", b"context").hex() == row["sealed_share"]


def test_the_hybrid_secret() -> None:
    """The combiner and the key from its seed."""
    row = VECTORS["hybrid"]
    key = EncapsulationKey.generate(bytes.fromhex(row["kem_seed"]))
    assert sha256(key.public) == row["kem_public_sha256"]
    combined = combine(
        b"\x01" * 32,
        b"\x02" * 32,
        ciphertext=b"\x05" * 1088,
        kem_public=key.public,
        public_low=b"\x03" * 32,
        public_high=b"\x04" * 32,
    )
    assert combined.hex() == row["combined"]


def test_regenerating_the_vectors_changes_nothing(tmp_path: Path) -> None:
    """The generator computes them a second way."""
    spec = importlib.util.spec_from_file_location(
        "gen_vectors", PROJECT_ROOT / "tools" / "gen_vectors.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write(tmp_path)
    for name in ("crypto.json", "tlog.json"):
        assert (tmp_path / name).read_bytes() == (FOLDER / name).read_bytes()
