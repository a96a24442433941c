"""Named tensors and their file.

Planted faults that these tests caught: header not sorted; padding not checked; payload length not
checked; offsets not checked; NaN accepted; names outside the alphabet accepted; one element type
taken for another by its C type, and another byte order refused.
"""

import json

import numpy as np
import pytest
import safetensors.numpy

from treaty.aggregation.tensors import (
    MAX_RANK,
    MAX_TENSORS,
    NamedTensors,
    TensorSpec,
    check_manifest,
)
from treaty.errors import FormatError, UsageError

SAMPLE = {
    "layer.0": np.arange(6, dtype=np.float64).reshape(2, 3) / 7,
    "bias": np.array([1.5, -2.25], dtype=np.float32),
    "count": np.array([3], dtype=np.int64),
    "empty": np.zeros((0, 4)),
    "scalar": np.array(-0.0),
}


def _file(header: bytes, payload: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + payload


def test_the_safetensors_library_reads_our_file() -> None:
    loaded = safetensors.numpy.load(NamedTensors.from_arrays(SAMPLE).to_bytes())
    assert set(loaded) == set(SAMPLE)
    for name, array in SAMPLE.items():
        assert loaded[name].dtype == array.dtype
        assert loaded[name].tobytes() == array.tobytes()
        assert loaded[name].shape == array.shape


def test_the_bytes_do_not_depend_on_the_order_of_insertion() -> None:
    tensors = NamedTensors.from_arrays(SAMPLE)
    again = NamedTensors.from_arrays(dict(reversed(SAMPLE.items())))
    assert tensors.to_bytes() == again.to_bytes()
    assert tensors.digest() == again.digest()
    assert tensors.names == ("bias", "count", "empty", "layer.0", "scalar")


def test_bytes_and_flat_vector_round_trip() -> None:
    tensors = NamedTensors.from_arrays(SAMPLE)
    assert NamedTensors.from_bytes(tensors.to_bytes()) == tensors
    assert NamedTensors.from_flat(tensors.manifest, tensors.flat()) == tensors
    assert hash(NamedTensors.from_bytes(tensors.to_bytes())) == hash(tensors)


def test_the_bytes_are_these() -> None:
    """Freezes the format."""
    data = NamedTensors.from_arrays({"b": np.array([1.0]), "a": np.array([2], np.int64)}).to_bytes()
    header = (
        b'{"a":{"data_offsets":[0,8],"dtype":"I64","shape":[1]},'
        b'"b":{"data_offsets":[8,16],"dtype":"F64","shape":[1]}}'
    )
    header += b" " * (-len(header) % 8)
    assert data == _file(header, b"\2" + b"\0" * 7 + b"\0" * 6 + b"\xf0\x3f")


def test_arrays_are_read_only_and_independent_of_the_source() -> None:
    source = np.zeros(2)
    tensors = NamedTensors.from_arrays({"a": source})
    source[0] = 9
    assert tensors["a"][0] == 0
    with pytest.raises(ValueError, match="read-only"):
        tensors["a"][0] = 1


def test_zero_and_minus_zero_are_different_tensors() -> None:
    plus = NamedTensors.from_arrays({"a": np.array([0.0])})
    minus = NamedTensors.from_arrays({"a": np.array([-0.0])})
    assert plus != minus
    assert plus.digest() != minus.digest()


def _entry(start: int = 0, end: int = 8, dtype: str = "F64", shape: object = (1,)) -> object:
    return {"data_offsets": [start, end], "dtype": dtype, "shape": shape}


def _json(value: object) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


BAD_FILES = {
    "empty": b"",
    "short": b"\0" * 7,
    "header longer than file": (99).to_bytes(8, "little") + b"{}      ",
    "huge header": (1 << 62).to_bytes(8, "little") + b"{}      ",
    "not json": _file(b"{]      "),
    "list": _file(b"[]      "),
    "no padding": _file(b"{}"),
    "too much padding": _file(b"{}" + b" " * 14),
    "padding in front": _file(b"      {}"),
    "trailing byte": _file(b"{}      ", b"\0"),
    "metadata": _file(_json({"__metadata__": {"a": "b"}})),
    "missing payload": _file(_json({"a": _entry()})),
    "gap": _file(_json({"a": _entry(8, 16)}), b"\0" * 8),
    "overlap": _file(_json({"a": _entry(), "b": _entry()}), b"\0" * 16),
    "wrong size": _file(_json({"a": _entry(0, 16)}), b"\0" * 16),
    "unknown dtype": _file(_json({"a": _entry(0, 2, "BF16")}), b"\0" * 2),
    "negative size": _file(_json({"a": _entry(0, 0, shape=[-1])})),
    "huge shape": _file(_json({"a": _entry(0, 0, shape=[1 << 50] * 9)})),
    "huge shape times zero": _file(_json({"a": _entry(0, 0, shape=[0, 1 << 50])})),
    "float offset": _file(_json({"a": _entry(0.0)}), b"\0" * 8),  # type: ignore[arg-type]  # bad
    "bad name": _file(_json({"../a": _entry()}), b"\0" * 8),
    "unordered": _file(
        b'{"b":{"data_offsets":[0,0],"dtype":"F64","shape":[0]},'
        b'"a":{"data_offsets":[0,0],"dtype":"F64","shape":[0]}}'.ljust(112)
    ),
    "nan": _file(_json({"a": _entry()}), np.array([np.nan]).tobytes()),
    "infinity": _file(_json({"a": _entry(0, 4, "F32")}), np.array([np.inf], np.float32).tobytes()),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_with_another_spelling_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        NamedTensors.from_bytes(BAD_FILES[name])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("empty", "at least 8 bytes, got 0"),
        ("short", "at least 8 bytes, got 7"),
        ("header longer than file", "announces a header of 99 bytes"),
        ("huge header", f"announces a header of {1 << 62} bytes"),
    ],
)
def test_what_a_file_announces_is_not_believed(name: str, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        NamedTensors.from_bytes(BAD_FILES[name])


def test_a_manifest_is_looked_at_before_anything_is_made_of_it() -> None:
    bad = (TensorSpec(name="a", shape=(-1,)),)
    for make in (
        lambda: NamedTensors(bad, [np.zeros(1)]),
        lambda: NamedTensors.zeros(bad),
        lambda: NamedTensors.from_flat(bad, np.zeros(1)),
    ):
        with pytest.raises(FormatError, match="at most 8 dimensions from 0 up in a"):
            make()


def test_a_file_over_the_limit_is_refused_before_it_is_read() -> None:
    data = NamedTensors.from_arrays({"a": np.zeros(100)}).to_bytes()
    assert NamedTensors.from_bytes(data, limit=len(data))["a"].shape == (100,)
    with pytest.raises(FormatError, match="at most"):
        NamedTensors.from_bytes(data, limit=len(data) - 1)


def test_misuse_is_named() -> None:
    manifest = (TensorSpec(name="a", shape=(2,)),)
    with pytest.raises(UsageError, match="shape"):
        NamedTensors(manifest, [np.zeros(3)])
    with pytest.raises(UsageError, match="F64"):
        NamedTensors(manifest, [np.zeros(2, np.float32)])
    with pytest.raises(UsageError, match="1 arrays"):
        NamedTensors(manifest, [])
    with pytest.raises(UsageError, match="float64"):
        NamedTensors.from_arrays({"a": np.zeros(2, np.int32)})
    with pytest.raises(UsageError, match="finite"):
        NamedTensors.from_arrays({"a": np.array([np.nan])}).to_bytes()
    with pytest.raises(UsageError, match="expected one of a"):
        NamedTensors.zeros(manifest)["b"]
    with pytest.raises(UsageError, match="2 elements"):
        NamedTensors.from_flat(manifest, np.zeros(3))
    with pytest.raises(UsageError, match="integers"):
        NamedTensors.from_flat((TensorSpec(name="a", shape=(1,), dtype="I64"),), np.array([0.5]))
    with pytest.raises(UsageError, match="53 bits"):
        NamedTensors.from_arrays({"a": np.array([1 << 60])}).flat()


def test_a_manifest_must_ascend_and_stay_within_limits() -> None:
    a, b = TensorSpec(name="a", shape=()), TensorSpec(name="b", shape=())
    check_manifest((a, b))
    for bad in ((b, a), (a, a), (TensorSpec(name="a", shape=(1 << 14, 1 << 14)),)):
        with pytest.raises(FormatError):
            check_manifest(bad)
    most = tuple(TensorSpec(name=f"t{place:04}", shape=()) for place in range(MAX_TENSORS))
    check_manifest(most)
    with pytest.raises(FormatError, match="at most 4096 tensors, got 4097"):
        check_manifest((*most, TensorSpec(name="u", shape=())))
    check_manifest((TensorSpec(name="a", shape=(1,) * MAX_RANK),))
    for shape in ((1,) * (MAX_RANK + 1), (-1,), (2, -1), (-1, -1)):
        with pytest.raises(FormatError, match="at most 8 dimensions from 0 up in a"):
            check_manifest((TensorSpec(name="a", shape=shape),))
    with pytest.raises(FormatError, match="element type F64, F32 or I64 in a"):
        check_manifest((TensorSpec(name="a", shape=(1,), dtype="F16"),))  # type: ignore[arg-type]  # wrong on purpose


def test_conformance_looks_at_name_shape_and_type() -> None:
    tensors = NamedTensors.from_arrays({"a": np.zeros(2)})
    assert tensors.conforms_to((TensorSpec(name="a", shape=(2,), dtype="F64"),))
    assert not tensors.conforms_to((TensorSpec(name="b", shape=(2,), dtype="F64"),))
    assert not tensors.conforms_to((TensorSpec(name="a", shape=(2, 1), dtype="F64"),))
    assert not tensors.conforms_to((TensorSpec(name="a", shape=(2,), dtype="F32"),))


def test_the_representation_shows_no_elements() -> None:
    assert repr(NamedTensors.from_arrays({"a": np.array([1234.5])})) == "NamedTensors(a[1])"


@pytest.mark.parametrize("letter", [*"?bhilqBHILQefdgFDGSUO", ">f8", ">f4", ">i8", "<M8[s]"])
def test_an_array_of_any_element_type_is_read_by_its_name(letter: str) -> None:
    """Three names are tensors, in either byte order and by whatever type of C; others are not."""
    array = np.zeros(2, np.dtype(letter))
    kept = {"float64": "F64", "float32": "F32", "int64": "I64"}.get(array.dtype.name)
    if kept is None:
        with pytest.raises(UsageError):
            NamedTensors.from_arrays({"a": array})
    else:
        assert NamedTensors.from_arrays({"a": array}).manifest[0].dtype == kept
