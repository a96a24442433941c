"""Named tensors: the only carrier of parameters and contributions, and their bytes.

Guarantees (docs/spec/training.md, section 1):
  * A `NamedTensors` value is ordered by name, read-only, and holds only 64-bit floats, 32-bit
    floats and 64-bit integers of declared shape.
  * `to_bytes` is a safetensors file with one spelling: names sorted, header canonical and
    padded with the fewest spaces, tensors in name order without gaps, no metadata. Equal tensors
    give equal bytes on every machine, so the SHA-256 of the file names the model.
  * `from_bytes` accepts exactly what `to_bytes` writes. Sizes are checked before memory is
    taken; everything else, infinities and NaN among it, is a `FormatError`.

In memory a tensor may hold NaN: what a trainer returned is judged by
`treaty.models.task.check_contribution`, not here. Such tensors have no bytes.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from treaty.crypto import canonical
from treaty.crypto.canonical import Count, Name, Record
from treaty.errors import FormatError, UsageError
from treaty.ids import Digest

__all__ = [
    "MAX_ELEMENTS",
    "MAX_FILE_BYTES",
    "MAX_RANK",
    "MAX_TENSORS",
    "ElementType",
    "Manifest",
    "NamedTensors",
    "Tensor",
    "TensorSpec",
    "check_manifest",
    "element_count",
    "manifest_elements",
]

MAX_TENSORS = 4096
MAX_RANK = 8
MAX_ELEMENTS = 1 << 27
MAX_FILE_BYTES = 1 << 30
_MAX_HEADER_BYTES = 1 << 20
_MAX_EXACT = 1 << 53

ElementType: TypeAlias = Literal["F64", "F32", "I64"]
"""The element types of a manifest, spelled as in safetensors."""

Tensor: TypeAlias = npt.NDArray[np.number]

_NUMPY: Mapping[str, np.dtype[np.number]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "I64": np.dtype("<i8"),
}
_NAMES: Mapping[str, ElementType] = {"float64": "F64", "float32": "F32", "int64": "I64"}
_SCALARS: Mapping[type, ElementType] = {np.float64: "F64", np.float32: "F32", np.int64: "I64"}
"""The same by the type of an element: an array's name for it is written anew each time."""

Dimension = Annotated[int, msgspec.Meta(ge=0, le=MAX_ELEMENTS)]


class TensorSpec(Record, frozen=True):
    """Name, shape and element type of one tensor; also a field of plans."""

    name: Name
    shape: tuple[Dimension, ...]
    dtype: ElementType = "F64"


Manifest: TypeAlias = tuple[TensorSpec, ...]
"""Specifications in strictly ascending order of name."""


class _Entry(Record, frozen=True):
    data_offsets: tuple[Count, Count]
    dtype: ElementType
    shape: tuple[Count, ...]


def element_count(spec: TensorSpec) -> int:
    """Return the number of elements of one tensor."""
    return math.prod(spec.shape)


def manifest_elements(manifest: Manifest) -> int:
    """Return the number of elements of all tensors together."""
    return sum(element_count(spec) for spec in manifest)


def check_manifest(manifest: Manifest) -> None:
    """Raise `FormatError` unless names ascend strictly and every limit of this module holds."""
    if len(manifest) > MAX_TENSORS:
        raise FormatError(f"expected at most {MAX_TENSORS} tensors, got {len(manifest)}")
    for before, after in pairwise(manifest):
        if before.name >= after.name:
            raise FormatError(
                f"expected tensor names in ascending order: {before.name} precedes {after.name}"
            )
    total = 0
    for spec in manifest:
        if spec.dtype not in _NUMPY:
            raise FormatError(f"expected element type F64, F32 or I64 in {spec.name}")
        if len(spec.shape) > MAX_RANK or any(size < 0 for size in spec.shape):
            raise FormatError(f"expected at most {MAX_RANK} dimensions from 0 up in {spec.name}")
        total += element_count(spec)
        if total > MAX_ELEMENTS:
            raise FormatError(f"expected at most {MAX_ELEMENTS} elements, got {total} and more")


class NamedTensors:
    """Tensors by name: immutable, ordered, with one sequence of bytes.

    `manifest` and `arrays` run in parallel, ascending by name. Raises `UsageError` when they do
    not fit each other, `FormatError` when the manifest breaks a limit.
    """

    __slots__ = ("_arrays", "_index", "_manifest")

    def __init__(self, manifest: Manifest, arrays: Sequence[Tensor]) -> None:
        check_manifest(manifest)
        if len(manifest) != len(arrays):
            raise UsageError(f"expected {len(manifest)} arrays, got {len(arrays)}")
        kept: list[Tensor] = []
        for spec, array in zip(manifest, arrays, strict=True):
            if array.shape != spec.shape or array.dtype != _NUMPY[spec.dtype]:
                raise UsageError(
                    f"expected {spec.name} with shape {spec.shape} of {spec.dtype}, "
                    f"got {array.shape} of {array.dtype}"
                )
            copy = np.array(array, dtype=_NUMPY[spec.dtype], order="C", copy=True)
            copy.setflags(write=False)
            kept.append(copy)
        self._manifest = tuple(manifest)
        self._arrays = tuple(kept)
        self._index = {spec.name: place for place, spec in enumerate(manifest)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> "NamedTensors":
        """Return the tensors of a mapping; the manifest is read off the arrays.

        Raises `UsageError` for element types other than float64, float32 and int64.
        """
        manifest: list[TensorSpec] = []
        for name in sorted(arrays):
            array = arrays[name]
            element = _SCALARS.get(array.dtype.type) or _NAMES.get(array.dtype.name)
            if element is None:
                raise UsageError(f"expected float64, float32 or int64 in {name}, got {array.dtype}")
            manifest.append(TensorSpec(name=name, shape=tuple(array.shape), dtype=element))
        return cls(
            tuple(manifest),
            [arrays[spec.name].astype(_NUMPY[spec.dtype], copy=False) for spec in manifest],
        )

    @classmethod
    def zeros(cls, manifest: Manifest) -> "NamedTensors":
        """Return the tensors of `manifest` with every element zero."""
        check_manifest(manifest)
        return cls(manifest, [np.zeros(spec.shape, _NUMPY[spec.dtype]) for spec in manifest])

    @classmethod
    def from_flat(cls, manifest: Manifest, vector: npt.NDArray[np.float64]) -> "NamedTensors":
        """Return the tensors whose elements, in manifest order, are those of `vector`.

        32-bit floats are rounded to nearest; integers must be exact. Raises `UsageError` when
        the length differs or an integer element is not an integer of at most 53 bits.
        """
        check_manifest(manifest)
        if vector.shape != (manifest_elements(manifest),):
            raise UsageError(
                f"expected {manifest_elements(manifest)} elements, got shape {vector.shape}"
            )
        arrays: list[Tensor] = []
        start = 0
        for spec in manifest:
            part = vector[start : start + element_count(spec)].reshape(spec.shape)
            start += element_count(spec)
            if spec.dtype == "I64" and not (
                np.all(np.abs(part) <= _MAX_EXACT) and np.all(part == np.rint(part))
            ):
                raise UsageError(f"expected integers of at most 53 bits in {spec.name}")
            arrays.append(part.astype(_NUMPY[spec.dtype]))
        return cls(manifest, arrays)

    @classmethod
    def from_bytes(cls, data: bytes, *, limit: int = MAX_FILE_BYTES) -> "NamedTensors":
        """Return the tensors whose `to_bytes` is `data`; raises `FormatError` otherwise."""
        if len(data) > limit:
            raise FormatError(f"expected a tensor file of at most {limit} bytes, got {len(data)}")
        if len(data) < 8:
            raise FormatError(f"expected a tensor file of at least 8 bytes, got {len(data)}")
        header_size = int.from_bytes(data[:8], "little")
        if header_size > min(_MAX_HEADER_BYTES, len(data) - 8):
            raise FormatError(f"tensor file announces a header of {header_size} bytes")
        header = data[8 : 8 + header_size]
        entries = canonical.decode(header.rstrip(b" "), dict[str, _Entry], limit=_MAX_HEADER_BYTES)
        if header != _padded(header.rstrip(b" ")):
            raise FormatError("tensor file header has other padding than the canonical one")
        manifest = _manifest_of(entries)
        if 8 + header_size + _payload_bytes(manifest) != len(data):
            raise FormatError(
                f"expected a tensor file of {8 + header_size + _payload_bytes(manifest)} bytes, "
                f"got {len(data)}"
            )
        arrays: list[Tensor] = []
        start = 8 + header_size
        for spec in manifest:
            count = element_count(spec)
            part = (
                np.frombuffer(data, _NUMPY[spec.dtype], count, start)
                if count
                else np.zeros(0, _NUMPY[spec.dtype])
            )
            if not np.all(np.isfinite(part)):
                raise FormatError(f"expected finite elements in {spec.name}")
            arrays.append(part.reshape(spec.shape))
            start += count * _NUMPY[spec.dtype].itemsize
        return cls(manifest, arrays)

    @property
    def manifest(self) -> Manifest:
        """Names, shapes and element types, ascending by name."""
        return self._manifest

    @property
    def arrays(self) -> tuple[Tensor, ...]:
        """The read-only arrays, in manifest order."""
        return self._arrays

    @property
    def names(self) -> tuple[str, ...]:
        """The names, ascending."""
        return tuple(self._index)

    def __getitem__(self, name: str) -> Tensor:
        """Return the read-only array of one tensor; raises `UsageError` for an unknown name."""
        if name not in self._index:
            raise UsageError(f"expected one of {', '.join(self._index)}, got {name}")
        return self._arrays[self._index[name]]

    def float64(self, name: str) -> npt.NDArray[np.float64]:
        """Return one tensor as 64-bit floats; raises `UsageError` for an unknown name."""
        return self[name].astype(np.float64)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __len__(self) -> int:
        return len(self._manifest)

    def __eq__(self, other: object) -> bool:
        """Equal means the same bytes: zero and minus zero differ."""
        if not isinstance(other, NamedTensors):
            return NotImplemented
        return self._manifest == other._manifest and all(
            mine.tobytes() == theirs.tobytes()
            for mine, theirs in zip(self._arrays, other._arrays, strict=True)
        )

    def __hash__(self) -> int:
        return hash((self._manifest, tuple(array.tobytes() for array in self._arrays)))

    def __repr__(self) -> str:
        """Return the names and shapes only: elements may be private."""
        parts = ", ".join(f"{spec.name}{list(spec.shape)}" for spec in self._manifest)
        return f"NamedTensors({parts})"

    def flat(self) -> npt.NDArray[np.float64]:
        """Return all elements, in manifest order, as one vector of 64-bit floats.

        Raises `UsageError` for an integer beyond 53 bits, which a float could not hold exactly.
        """
        for spec, array in zip(self._manifest, self._arrays, strict=True):
            if spec.dtype == "I64" and np.any((array > _MAX_EXACT) | (array < -_MAX_EXACT)):
                raise UsageError(f"expected integers of at most 53 bits in {spec.name}")
        if not self._arrays:
            return np.zeros(0, np.float64)
        return np.concatenate([array.astype(np.float64).ravel() for array in self._arrays])

    def conforms_to(self, manifest: Manifest) -> bool:
        """Return whether names, shapes and element types equal those of `manifest`."""
        return self._manifest == tuple(manifest)

    def to_bytes(self) -> bytes:
        """Return the safetensors file of these tensors; `UsageError` for NaN or infinities."""
        entries: dict[str, _Entry] = {}
        start = 0
        for spec, array in zip(self._manifest, self._arrays, strict=True):
            if not np.isfinite(array).all():
                raise UsageError(f"expected finite elements in {spec.name}")
            end = start + array.nbytes
            entries[spec.name] = _Entry(
                data_offsets=(start, end), dtype=spec.dtype, shape=spec.shape
            )
            start = end
        header = _padded(canonical.encode(entries))
        return b"".join(
            (len(header).to_bytes(8, "little"), header, *(item.tobytes() for item in self._arrays))
        )

    def digest(self) -> Digest:
        """Return the SHA-256 of `to_bytes`."""
        return canonical.sha256(self.to_bytes())


def _padded(header: bytes) -> bytes:
    return header + b" " * (-len(header) % 8)


def _payload_bytes(manifest: Manifest) -> int:
    return sum(element_count(spec) * _NUMPY[spec.dtype].itemsize for spec in manifest)


def _manifest_of(entries: Mapping[str, _Entry]) -> Manifest:
    """Return the manifest of a header, having checked that offsets leave no gap or overlap."""
    manifest: list[TensorSpec] = []
    start = 0
    for name, entry in entries.items():
        spec = TensorSpec(name=_checked_name(name), shape=entry.shape, dtype=entry.dtype)
        # Before the product: a shape of huge sizes must not become a huge integer.
        if len(entry.shape) > MAX_RANK or any(size > MAX_ELEMENTS for size in entry.shape):
            raise FormatError(f"expected at most {MAX_RANK} dimensions within limits in {name}")
        end = start + element_count(spec) * _NUMPY[spec.dtype].itemsize
        if entry.data_offsets != (start, end):
            raise FormatError(
                f"expected {name} at bytes {start} to {end}, "
                f"got {entry.data_offsets[0]} to {entry.data_offsets[1]}"
            )
        manifest.append(spec)
        start = end
    check_manifest(tuple(manifest))
    return tuple(manifest)


def _checked_name(name: str) -> str:
    try:
        return msgspec.convert(name, Name)
    except msgspec.ValidationError as error:
        raise FormatError("expected a tensor name of the plan's alphabet") from error
