"""Checkpoints (C2SP tlog-checkpoint): the log's signed size and root, and its cosignatures.

Guarantees (docs/spec/log.md, section 3):
  * A body is origin, size and root, three lines; extension lines are refused, because nobody
    could audit them.
  * `open_checkpoint` returns a `SignedCheckpoint` only when the key of the log itself signed,
    under the name that is the origin. Cosignatures are listed, never required: the quorum is the
    business of `treaty.tlog.policy`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from treaty.crypto.envelope import decode_base64, encode_base64
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.tlog.merkle import EMPTY_ROOT, HASH_BYTES
from treaty.tlog.notes import (
    Algorithm,
    Cosigner,
    SignatureLine,
    Signer,
    VerifiedLine,
    Verifier,
    encode_note,
    open_note,
    parse_note,
)

__all__ = [
    "MAX_SIZE",
    "Checkpoint",
    "Cosignature",
    "SignedCheckpoint",
    "add_cosignatures",
    "cosign",
    "open_checkpoint",
    "parse_decimal",
    "parse_unverified",
    "sign",
    "strip_cosignatures",
]

MAX_SIZE: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The log `origin` has `size` entries and their tree has this `root` (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def __post_init__(self) -> None:
        problem = _problem_of(self.origin, self.size, self.root)
        if problem:
            raise UsageError(problem)

    def body(self) -> bytes:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{encode_base64(self.root)}\n".encode()

    @classmethod
    def parse(cls, body: bytes) -> "Checkpoint":
        """Return the checkpoint whose body is `body`; raises `FormatError`."""
        try:
            lines = body.decode().split("\n")
        except UnicodeDecodeError as error:
            raise FormatError("expected a checkpoint in UTF-8") from error
        if len(lines) != 4 or lines[3]:
            raise FormatError("expected a checkpoint of three lines: origin, size and root")
        origin, digits, encoded = lines[:3]
        size = parse_decimal(digits, "tree size")
        root = decode_base64(encoded)
        problem = _problem_of(origin, size, root)
        if problem:
            raise FormatError(problem)
        return cls(origin, size, root)


@dataclass(frozen=True, slots=True)
class Cosignature:
    """A witness that saw the log consistent up to the checkpoint, at `time_s`."""

    witness: Verifier
    time_s: int


@dataclass(frozen=True, slots=True)
class SignedCheckpoint:
    """A checkpoint that the log signed, with the cosignatures that verified.

    Made by `open_checkpoint` only. `data` is the note as it was received.
    """

    checkpoint: Checkpoint
    cosignatures: tuple[Cosignature, ...]
    data: bytes


def sign(checkpoint: Checkpoint, log: Signer) -> bytes:
    """Return the signed note of `checkpoint`. The signer's name is the origin."""
    if log.name != checkpoint.origin:
        raise UsageError(f"the log {log.name} cannot sign for the origin {checkpoint.origin}")
    body = checkpoint.body()
    return encode_note(body, [log.sign(body)])


def cosign(checkpoint: Checkpoint, witness: Cosigner, time_s: int) -> SignatureLine:
    """Return the cosignature line of `witness` at `time_s`, seconds since the Unix epoch.

    Call it only on the order of `treaty.tlog.witness`, after that order's state is on disk.
    """
    return witness.cosign(checkpoint.body(), time_s)


def add_cosignatures(data: bytes, lines: Iterable[SignatureLine]) -> bytes:
    """Return the note `data` with `lines` added, in canonical order. Nothing is verified.

    A later line of a key replaces an earlier one, so a key stands there once.
    """
    note = parse_note(data)
    merged = {(line.name, line.key_id): line for line in (*note.lines, *lines)}
    return encode_note(note.text, merged.values())


def strip_cosignatures(data: bytes, log: Verifier) -> bytes:
    """Return the note `data` with the lines of `log` only; raises `FormatError` without any."""
    note = parse_note(data)
    own = [line for line in note.lines if (line.name, line.key_id) == (log.name, log.key_id)]
    if not own:
        raise FormatError(f"expected a signature line of the log {log.name}, found none")
    return encode_note(note.text, own)


def parse_unverified(data: bytes) -> Checkpoint:
    """Return what the note `data` says, unverified: for look-ups, never for decisions."""
    return Checkpoint.parse(parse_note(data).text)


def open_checkpoint(
    data: bytes, log: Verifier, witnesses: Sequence[Verifier] = (), *, strict: bool = False
) -> SignedCheckpoint:
    """Return the checkpoint that `log` signed and which of `witnesses` cosigned it.

    Raises `FormatError` when `data` is no checkpoint, and `VerificationError`: a known key that
    fails (``bad-signature``), no line of the log (``unsigned``), another log's origin
    (``wrong-origin``). For `strict` see `treaty.tlog.notes.open_note`.
    """
    if any(witness.algorithm is not Algorithm.COSIGNATURE for witness in witnesses):
        raise UsageError("a witness key must be of the cosignature type")
    opened = open_note(data, (log, *witnesses), strict=strict)
    checkpoint = Checkpoint.parse(opened.text)
    if checkpoint.origin != log.name:
        raise VerificationError(
            f"expected the origin {log.name}, got {checkpoint.origin}", code="wrong-origin"
        )
    if not any(line.verifier == log for line in opened.signed_by):
        raise VerificationError(f"the log {log.name} did not sign the checkpoint", code="unsigned")
    return SignedCheckpoint(checkpoint, tuple(_cosignatures(opened.signed_by)), data)


def parse_decimal(digits: str, what: str) -> int:
    """Return a decimal below 2^63 without sign or leading zeros; raises `FormatError`."""
    plain = digits.isascii() and digits.isdigit() and len(digits) <= 19
    if not plain or (digits[0] == "0" and digits != "0"):
        raise FormatError(f"expected a {what} in decimal without leading zeros")
    value = int(digits)
    if value > MAX_SIZE:
        raise FormatError(f"expected a {what} below 2^63")
    return value


def _cosignatures(lines: Iterable[VerifiedLine]) -> Iterable[Cosignature]:
    for line in lines:
        if line.time_s is not None:
            yield Cosignature(line.verifier, line.time_s)


def _problem_of(origin: str, size: int, root: bytes) -> str:
    """Why these cannot be a checkpoint, or nothing."""
    if not origin or min(origin) < " ":
        return "expected an origin of one non-empty line"
    if not 0 <= size <= MAX_SIZE:
        return "expected a tree size between 0 and 2^63 - 1"
    if len(root) != HASH_BYTES:
        return f"expected a root of {HASH_BYTES} bytes, got {len(root)}"
    if size == 0 and root != EMPTY_ROOT:
        return "expected the root of the empty tree at size 0"
    return ""
