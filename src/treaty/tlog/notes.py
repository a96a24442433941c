"""Signed notes (C2SP signed-note): text, and the lines of those who signed it.

Guarantees (docs/spec/log.md, section 2):
  * `open_note` returns only lines that verified. A line of a known key that fails rejects the
    whole note, and so does a note without any line of a known key.
  * Live (``strict=False``), lines of unknown keys are ignored, as C2SP requires, so that keys
    and cosigners may come and go.
  * In a bundle (``strict=True``) nothing is ignored: every line is of a known key, in canonical
    base64, in the order of `encode_note`, each key once. So no byte of the file is free.

Algorithms: 0x01, Ed25519 over the text; 0x04, timestamped Ed25519 cosignature (C2SP
tlog-cosignature, ``cosignature/v1``). Time is a number of seconds and comes in as an argument.
"""

import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from treaty.crypto.envelope import decode_base64, encode_base64
from treaty.crypto.keys import KEY_BYTES, SIGNATURE_BYTES, PublicKey, SigningKey
from treaty.errors import FormatError, UsageError, VerificationError

__all__ = [
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "Algorithm",
    "Cosigner",
    "Note",
    "OpenedNote",
    "SignatureLine",
    "Signer",
    "VerifiedLine",
    "Verifier",
    "encode_note",
    "open_note",
    "parse_note",
    "parse_signature_line",
]

MAX_NOTE_BYTES: Final = 1 << 16
MAX_SIGNATURES: Final = 256
_MAX_TIME_S: Final = (1 << 63) - 1
_CONTROLS: Final = re.compile(rb"[\x00-\x09\x0b-\x1f]")
_NO_NAME: Final = re.compile(r"[+\s\x00-\x1f]")
_TIME_BYTES: Final = 8


class Algorithm(IntEnum):
    """Signature type byte of a key."""

    ED25519 = 0x01
    COSIGNATURE = 0x04


@dataclass(frozen=True, slots=True)
class Verifier:
    """A named key that notes are checked against."""

    name: str
    algorithm: Algorithm
    public: PublicKey
    key_id: bytes = field(init=False)
    """First 4 bytes of SHA-256(name || newline || algorithm || public key)."""

    def __post_init__(self) -> None:
        if not _is_key_name(self.name):
            raise UsageError("a key name must have no space, no plus sign and no control character")
        object.__setattr__(self, "key_id", _key_id(self.name, self.algorithm, self.public.raw))

    @property
    def vkey(self) -> str:
        """The key as text: ``name+keyid+base64(algorithm || key)``."""
        key = encode_base64(bytes([self.algorithm]) + self.public.raw)
        return f"{self.name}+{self.key_id.hex()}+{key}"

    @classmethod
    def from_vkey(cls, text: str) -> "Verifier":
        """Return the key written as `text`; raises `FormatError`."""
        parts = text.split("+", 2)
        if len(parts) != 3 or not _is_key_name(parts[0]):
            raise FormatError("expected a verifier key name+id+key")
        name, key_id, encoded = parts
        data = decode_base64(encoded)
        if len(data) != 1 + KEY_BYTES or data[0] not in tuple(Algorithm):
            raise FormatError("expected an Ed25519 verifier key of type 1 or 4")
        verifier = cls(name, Algorithm(data[0]), PublicKey(data[1:]))
        if verifier.key_id.hex() != key_id:
            raise FormatError(f"expected key id {verifier.key_id.hex()} in the verifier key")
        return verifier

    def verify(self, text: bytes, signature: bytes) -> int | None:
        """Return the cosignature's time in seconds, or ``None`` for a plain signature.

        Raises `VerificationError` (code ``bad-signature``) unless `signature` is over `text`.
        """
        match self.algorithm:
            case Algorithm.ED25519:
                self.public.verify(signature, text)
                return None
            case Algorithm.COSIGNATURE:
                if len(signature) != _TIME_BYTES + SIGNATURE_BYTES:
                    raise VerificationError(
                        f"expected a cosignature of 72 bytes, got {len(signature)}",
                        code="bad-signature",
                    )
                time_s = int.from_bytes(signature[:_TIME_BYTES], "big")
                if time_s > _MAX_TIME_S:
                    raise VerificationError(
                        "expected a cosignature time below 2^63", code="bad-signature"
                    )
                self.public.verify(signature[_TIME_BYTES:], _cosigned(text, time_s))
                return time_s


@dataclass(frozen=True, slots=True)
class SignatureLine:
    """One line below a note. Nothing about it is verified."""

    name: str
    key_id: bytes
    signature: bytes

    def __str__(self) -> str:
        return f"— {self.name} {encode_base64(self.key_id + self.signature)}\n"


@dataclass(frozen=True, slots=True)
class Signer:
    """A named Ed25519 key that signs notes (type 0x01)."""

    name: str
    key: SigningKey

    @property
    def verifier(self) -> Verifier:
        """What others check the signature with."""
        return Verifier(self.name, Algorithm.ED25519, self.key.public)

    def sign(self, text: bytes) -> SignatureLine:
        """Return the line of this key under `text`."""
        _check_text(text)
        return SignatureLine(self.name, self.verifier.key_id, self.key.sign(text))


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A named key that cosigns checkpoints with the time (type 0x04)."""

    name: str
    key: SigningKey

    @property
    def verifier(self) -> Verifier:
        """What others check the cosignature with."""
        return Verifier(self.name, Algorithm.COSIGNATURE, self.key.public)

    def cosign(self, text: bytes, time_s: int) -> SignatureLine:
        """Return the line of this key under `text` at `time_s`, seconds since the Unix epoch."""
        _check_text(text)
        if not 0 <= time_s <= _MAX_TIME_S:
            raise UsageError(f"a cosignature time must be between 0 and 2^63 - 1, got {time_s}")
        signature = self.key.sign(_cosigned(text, time_s))
        return SignatureLine(
            self.name, self.verifier.key_id, time_s.to_bytes(_TIME_BYTES, "big") + signature
        )


@dataclass(frozen=True, slots=True)
class Note:
    """A parsed note: text and lines, in the order of the file. Nothing is verified."""

    text: bytes
    lines: tuple[SignatureLine, ...]


@dataclass(frozen=True, slots=True)
class VerifiedLine:
    """A key whose signature verified, and its time when it is a cosignature."""

    verifier: Verifier
    time_s: int | None


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """A note whose known signatures all verified; each key at most once, newest time."""

    text: bytes
    signed_by: tuple[VerifiedLine, ...]


def encode_note(text: bytes, lines: Iterable[SignatureLine]) -> bytes:
    """Return the note's bytes with its lines in the one canonical order.

    First the lines whose key is named like the first line of the text (a checkpoint's log), then
    by name and key id. Repeated lines are written once. Raises `UsageError` for text that no
    note can hold, or without lines.
    """
    _check_text(text)
    ordered = sorted(set(lines), key=lambda line: _order(text, line))
    if not ordered:
        raise UsageError("a note needs at least one signature")
    return text + b"\n" + "".join(map(str, ordered)).encode()


def parse_note(data: bytes, *, strict: bool = False) -> Note:
    """Return text and lines of a note; raises `FormatError`.

    `strict` asks for the bytes that `encode_note` writes.
    """
    if len(data) > MAX_NOTE_BYTES:
        raise FormatError(f"expected a note of at most {MAX_NOTE_BYTES} bytes, got {len(data)}")
    head, blank, tail = data.rpartition(b"\n\n")
    text = head + b"\n"
    if not blank or not tail.endswith(b"\n"):
        raise FormatError("expected text, an empty line and signature lines")
    problem = _problem_of(text)
    if problem:
        raise FormatError(problem)
    rows = tail[:-1].split(b"\n")
    if len(rows) > MAX_SIGNATURES:
        raise FormatError(f"expected at most {MAX_SIGNATURES} signatures, got {len(rows)}")
    lines = tuple(parse_signature_line(row, strict=strict) for row in rows)
    if strict and encode_note(text, lines) != data:
        raise FormatError("expected signature lines in canonical order, each once")
    return Note(text, lines)


def parse_signature_line(row: bytes, *, strict: bool = False) -> SignatureLine:
    """Return the signature line `row`, without its newline; raises `FormatError`."""
    try:
        mark, name, encoded = row.decode().split(" ")
    except ValueError as error:  # no UTF-8, or not three fields
        raise FormatError("expected a signature line: dash, name and base64") from error
    if mark != "—" or not _is_key_name(name):
        raise FormatError("expected a signature line: dash, name and base64")
    data = decode_base64(encoded) if strict else _lenient_base64(encoded)
    if len(data) <= 4:
        raise FormatError("expected a key id and a signature in a signature line")
    return SignatureLine(name, data[:4], data[4:])


def open_note(data: bytes, verifiers: Sequence[Verifier], *, strict: bool = False) -> OpenedNote:
    """Return the text of a note and who of `verifiers` signed it.

    1. Lines of unknown keys are ignored, or in `strict` mode refused (code ``unknown-key``).
    2. A line of a known key must verify (code ``bad-signature``).
    3. A key counts once; in `strict` mode it may not sign twice (code ``signed-twice``).
    4. Somebody known signed (code ``unsigned``).

    Raises `FormatError` when the bytes are no note, `VerificationError` otherwise.
    """
    note = parse_note(data, strict=strict)
    known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    found: dict[tuple[str, bytes], VerifiedLine] = {}
    for line in note.lines:
        key = (line.name, line.key_id)
        verifier = known.get(key)
        if verifier is None:  # 1
            if strict:
                raise VerificationError(
                    f"expected signatures of known keys, found {line.name}", code="unknown-key"
                )
            continue
        verified = VerifiedLine(verifier, verifier.verify(note.text, line.signature))  # 2
        earlier = found.get(key)
        if earlier is not None and strict:  # 3
            raise VerificationError(f"{line.name} signed the note twice", code="signed-twice")
        if earlier is None or (verified.time_s or 0) > (earlier.time_s or 0):
            found[key] = verified
    if not found:  # 4
        raise VerificationError("no known key signed the note", code="unsigned")
    return OpenedNote(note.text, tuple(found.values()))


def _order(text: bytes, line: SignatureLine) -> tuple[bool, bytes, bytes, bytes]:
    name = line.name.encode()
    return (name != text.partition(b"\n")[0], name, line.key_id, line.signature)


def _key_id(name: str, algorithm: Algorithm, public: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + bytes([algorithm]) + public).digest()[:4]


def _cosigned(text: bytes, time_s: int) -> bytes:
    return b"cosignature/v1\ntime %d\n" % time_s + text


def _is_key_name(name: str) -> bool:
    if not name or _NO_NAME.search(name):
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem_of(text: bytes) -> str:
    """Why `text` cannot be the text of a note, or nothing."""
    if not text.endswith(b"\n"):
        return "expected note text that ends in a newline"
    if _CONTROLS.search(text):
        return "expected note text without control characters"
    try:
        text.decode()
    except UnicodeDecodeError:
        return "expected note text in UTF-8"
    return ""


def _check_text(text: bytes) -> None:
    problem = _problem_of(text)
    if problem:
        raise UsageError(problem)


def _lenient_base64(text: str) -> bytes:
    """Live notes of other programs may carry stray trailing bits; strict mode refuses them."""
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:
        raise FormatError("expected standard base64 with padding") from error
