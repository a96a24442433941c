"""DSSE envelopes: signed statements with one spelling.

Guarantees (docs/spec/formats.md, section 2):
  * What is signed is the pre-authentication encoding of DSSE v1, so the payload type is signed
    with the payload and no canonicalisation is needed to verify.
  * `parse` accepts one byte string per (payload, signatures): canonical JSON, canonical base64,
    signatures sorted by key id, each key id once, at least one signature.
  * `verified_keys` accepts an envelope only when *every* signature line is from a known key and
    verifies. An unauthenticated line would be room to alter a file without being noticed.

Leaves to others: what the payload says, and who may say it.
"""

import binascii
from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from treaty.crypto import canonical
from treaty.crypto.canonical import DigestField, Record
from treaty.crypto.keys import SIGNATURE_BYTES, PublicKey, SigningKey
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.ids import Digest

__all__ = [
    "MAX_ENVELOPE_BYTES",
    "MAX_GATHERED_BYTES",
    "PAYLOAD_TYPE",
    "Envelope",
    "decode_base64",
    "encode_base64",
    "join",
    "known_keys",
    "merge",
    "pae",
    "parse",
    "seal",
    "signed",
    "verified_keys",
]

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
MAX_ENVELOPE_BYTES: Final = 65_535
"""Largest entry that a log of C2SP tiles can hold."""

MAX_GATHERED_BYTES: Final = 1 << 20
"""Largest envelope outside the log: some thousands of signatures over one payload."""


class _Signature(Record, frozen=True):
    keyid: DigestField
    sig: bytes


class _Frame(Record, frozen=True):
    # Bytes stand as base64. The library beneath is lenient with its last bits; that the whole
    # frame must be written again as it came rules out every second spelling.
    payload: bytes
    payloadType: Literal["application/vnd.in-toto+json"]  # noqa: N815 - the name is DSSE's
    signatures: tuple[_Signature, ...]


class Envelope(msgspec.Struct, frozen=True):
    """A parsed envelope. Nothing about it is verified yet."""

    payload: bytes
    signatures: tuple[tuple[Digest, bytes], ...]


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return the pre-authentication encoding: ``DSSEv1 len type len payload`` (DSSE v1)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, signers: Sequence[SigningKey]) -> bytes:
    """Return the canonical envelope of `payload`, signed by every one of `signers`.

    Raises `UsageError` without signers or when a key signs twice. The order does not matter.
    """
    return join(payload, dict(signed(payload, signers).signatures))


def signed(payload: bytes, signers: Sequence[SigningKey]) -> Envelope:
    """Return what `parse` gives for the envelope that `seal` makes. Raises as `seal`."""
    if not signers:
        raise UsageError("an envelope needs at least one signer")
    message = pae(PAYLOAD_TYPE, payload)
    signatures = {signer.public.keyid: signer.sign(message) for signer in signers}
    if len(signatures) != len(signers):
        raise UsageError("a key signs an envelope once")
    return Envelope(payload, tuple(sorted(signatures.items())))


def parse(data: bytes, *, limit: int = MAX_ENVELOPE_BYTES) -> Envelope:
    """Return the envelope whose only spelling is `data`, at most `limit` bytes.

    Raises `FormatError` otherwise.
    """
    frame = canonical.decode(data, _Frame, limit=limit)
    if not frame.signatures:
        raise FormatError("expected at least one signature in the envelope, got none")
    previous = ""
    signatures: list[tuple[Digest, bytes]] = []
    for line in frame.signatures:
        if line.keyid <= previous:
            raise FormatError("expected signatures sorted by key id, each key id once")
        previous = line.keyid
        if len(line.sig) != SIGNATURE_BYTES:
            raise FormatError(f"expected {SIGNATURE_BYTES} signature bytes, got {len(line.sig)}")
        signatures.append((Digest(line.keyid), line.sig))
    return Envelope(frame.payload, tuple(signatures))


def verified_keys(envelope: Envelope, keys: Mapping[Digest, PublicKey]) -> frozenset[Digest]:
    """Return the ids of the keys that signed `envelope`.

    Raises `VerificationError` when a signature is under a key that is not in `keys`
    (``unknown-key``) or does not verify (``bad-signature``).
    """
    keyids = known_keys(envelope, keys)
    message = pae(PAYLOAD_TYPE, envelope.payload)
    for keyid, signature in envelope.signatures:
        keys[keyid].verify(signature, message)
    return keyids


def known_keys(envelope: Envelope, keys: Mapping[Digest, PublicKey]) -> frozenset[Digest]:
    """Return the ids of the keys under `envelope` as `verified_keys` would, verifying nothing.

    For who has made the very bytes with its own key.
    """
    for keyid, _ in envelope.signatures:
        if keyid not in keys:
            raise VerificationError(
                f"expected signatures of known keys, found key {keyid[:16]}", code="unknown-key"
            )
    return frozenset([keyid for keyid, _ in envelope.signatures])


def merge(envelopes: Sequence[bytes]) -> bytes:
    """Return one envelope with the signatures of all `envelopes`, which share a payload.

    Members sign apart and send files; this joins them. Nothing is verified here. Each, and the
    result, has at most `MAX_GATHERED_BYTES`. Raises `UsageError` without envelopes, `FormatError`
    when one does not parse or they are too large together, and `VerificationError` when payloads
    differ (``payload-differs``) or one key signed in two ways (``signature-differs``).
    """
    if not envelopes:
        raise UsageError("merging needs at least one envelope")
    parsed = [parse(data, limit=MAX_GATHERED_BYTES) for data in envelopes]
    payload = parsed[0].payload
    signatures: dict[Digest, bytes] = {}
    for one in parsed:
        if one.payload != payload:
            raise VerificationError(
                "expected envelopes over one payload, found two payloads", code="payload-differs"
            )
        for keyid, signature in one.signatures:
            if signatures.setdefault(keyid, signature) != signature:
                raise VerificationError(
                    f"expected one signature of key {keyid[:16]}, found two",
                    code="signature-differs",
                )
    merged = join(payload, signatures)
    if len(merged) > MAX_GATHERED_BYTES:
        raise FormatError(
            f"expected envelopes of at most {MAX_GATHERED_BYTES} bytes together, "
            f"got {len(merged)} with {len(signatures)} signatures"
        )
    return merged


def encode_base64(data: bytes) -> str:
    """Return standard base64 with padding (RFC 4648, section 4)."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_base64(text: str) -> bytes:
    """Return the bytes of `text`, which must be exactly what `encode_base64` writes.

    Raises `FormatError` for missing padding, other alphabets, and trailing bits that are not
    zero: those are second spellings of the same bytes.
    """
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except ValueError as error:  # binascii.Error, and characters outside ASCII
        raise FormatError("expected standard base64 with padding") from error
    if encode_base64(data) != text:
        raise FormatError("expected canonical base64, found another spelling of the same bytes")
    return data


def join(payload: bytes, signatures: Mapping[Digest, bytes]) -> bytes:
    """Return the envelope of `payload` with these signatures, by key id. Nothing is verified."""
    return canonical.encode(
        _Frame(
            payload=payload,
            payloadType=PAYLOAD_TYPE,
            signatures=tuple(
                _Signature(keyid=keyid, sig=signatures[keyid]) for keyid in sorted(signatures)
            ),
        )
    )
