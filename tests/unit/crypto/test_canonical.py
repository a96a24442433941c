"""Canonical JSON: one spelling a value, everything else refused.

The oracle of the bytes is the package rfc8785. Planted and caught: the comparison with the
re-encoded bytes left out, floats let through in `decode`, integers beyond 2^53 - 1 let through,
keys beyond U+D7FF let through, the look into nested records left out, expressions shown
as they are.
"""

import json
from typing import Annotated, Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from treaty.crypto.canonical import (
    Count,
    DigestField,
    Int53,
    MemberName,
    Name,
    Record,
    Text,
    decode,
    digest_of,
    encode,
    in_words,
    sha256,
)
from treaty.errors import FormatError, UsageError
from treaty.governance.exposure import Line

LARGEST = 2**53 - 1


class Visit(Record):
    """A closed type: every flaw is ruled out by its fields."""

    count: Count
    note: Text = ""


class Loose(Record):
    """A type whose fields leave room for what canonical JSON refuses."""

    number: int
    share: float | None = None
    keyed: dict[str, int] = {}  # noqa: RUF012 - msgspec copies a mutable default
    inner: tuple["Loose", ...] = ()


GOOD = b'{"count":1,"note":"x"}'

REFUSED = {
    "nothing": b"",
    "duplicate key, same value": b'{"count":1,"count":1,"note":"x"}',
    "duplicate key, other value": b'{"count":2,"count":1,"note":"x"}',
    "keys out of order": b'{"note":"x","count":1}',
    "space between": b'{"count": 1,"note":"x"}',
    "newline behind": GOOD + b"\n",
    "space before": b" " + GOOD,
    "trailing bytes": GOOD + b"x",
    "a second document": GOOD + GOOD,
    "byte order mark": b"\xef\xbb\xbf" + GOOD,
    "float for an integer": b'{"count":1.0,"note":"x"}',
    "exponent for an integer": b'{"count":1e0,"note":"x"}',
    "negative zero": b'{"count":-0,"note":"x"}',
    "leading zero": b'{"count":01,"note":"x"}',
    "plus sign": b'{"count":+1,"note":"x"}',
    "below the range": b'{"count":-1,"note":"x"}',
    "2^53": b'{"count":9007199254740992,"note":"x"}',
    "far beyond 2^53": b'{"count":123456789012345678901234567890,"note":"x"}',
    "text for an integer": b'{"count":"1","note":"x"}',
    "boolean for an integer": b'{"count":true,"note":"x"}',
    "missing field": b'{"note":"x"}',
    "default left out": b'{"count":1}',
    "unknown field": b'{"count":1,"note":"x","zip":1}',
    "escaped letter": b'{"count":1,"note":"\\u0078"}',
    "escaped slash": b'{"count":1,"note":"\\/"}',
    "upper-case escape": b'{"count":1,"note":"\\u000B"}',
    "long escape": b'{"count":1,"note":"\\u000a"}',
    "raw control character": b'{"count":1,"note":"\x01"}',
    "lone surrogate, escaped": b'{"count":1,"note":"\\ud800"}',
    "lone low surrogate, escaped": b'{"count":1,"note":"\\udc00x"}',
    "lone surrogate, in bytes": b'{"count":1,"note":"\xed\xa0\x80"}',
    "escaped pair": b'{"count":1,"note":"\\ud83d\\ude00"}',
    "broken utf-8": b'{"count":1,"note":"\xff"}',
    "overlong utf-8": b'{"count":1,"note":"\xc0\x80"}',
    "cut short": GOOD[:-1],
    "another type": b"[1]",
    "null": b"null",
    "not a number": b'{"count":NaN,"note":"x"}',
    "comment": b'{"count":1,"note":"x"}//',
    "too long a text": b'{"count":1,"note":"' + b"x" * 4097 + b'"}',
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_every_other_spelling_is_refused(data: bytes) -> None:
    """A peer's bytes give the value or a FormatError, nothing else."""
    with pytest.raises(FormatError):
        decode(data, Visit)


def test_the_one_spelling_is_accepted() -> None:
    """Positive control of the table above."""
    assert decode(GOOD, Visit) == Visit(count=1, note="x")
    assert encode(Visit(count=1, note="x")) == GOOD


@pytest.mark.parametrize("number", [LARGEST, -LARGEST])
def test_integers_hold_up_to_2_53_minus_1(number: int) -> None:
    """The largest and the smallest integer survive the round trip."""
    assert decode(encode([number]), list[Int53]) == [number]


LOOSE = {
    "a float": (b'{"inner":[],"keyed":{},"number":1,"share":0.5}', "floating-point"),
    "2^53": (b'{"inner":[],"keyed":{},"number":9007199254740992,"share":null}', "2\\^53"),
    "a large integer in a mapping": (
        b'{"inner":[],"keyed":{"a":9007199254740993},"number":1,"share":null}',
        "2\\^53",
    ),
    "a key beyond U+D7FF": (
        '{"inner":[],"keyed":{"\ue000":1},"number":1,"share":null}'.encode(),
        "U\\+D7FF",
    ),
    "a float in a nested record": (
        b'{"inner":[{"inner":[],"keyed":{},"number":1,"share":0.5}],"keyed":{},"number":1,"share":null}',
        "floating-point",
    ),
}


@pytest.mark.parametrize(("data", "why"), LOOSE.values(), ids=LOOSE.keys())
def test_what_a_type_leaves_open_is_refused_in_the_value(data: bytes, why: str) -> None:
    """A type that forgot its bounds cannot bring a float or a wide integer into signed bytes."""
    with pytest.raises(FormatError, match=why):
        decode(data, Loose)
    plain = json.loads(data)
    with pytest.raises(UsageError, match=why):
        encode(plain)


@pytest.mark.parametrize("value", [0.5, [1.0], {"a": float("nan")}, Loose(number=1, share=0.5)])
def test_encode_refuses_floats(value: object) -> None:
    """No signed byte depends on how a machine prints a float."""
    with pytest.raises(UsageError, match="floating-point"):
        encode(value)


@pytest.mark.parametrize("value", ["\ud800", {"\udfff": 1}, {1: 2}, object(), 2**53, -(2**70)])
def test_encode_refuses_what_has_no_canonical_form(value: object) -> None:
    """A caller's mistake is named as such."""
    with pytest.raises(UsageError):
        encode(value)


@pytest.mark.parametrize("kind", [list, dict, object, Visit, Loose])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", [500, 900, 990, 1000, 100_000])
def test_deep_nesting_is_a_refusal_and_not_a_crash(
    kind: type[object], opening: bytes, depth: int
) -> None:
    """Closed or not, at no depth does anything but a FormatError come out."""
    closing = b"]" if opening == b"[" else b"}"
    for data in (opening * depth, opening * depth + b"1" + closing * depth):
        try:
            value = decode(data, kind)
        except FormatError:
            continue
        assert encode(value) == data


def test_deep_values_have_no_canonical_form() -> None:
    """Our own too deep value is a UsageError."""
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(UsageError):
        encode(value)


def test_size_is_bounded_before_parsing() -> None:
    """The limit counts bytes and is inclusive."""
    assert decode(GOOD, Visit, limit=len(GOOD)).count == 1
    with pytest.raises(FormatError, match=f"at most {len(GOOD) - 1} bytes"):
        decode(GOOD, Visit, limit=len(GOOD) - 1)


def test_a_refusal_names_the_field() -> None:
    """The reader learns where to look."""
    with pytest.raises(FormatError, match=r"\$\.count"):
        decode(b'{"count":"1","note":"x"}', Visit)


FIELDS = {
    "digest": (DigestField, ["0" * 64], ["0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n"]),
    "member": (MemberName, ["a", "mercy.example"], ["", "A", ".a", "a" * 64, "a\n", "ä"]),
    "name": (Name, ["age", "a:b/c+d.e-f_g"], ["", " a", "a" * 129, "a b", "a\n", "ä"]),
}


@pytest.mark.parametrize(("kind", "good", "bad"), FIELDS.values(), ids=FIELDS.keys())
def test_named_fields_hold_their_alphabet(kind: Any, good: list[str], bad: list[str]) -> None:
    """A trailing newline does not slip past the pattern."""
    for text in good:
        assert decode(encode(text), kind) == text
    for text in bad:
        with pytest.raises(FormatError):
            decode(encode(text), kind)


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (DigestField, "expected 64 lower-case hexadecimal digits"),
        (
            MemberName,
            "expected 1 to 63 lower-case letters, digits, dots and hyphens, starting with",
        ),
        (Name, "expected 1 to 128 letters, digits and any of _ . : / + -, starting with a letter"),
        (Line, "expected one line of text without hidden characters"),
    ],
)
def test_what_a_field_may_hold_is_said_in_words(kind: Any, says: str) -> None:
    """An officer reads it; an expression that has no words yet is shown as it is."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({"a": ["\n"]}, dict[str, list[kind]], strict=True)
    assert in_words(caught.value).startswith(says)
    assert "regex" not in in_words(caught.value)
    assert in_words(caught.value).endswith(" - at `$[...][0]`")
    with pytest.raises(msgspec.ValidationError) as strange:
        msgspec.convert("b", Annotated[str, msgspec.Meta(pattern="a")])
    assert in_words(strange.value) == "expected `str` matching regex 'a'"


def test_digests_are_of_the_canonical_bytes() -> None:
    """The digest of a value is the SHA-256 of its encoding (FIPS 180-4: of nothing)."""
    assert digest_of(Visit(count=1, note="x")) == sha256(GOOD)
    assert sha256(b"") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(st.characters(max_codepoint=0xD7FF))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-LARGEST, LARGEST) | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner),
)


@given(VALUES)
def test_bytes_equal_those_of_the_reference_implementation(value: Any) -> None:
    """RFC 8785 by another hand gives the same bytes, and they decode to the value."""
    data = encode(value)
    assert data == rfc8785.dumps(value)
    assert decode(data, object) == value


@given(st.binary(max_size=64))
def test_any_bytes_give_a_value_or_a_format_error(data: bytes) -> None:
    """What decodes is written again as the same bytes."""
    try:
        value = decode(data, object)
    except FormatError:
        return
    assert encode(value) == data
