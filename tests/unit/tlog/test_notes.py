"""Notes and checkpoints: lenient live, without a free byte in a bundle.

Planted and caught: unknown keys skipped in strict mode, non-canonical base64 and any order of lines
accepted in strict mode, a failing known key ignored, the last instead of the newest time, the
cosignature's time not signed, the origin not compared with the key's name, extension lines
accepted, the log's own line not asked for.
"""

import random
from collections.abc import Callable

import pytest

from treaty.crypto.keys import SigningKey
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.tlog.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    add_cosignatures,
    cosign,
    open_checkpoint,
    parse_decimal,
    parse_unverified,
    sign,
    strip_cosignatures,
)
from treaty.tlog.merkle import EMPTY_ROOT
from treaty.tlog.notes import (
    MAX_NOTE_BYTES,
    Algorithm,
    Cosigner,
    SignatureLine,
    Signer,
    Verifier,
    encode_note,
    open_note,
    parse_note,
    parse_signature_line,
)


def _key(number: int) -> SigningKey:
    return SigningKey.generate(random.Random(number).randbytes(32))


ORIGIN = "log.example/consortium"
LOG = Signer(ORIGIN, _key(0))
WITNESSES = [Cosigner(f"m{number}.example/witness", _key(number)) for number in (1, 2, 3)]
VERIFIERS = [witness.verifier for witness in WITNESSES]
CHECKPOINT = Checkpoint(ORIGIN, 7, bytes(range(32)))
BODY = CHECKPOINT.body()
SIGNED = sign(CHECKPOINT, LOG)
LINES = [cosign(CHECKPOINT, witness, 1000 + at) for at, witness in enumerate(WITNESSES)]
FULL = add_cosignatures(SIGNED, LINES)
STRANGER = Cosigner("m9.example/witness", _key(9))


def _open(data: bytes, *, strict: bool) -> SignedCheckpoint:
    return open_checkpoint(data, LOG.verifier, VERIFIERS, strict=strict)


@pytest.mark.parametrize("strict", [False, True])
def test_a_cosigned_checkpoint_opens(strict: bool) -> None:
    """Positive control: size, root, witnesses and times come back."""
    signed = _open(FULL, strict=strict)
    assert signed.checkpoint == CHECKPOINT
    assert [one.witness for one in signed.cosignatures] == VERIFIERS
    assert [one.time_s for one in signed.cosignatures] == [1000, 1001, 1002]
    assert signed.data == FULL


def test_cosignatures_added_in_any_order_give_one_file() -> None:
    """Log first, then by name; adding twice changes nothing."""
    assert add_cosignatures(SIGNED, LINES[::-1]) == FULL
    assert add_cosignatures(FULL, LINES) == FULL
    assert add_cosignatures(add_cosignatures(SIGNED, LINES[2:]), LINES[:2]) == FULL
    assert strip_cosignatures(FULL, LOG.verifier) == SIGNED


def test_a_later_cosignature_replaces_the_earlier() -> None:
    """A key stands under a checkpoint once."""
    later = cosign(CHECKPOINT, WITNESSES[0], 5000)
    signed = _open(add_cosignatures(FULL, [later]), strict=True)
    assert [one.time_s for one in signed.cosignatures] == [5000, 1001, 1002]


def _bit_flips(data: bytes) -> list[bytes]:
    flips = []
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        flips.append(bytes(changed))
    return flips


def test_every_bit_of_a_bundled_checkpoint_counts() -> None:
    """Strict: no flip of one bit is accepted."""
    for changed in _bit_flips(FULL):
        with pytest.raises((FormatError, VerificationError)):
            _open(changed, strict=True)


def test_no_flipped_bit_changes_what_a_live_checkpoint_says() -> None:
    """Lenient: a flip either refuses the note or costs at most the cosignature it hit."""
    for changed in _bit_flips(FULL):
        try:
            signed = _open(changed, strict=False)
        except (FormatError, VerificationError):
            continue
        assert signed.checkpoint == CHECKPOINT
        assert len(signed.cosignatures) >= 2


def _swap(one: bytes, two: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data.replace(one, two)


def _text(line: SignatureLine) -> bytes:
    return str(line).encode()


def _respelt(line: SignatureLine) -> bytes:
    """Stray bits behind the last byte: 76 bytes end in two characters of padding."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    row = _text(line)
    at = row.index(b"=") - 1
    return row[:at] + bytes([alphabet[alphabet.index(row[at]) + 1]]) + row[at + 1 :]


UNKNOWN = _text(cosign(CHECKPOINT, STRANGER, 1))
FREE: dict[str, tuple[Callable[[bytes], bytes], type[Exception]]] = {
    "an unknown key behind": (lambda data: data + UNKNOWN, VerificationError),
    "a known name with another key": (
        _swap(_text(LINES[0]), _text(cosign(CHECKPOINT, Cosigner(WITNESSES[0].name, _key(8)), 1))),
        VerificationError,
    ),
    "a known key under another name": (
        lambda data: data.replace(b"m3.example/witness", b"m4.example/witness"),
        VerificationError,
    ),
    "lines in another order": (
        _swap(_text(LINES[0]) + _text(LINES[1]), _text(LINES[1]) + _text(LINES[0])),
        FormatError,
    ),
    "a line twice": (_swap(_text(LINES[2]), _text(LINES[2]) * 2), FormatError),
    "a key twice, at two times": (
        lambda data: encode_note(
            BODY, [*parse_note(data).lines, cosign(CHECKPOINT, WITNESSES[0], 5)]
        ),
        VerificationError,
    ),
    "stray bits in base64": (_swap(_text(LINES[0]), _respelt(LINES[0])), FormatError),
}


@pytest.mark.parametrize(("change", "refusal"), FREE.values(), ids=FREE.keys())
def test_what_is_ignored_live_is_refused_in_a_bundle(
    change: Callable[[bytes], bytes], refusal: type[Exception]
) -> None:
    """C2SP asks live readers to ignore it; a bundle leaves nothing free to change."""
    data = change(FULL)
    assert data != FULL
    assert _open(data, strict=False).checkpoint == CHECKPOINT
    with pytest.raises(refusal):
        _open(data, strict=True)


def test_stray_bits_were_planted_where_they_matter() -> None:
    """The respelt line holds the same bytes, so only its spelling can be the reason."""
    assert parse_note(BODY + b"\n" + _respelt(LINES[0])).lines == (LINES[0],)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("at", range(3))
def test_a_known_key_that_fails_rejects_the_whole_note(at: int, strict: bool) -> None:
    """Three good signatures do not outweigh a bad one of a known key."""
    moved = SignatureLine(LINES[at].name, LINES[at].key_id, LINES[at - 1].signature)
    with pytest.raises(VerificationError) as refusal:
        _open(add_cosignatures(FULL, [moved]), strict=strict)
    assert refusal.value.code == "bad-signature"


@pytest.mark.parametrize("length", [0, 8, 64, 71, 73])
def test_a_cosignature_of_another_length_fails(length: int) -> None:
    """As a bad signature, since the key is known."""
    line = SignatureLine(LINES[0].name, LINES[0].key_id, bytes(length))
    if not length:
        with pytest.raises(FormatError):
            _open(encode_note(BODY, [line]), strict=False)
        return
    with pytest.raises(VerificationError) as refusal:
        _open(add_cosignatures(FULL, [line]), strict=False)
    assert refusal.value.code == "bad-signature"


def test_a_cosignature_of_another_length_is_told_from_one_that_does_not_fit() -> None:
    with pytest.raises(VerificationError, match="expected a cosignature of 72 bytes, got 71"):
        VERIFIERS[0].verify(BODY, bytes(71))


def test_a_time_that_no_clock_shows_is_refused_although_it_is_signed() -> None:
    """C2SP leaves it out, so that a time fits a signed integer of 64 bits."""
    for time_s, holds in (((1 << 63) - 1, True), (1 << 63, False)):
        key = WITNESSES[0].key.sign(b"cosignature/v1\ntime %d\n" % time_s + BODY)
        signature = time_s.to_bytes(8, "big") + key
        if holds:
            assert VERIFIERS[0].verify(BODY, signature) == time_s
            continue
        with pytest.raises(VerificationError) as refusal:
            VERIFIERS[0].verify(BODY, signature)
        assert refusal.value.code == "bad-signature"


def test_the_time_of_a_cosignature_is_signed() -> None:
    """Another time over the same signature fails, as does one at 2^63."""
    for time_s in (999, 1 << 63):
        signature = time_s.to_bytes(8, "big") + LINES[0].signature[8:]
        line = SignatureLine(LINES[0].name, LINES[0].key_id, signature)
        with pytest.raises(VerificationError):
            _open(add_cosignatures(FULL, [line]), strict=False)


@pytest.mark.parametrize("newest_first", [False, True])
def test_the_newest_of_two_cosignatures_counts_once_live(newest_first: bool) -> None:
    """A witness is one witness, wherever its lines stand."""
    pair = [_text(cosign(CHECKPOINT, WITNESSES[0], time_s)) for time_s in (5, 9)]
    data = SIGNED + b"".join(pair[::-1] if newest_first else pair)
    assert [one.time_s for one in _open(data, strict=False).cosignatures] == [9]


@pytest.mark.parametrize("strict", [False, True])
def test_a_single_line_can_be_read_strictly(strict: bool) -> None:
    """A cosignature that arrives alone: stray bits are refused where they matter."""
    assert parse_signature_line(_text(LINES[0])[:-1], strict=strict) == LINES[0]
    respelt = _respelt(LINES[0])[:-1]
    if strict:
        with pytest.raises(FormatError, match="canonical"):
            parse_signature_line(respelt, strict=True)
    else:
        assert parse_signature_line(respelt) == LINES[0]


def test_a_log_signature_is_no_cosignature_and_the_reverse() -> None:
    """The algorithm is part of the key id, so a key under the other type is unknown."""
    plain = Signer(WITNESSES[0].name, WITNESSES[0].key).sign(BODY)
    signed = _open(encode_note(BODY, [*parse_note(SIGNED).lines, plain]), strict=False)
    assert signed.cosignatures == ()
    with pytest.raises(VerificationError) as refusal:
        _open(encode_note(BODY, [Cosigner(ORIGIN, LOG.key).cosign(BODY, 1)]), strict=False)
    assert refusal.value.code == "unsigned"


@pytest.mark.parametrize("strict", [False, True])
def test_cosignatures_alone_do_not_make_a_checkpoint(strict: bool) -> None:
    """The log's own signature is asked for."""
    with pytest.raises(VerificationError) as refusal:
        _open(encode_note(BODY, LINES), strict=strict)
    assert refusal.value.code == "unsigned"


def test_another_logs_origin_is_refused() -> None:
    """A key of one log cannot speak for another."""
    body = Checkpoint("other.example/log", 7, bytes(32)).body()
    with pytest.raises(VerificationError) as refusal:
        _open(encode_note(body, [LOG.sign(body)]), strict=True)
    assert refusal.value.code == "wrong-origin"
    with pytest.raises(UsageError):
        sign(Checkpoint("other.example/log", 7, bytes(32)), LOG)


ROOT = BODY.split(b"\n")[2]
BODIES = {
    "an extension line": BODY + b"extension\n",
    "two lines": b"\n".join(BODY.split(b"\n")[:2]) + b"\n",
    "no newline at the end": BODY[:-1],
    "an empty origin": b"\n7\n" + ROOT + b"\n",
    "a leading zero": BODY.replace(b"\n7\n", b"\n07\n"),
    "a plus sign": BODY.replace(b"\n7\n", b"\n+7\n"),
    "a negative size": BODY.replace(b"\n7\n", b"\n-7\n"),
    "an empty size": BODY.replace(b"\n7\n", b"\n\n"),
    "a size of 2^63": BODY.replace(b"\n7\n", b"\n9223372036854775808\n"),
    "other digits": BODY.replace(b"\n7\n", "\n٧\n".encode()),
    "a short root": BODY.replace(ROOT, b"AAAA"),
    "stray bits in the root": BODY.replace(b"Hh8=", b"Hh9="),
    "a root of nothing at size 0 that is another": BODY.replace(b"\n7\n", b"\n0\n"),
    "no utf-8": BODY.replace(b"log", b"l\xff"),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_bodies_of_another_form_are_refused(body: bytes) -> None:
    """A checkpoint has one spelling."""
    with pytest.raises(FormatError):
        Checkpoint.parse(body)


def test_bodies_round_trip() -> None:
    """Including the empty tree and the largest size."""
    for checkpoint in (
        CHECKPOINT,
        Checkpoint(ORIGIN, 0, EMPTY_ROOT),
        Checkpoint("ein log", 2**63 - 1, bytes(32)),
    ):
        assert Checkpoint.parse(checkpoint.body()) == checkpoint
    assert parse_unverified(FULL) == CHECKPOINT
    for bad in (("", 1, bytes(32)), ("a\nb", 1, bytes(32)), ("a", -1, bytes(32)), ("a", 1, b"")):
        with pytest.raises(UsageError):
            Checkpoint(*bad)


NOTES = {
    "nothing": b"",
    "no signature": BODY + b"\n",
    "no empty line": BODY + _text(LINES[0]),
    "no newline at the end": FULL[:-1],
    "an empty line at the end": FULL + b"\n",
    "a control character": b"a\tb\n\n" + _text(LINES[0]),
    "a hyphen for the dash": FULL.replace("—".encode(), b"-"),
    "two spaces": FULL.replace("— ".encode(), "—  ".encode()),
    "four fields": FULL.replace(b"=\n", b"= x\n"),
    "a plus in the name": FULL.replace(b"m1.", b"m+."),
    "a space of another kind in the name": FULL.replace(b"m1.", "m\u2003.".encode()),
    "no base64": FULL.replace(b"=\n", b"!\n"),
    "a short signature": BODY + "\n— a AAAAAA==\n".encode(),
    "no utf-8 in the text": FULL.replace(b"log.example", b"log\xff", 1),
    "no utf-8 in a name": FULL.replace(b"m1.", b"m\xff."),
    "too many lines": SIGNED + UNKNOWN * 256,
    "too long": b"x" * MAX_NOTE_BYTES + b"\n\n" + _text(LINES[0]),
    "carriage returns": FULL.replace(b"\n", b"\r\n"),
}


@pytest.mark.parametrize("data", NOTES.values(), ids=NOTES.keys())
@pytest.mark.parametrize("strict", [False, True])
def test_notes_of_another_form_are_refused(data: bytes, strict: bool) -> None:
    """Both modes agree on what a note is."""
    with pytest.raises(FormatError):
        _open(data, strict=strict)


@pytest.mark.parametrize("data", [_text(LINES[0]), FULL[:-1] + b"x"], ids=["no text", "no end"])
def test_bytes_without_a_text_or_an_end_are_no_note(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_note(data)


def test_a_size_fits_a_signed_integer_of_64_bits() -> None:
    assert parse_decimal("9223372036854775807", "size") == 2**63 - 1
    with pytest.raises(FormatError, match="below 2"):
        parse_decimal("9223372036854775808", "size")


def test_256_signatures_are_read() -> None:
    """The limit is inclusive."""
    assert len(parse_note(SIGNED + UNKNOWN * 255).lines) == 256


def test_a_note_text_may_hold_empty_lines() -> None:
    """The last empty line separates."""
    text = b"first\n\nsecond\n"
    data = encode_note(text, [LOG.sign(text)])
    assert open_note(data, [LOG.verifier], strict=True).text == text


def test_a_note_without_a_known_signature_is_refused() -> None:
    """Its text must be ignored."""
    with pytest.raises(VerificationError) as refusal:
        open_note(FULL, [STRANGER.verifier])
    assert refusal.value.code == "unsigned"


def test_keys_round_trip_as_text() -> None:
    """Both types; the id is bound to name, type and key."""
    for verifier in (LOG.verifier, *VERIFIERS):
        assert Verifier.from_vkey(verifier.vkey) == verifier
    one = Verifier("name", Algorithm.ED25519, LOG.key.public)
    assert len({one.key_id, Verifier("name", Algorithm.COSIGNATURE, one.public).key_id}) == 2
    assert Verifier("mane", Algorithm.ED25519, one.public).key_id != one.key_id


VKEY = LOG.verifier.vkey
VKEYS = {
    "nothing": "",
    "two fields": VKEY.rsplit("+", 1)[0],
    "no name": VKEY[VKEY.index("+") :],
    "a space in the name": "a b" + VKEY[VKEY.index("+") :],
    "another name": "x" + VKEY,
    "upper-case id": VKEY.replace(LOG.verifier.key_id.hex(), LOG.verifier.key_id.hex().upper()),
    "another id": VKEY.replace(LOG.verifier.key_id.hex(), "00000000"),
    "an unknown type": "a+00000000+" + "Ag" + VKEY[-42:],
    "a short key": VKEY[:-4],
    "base64 without padding": VKEY + "A",
}


@pytest.mark.parametrize("text", VKEYS.values(), ids=VKEYS.keys())
def test_key_texts_of_another_form_are_refused(text: str) -> None:
    """A peer's text is FormatError."""
    with pytest.raises(FormatError):
        Verifier.from_vkey(text)


def test_callers_mistakes_are_named() -> None:
    """Names, texts, times and roles that no note can hold."""
    for mistake in (
        lambda: Verifier("a+b", Algorithm.ED25519, LOG.key.public),
        lambda: LOG.sign(b"no newline"),
        lambda: LOG.sign(b"\x00\n"),
        lambda: encode_note(BODY, []),
        lambda: encode_note(b"no newline", LINES),
        lambda: WITNESSES[0].cosign(b"no newline", 1),
        lambda: WITNESSES[0].cosign(BODY, -1),
        lambda: WITNESSES[0].cosign(BODY, 1 << 63),
        lambda: open_checkpoint(FULL, LOG.verifier, [LOG.verifier]),
    ):
        with pytest.raises(UsageError):
            mistake()


def test_stripping_needs_the_logs_line() -> None:
    """Without it nothing is left."""
    with pytest.raises(FormatError):
        strip_cosignatures(encode_note(BODY, LINES), LOG.verifier)
