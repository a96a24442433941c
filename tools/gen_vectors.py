"""Write tests/vectors/v1/crypto.json and tlog.json: known answers of the bytes Treaty defines.

Inputs are constants of published documents (RFC 8032, RFC 7748, RFC 5869, the GCM
specification), so that anybody can make the files again. Hashes, derivations, shares and trees
are computed here a second time, from their definitions and not with the product; signatures and
ciphertexts come from the library that the product uses. Regenerating changes nothing.

Run: PYTHONPATH=src python tools/gen_vectors.py [FOLDER]
"""

import base64
import hashlib
import hmac
import json
import sys
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | bool | None"

FOLDER = Path(__file__).parents[1] / "tests" / "vectors" / "v1"

# RFC 8032, section 7.1, tests 1 to 3.
SEEDS = (
    "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
    "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
    "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
)
PRK = "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5"  # RFC 5869, A.1
DOMAIN = b"cesa/1"
MODULUS = 2**256 - 189
ORIGIN = "log.example/consortium"
TIME_S = 1_679_315_147


def enc(*fields: bytes | str | int) -> bytes:
    """Length and bytes of each field."""
    out = b""
    for field in fields:
        data = field.encode() if isinstance(field, str) else field
        data = data.to_bytes(8, "big") if isinstance(data, int) else data
        out += len(data).to_bytes(4, "big") + data
    return out


def keys() -> list[Json]:
    """Public key, key id and the signature of one message for each published seed."""
    rows: list[Json] = []
    for seed in SEEDS:
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        public = private.public_key()
        der = public.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        raw = public.public_bytes_raw().hex()
        rows.append(
            {
                "seed": seed,
                "public_key": raw,
                "keyid": hashlib.sha256(der).hexdigest(),
                "signature_of_treaty": private.sign(b"treaty").hex(),
                "key_file": (
                    f'{{"algorithm":"ed25519","format":"treaty.key/v1","public_key":"{raw}",'
                    f'"role":"runner","seed":"{seed}"}}'
                ),
            }
        )
    return rows


def envelope() -> Json:
    """An envelope that all three keys sign, written by hand."""
    kind, payload = "application/vnd.in-toto+json", b'{"_type":"https://in-toto.io/Statement/v1"}'
    message = f"DSSEv1 {len(kind)} {kind} {len(payload)} ".encode() + payload
    lines = []
    for row in keys():
        assert isinstance(row, dict)
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(str(row["seed"])))
        sig = base64.b64encode(private.sign(message)).decode()
        lines.append(f'{{"keyid":"{row["keyid"]}","sig":"{sig}"}}')
    text = (
        f'{{"payload":"{base64.b64encode(payload).decode()}","payloadType":"{kind}",'
        f'"signatures":[{",".join(sorted(lines))}]}}'
    )
    return {"payload": payload.decode(), "pae": message.decode(), "envelope": text}


def derivations() -> Json:
    """Hash, key and commitment of fixed fields."""
    fields = enc(b"", "mercy.example", 7, b"\x00\xff")
    key = bytes.fromhex(PRK)
    salt = bytes(range(32))
    return {
        "fields": ["bytes:", "text:mercy.example", "int:7", "bytes:00ff"],
        "enc": fields.hex(),
        "labelled_hash": hashlib.sha256(enc(DOMAIN, "example") + fields).hexdigest(),
        "kdf_key": PRK,
        "kdf": hmac.digest(key, enc(DOMAIN, "example") + fields + b"\x01", "sha256").hex(),
        "salt": salt.hex(),
        "commitment_to_42": hashlib.sha256(
            enc(DOMAIN, "commitment", "rows", salt, b"42")
        ).hexdigest(),
    }


def shares() -> Json:
    """Shares of a secret whose further coefficients are 2 and 3: s + 2 x + 3 x^2 mod p."""
    secret = MODULUS - 5
    return {
        "secret": f"{secret:064x}",
        "coefficients": [f"{2:064x}", f"{3:064x}"],
        "shares": {str(x): f"{(secret + 2 * x + 3 * x * x) % MODULUS:064x}" for x in (1, 2, 5, 9)},
    }


def stream() -> Json:
    """The stream of a key, at block 0 and at the first block of the second chunk."""
    key = bytes.fromhex(PRK)

    def at(block: int) -> str:
        cipher = Cipher(algorithms.AES(key), modes.CTR(block.to_bytes(16, "big"))).encryptor()
        return cipher.update(bytes(48)).hex()

    sealed = AESGCM(key).encrypt(bytes(12), b"share", b"context").hex()
    return {"key": PRK, "block_0": at(0), "block_16384": at(16_384), "sealed_share": sealed}


def hybrid() -> Json:
    """The hybrid secret of two secrets; an encapsulation key from a seed."""
    one, two = b"\x01" * 32, b"\x02" * 32
    seed = bytes(range(64))
    public = MLKEM768PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw()
    ciphertext, low, high = b"\x05" * 1088, b"\x03" * 32, b"\x04" * 32
    salt = hashlib.sha256(enc(DOMAIN, "hybrid", ciphertext, public, low, high)).digest()
    return {
        "kem_seed": seed.hex(),
        "kem_public_sha256": hashlib.sha256(public).hexdigest(),
        "combined": hmac.digest(salt, enc(one, two), "sha256").hex(),
    }


def tree_hash(entries: list[bytes]) -> bytes:
    """MTH of RFC 6962, section 2.1, by its recursion."""
    if not entries:
        return hashlib.sha256().digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    split = 1
    while split * 2 < len(entries):
        split *= 2
    left, right = tree_hash(entries[:split]), tree_hash(entries[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def note_key(name: str, algorithm: int, public: bytes) -> tuple[bytes, str]:
    """Key id and vkey of a note key."""
    kind = bytes([algorithm]) + public
    key_id = hashlib.sha256(name.encode() + b"\n" + kind).digest()[:4]
    return key_id, f"{name}+{key_id.hex()}+{base64.b64encode(kind).decode()}"


def log() -> Json:
    """A log of seven entries: roots, checkpoint, two cosignatures, policy and a proof."""
    entries = [f"entry {index}".encode() for index in range(7)]
    body = f"{ORIGIN}\n7\n{base64.b64encode(tree_hash(entries)).decode()}\n"
    lines, vkeys = [], []
    for order, seed in enumerate(SEEDS):
        private = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        public = private.public_key().public_bytes_raw()
        name = ORIGIN if order == 0 else f"m{order}.example/witness"
        key_id, vkey = note_key(name, 4 if order else 1, public)
        if order == 0:
            signature = private.sign(body.encode())
        else:
            time_s = TIME_S + order
            message = f"cosignature/v1\ntime {time_s}\n{body}".encode()
            signature = time_s.to_bytes(8, "big") + private.sign(message)
        lines.append(f"— {name} {base64.b64encode(key_id + signature).decode()}\n")
        vkeys.append(vkey)
    checkpoint = body + "\n" + "".join(lines)
    policy = (
        f"log {vkeys[0]} https://{ORIGIN}\n"
        f"witness m1.example {vkeys[1]} https://m1.example/witness\n"
        f"witness m2.example {vkeys[2]} https://m2.example/witness\n"
        "group members 2 m1.example m2.example\n"
        "quorum members\n"
    )
    # Leaf 4 of 7: sibling leaf 5, then the pair (6), then the first four.
    path = [tree_hash(entries[5:6]), tree_hash(entries[6:7]), tree_hash(entries[:4])]
    proof = "c2sp.org/tlog-proof@v1\nindex 4\n"
    proof += "".join(base64.b64encode(one).decode() + "\n" for one in path) + "\n" + checkpoint
    return {
        "entries": [entry.decode() for entry in entries],
        "roots": [tree_hash(entries[:size]).hex() for size in range(8)],
        "seeds": list(SEEDS),
        "time_s": [0, TIME_S + 1, TIME_S + 2],
        "vkeys": list(vkeys),
        "checkpoint": checkpoint,
        "policy": policy,
        "proof_of_entry_4": proof,
        "bad_proofs": {
            "another entry's index": proof.replace("index 4", "index 5"),
            "a hash left out": proof.replace(base64.b64encode(path[0]).decode() + "\n", ""),
            "one cosignature": proof.replace(lines[2], ""),
            "an unknown key": proof + lines[1].replace("m1.example", "m9.example"),
            "lines in another order": proof.replace(lines[1] + lines[2], lines[2] + lines[1]),
            "extra data": proof.replace("index", "extra AA==\nindex"),
        },
    }


def crypto() -> Json:
    """Everything of treaty.crypto."""
    return {
        "keys": keys(),
        "envelope": envelope(),
        "derivation": derivations(),
        "shamir": shares(),
        "prg": stream(),
        "hybrid": hybrid(),
    }


def write(folder: Path) -> None:
    """Write both files into `folder`."""
    for name, content in (("crypto", crypto()), ("tlog", log())):
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
