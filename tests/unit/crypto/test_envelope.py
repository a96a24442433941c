"""Envelopes: one spelling, every signature known and verified, readable by others.

Oracles: securesystemslib verifies what `seal` writes, in-toto-attestation reads the payload.
Planted and caught: unknown keys skipped in `verified_keys`, non-canonical base64 accepted,
signatures in any order, a key id twice, the payload type left out of what is signed, a second
spelling of base64, envelopes too large together.
"""

import base64
import itertools
import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.signer import SSlibKey

from treaty.crypto import canonical, envelope
from treaty.crypto.keys import PublicKey, SigningKey
from treaty.errors import FormatError, UsageError, VerificationError

KEYS = [SigningKey.generate(random.Random(number).randbytes(32)) for number in range(3)]
KNOWN = {key.public.keyid: key.public for key in KEYS}
PAYLOAD = canonical.encode(
    {
        "_type": "https://in-toto.io/Statement/v1",
        "predicate": {"member": "mercy.example", "round": 1},
        "predicateType": "https://treaty.example/predicate/example/v1",
        "subject": [{"digest": {"sha256": "0" * 64}, "name": "masked-update"}],
    }
)
SEALED = envelope.seal(PAYLOAD, KEYS)


def test_the_encoding_that_is_signed_is_the_published_one() -> None:
    """The example of the DSSE protocol document."""
    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert envelope.pae("http://example.com/HelloWorld", b"hello world") == expected


def test_what_is_sealed_is_opened() -> None:
    """Payload and all signers come back; a signer's order leaves no trace."""
    parsed = envelope.parse(SEALED)
    assert parsed.payload == PAYLOAD
    assert envelope.verified_keys(parsed, KNOWN) == frozenset(KNOWN)
    for order in itertools.permutations(KEYS):
        assert envelope.seal(PAYLOAD, order) == SEALED


def test_securesystemslib_verifies_our_envelope() -> None:
    """Another implementation counts three good signatures."""
    others = [
        SSlibKey(keyid, "ed25519", "ed25519", {"public": public.hex})
        for keyid, public in KNOWN.items()
    ]
    verified = OtherEnvelope.from_dict(json.loads(SEALED)).verify(others, 3)
    assert set(verified) == set(KNOWN)


def test_in_toto_reads_our_statement() -> None:
    """The payload is a valid in-toto Statement v1 for its reference library."""
    message = json_format.Parse(envelope.parse(SEALED).payload, statement_pb2.Statement())
    statement = Statement.copy_from_pb(message)
    statement.validate()
    assert statement.pb.subject[0].digest["sha256"] == "0" * 64


def test_every_bit_of_an_envelope_counts() -> None:
    """No flip of one bit leaves an envelope that parses and verifies."""
    data = bytearray(envelope.seal(b"{}", KEYS[:1]))
    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises((FormatError, VerificationError)):
            envelope.verified_keys(envelope.parse(bytes(data)), KNOWN)
        data[bit // 8] ^= 1 << bit % 8
    assert envelope.verified_keys(envelope.parse(bytes(data)), KNOWN) == {KEYS[0].public.keyid}


def _with_lines(change: Callable[[list[Any]], list[Any]]) -> Callable[[Any], Any]:
    return lambda frame: {**frame, "signatures": change(frame["signatures"])}


def _respell(text: str) -> str:
    """The same bytes with a stray bit behind the last one."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    body = text.rstrip("=")
    return body[:-1] + alphabet[alphabet.index(body[-1]) + 1] + text[len(body) :]


def _sig(text: Callable[[str], str]) -> Callable[[Any], Any]:
    return _with_lines(lambda lines: [{**lines[0], "sig": text(lines[0]["sig"])}, *lines[1:]])


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "signatures in another order": (_with_lines(lambda lines: lines[::-1]), "sorted"),
    "a key id twice": (_with_lines(lambda lines: [lines[0], *lines]), "sorted"),
    "no signature": (_with_lines(lambda _: []), "at least one"),
    "a short signature": (_sig(lambda text: base64.b64encode(bytes(63)).decode()), "64"),
    "stray bits in a signature": (_sig(_respell), "spelling"),
    "padding left out": (_sig(lambda text: text.rstrip("=")), "base64"),
    "url alphabet": (_sig(lambda text: "_" + text[1:]), "base64"),
    "a newline in base64": (_sig(lambda text: text[:4] + "\n" + text[4:]), "base64"),
    "a letter outside ASCII": (_sig(lambda text: "ä" + text[1:]), "base64"),
    "stray bits in the payload": (
        lambda frame: {**frame, "payload": _respell(base64.b64encode(b"{}").decode())},
        "spelling",
    ),
    "another payload type": (lambda frame: {**frame, "payloadType": "text/plain"}, "payloadType"),
    "an unknown field": (lambda frame: {**frame, "note": "x"}, "unknown field"),
    "an unknown field in a line": (
        _with_lines(lambda lines: [{**lines[0], "cert": ""}, *lines[1:]]),
        "unknown field",
    ),
    "an upper-case key id": (
        _with_lines(lambda lines: [{**lines[0], "keyid": "A" * 64}, *lines[1:]]),
        "keyid",
    ),
}


@pytest.mark.parametrize(("change", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_every_other_spelling_is_refused(change: Callable[[Any], Any], why: str) -> None:
    """Each row is refused for its own reason."""
    data = canonical.encode(change(json.loads(SEALED)))
    with pytest.raises(FormatError, match=why):
        envelope.parse(data)


def test_size_is_bounded_by_what_a_log_can_hold() -> None:
    """An entry of the log has at most 65,535 bytes."""
    large = envelope.seal(b"x" * 60_000, KEYS[:1])
    with pytest.raises(FormatError, match="65535"):
        envelope.parse(large)
    assert len(envelope.parse(large, limit=len(large)).payload) == 60_000


def test_one_unknown_key_among_known_ones_refuses_the_envelope() -> None:
    """Strict: an unauthenticated line is room to alter a file unnoticed."""
    known = {keyid: key for keyid, key in KNOWN.items() if key != KEYS[1].public}
    with pytest.raises(VerificationError) as refusal:
        envelope.verified_keys(envelope.parse(SEALED), known)
    assert refusal.value.code == "unknown-key"


@pytest.mark.parametrize("position", range(3))
def test_one_bad_signature_among_good_ones_refuses_the_envelope(position: int) -> None:
    """Wherever it stands."""
    parsed = envelope.parse(SEALED)
    lines = list(parsed.signatures)
    lines[position] = (lines[position][0], lines[(position + 1) % 3][1])
    with pytest.raises(VerificationError) as refusal:
        envelope.verified_keys(envelope.Envelope(parsed.payload, tuple(lines)), KNOWN)
    assert refusal.value.code == "bad-signature"


def test_a_signature_over_another_payload_type_does_not_count() -> None:
    """The payload type is signed with the payload."""
    key = KEYS[0]
    forged = envelope.Envelope(
        PAYLOAD, ((key.public.keyid, key.sign(envelope.pae("text/plain", PAYLOAD))),)
    )
    with pytest.raises(VerificationError):
        envelope.verified_keys(forged, KNOWN)


def test_a_key_under_another_key_id_does_not_count() -> None:
    """The id is what is looked up, the key what verifies."""
    swapped: dict[Any, PublicKey] = {
        KEYS[0].public.keyid: KEYS[1].public,
        KEYS[1].public.keyid: KEYS[0].public,
    }
    with pytest.raises(VerificationError):
        envelope.verified_keys(envelope.parse(envelope.seal(PAYLOAD, KEYS[:2])), swapped)


def test_envelopes_signed_apart_join_into_one() -> None:
    """Merging in any order gives what signing together gives; repeating changes nothing."""
    apart = [envelope.seal(PAYLOAD, [key]) for key in KEYS]
    for order in itertools.permutations(apart):
        assert envelope.merge(order) == SEALED
    assert envelope.merge([SEALED, *apart, SEALED]) == SEALED


def test_envelopes_over_two_payloads_do_not_join() -> None:
    """A signature never moves to another payload."""
    with pytest.raises(VerificationError) as refusal:
        envelope.merge([SEALED, envelope.seal(b"{}", KEYS[:1])])
    assert refusal.value.code == "payload-differs"


def test_two_signatures_of_one_key_do_not_join() -> None:
    """Neither may silently win."""
    frame = json.loads(envelope.seal(PAYLOAD, KEYS[:1]))
    frame["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    with pytest.raises(VerificationError) as refusal:
        envelope.merge([SEALED, canonical.encode(frame)])
    assert refusal.value.code == "signature-differs"


def test_envelopes_that_are_too_large_together_do_not_join() -> None:
    """Each is within the limit, and with the other's signature beyond it."""
    text = b"x" * (3 * (envelope.MAX_GATHERED_BYTES - 400) // 4)
    one, two = (envelope.seal(text, [key]) for key in KEYS[:2])
    assert max(len(one), len(two)) <= envelope.MAX_GATHERED_BYTES
    assert len(envelope.seal(text, KEYS[:2])) > envelope.MAX_GATHERED_BYTES
    assert envelope.merge([one, one]) == one
    with pytest.raises(FormatError, match="at most 1048576 bytes together"):
        envelope.merge([one, two])


@pytest.mark.parametrize("text", ["AB==", "AAB=", "AA", "AA=", "AA==\n", "A_==", "A", "é==="])
def test_base64_has_one_spelling(text: str) -> None:
    """Stray bits behind the last byte, missing padding, another alphabet, white space."""
    assert envelope.decode_base64("AA==") == b"\0"
    assert envelope.decode_base64("AAA=") == b"\0\0"
    with pytest.raises(FormatError, match="base64"):
        envelope.decode_base64(text)


def test_callers_mistakes_are_named() -> None:
    """No signer, a signer twice, nothing to merge."""
    for mistake in (
        lambda: envelope.seal(PAYLOAD, []),
        lambda: envelope.seal(PAYLOAD, [KEYS[0], KEYS[0]]),
        lambda: envelope.merge([]),
    ):
        with pytest.raises(UsageError):
            mistake()
