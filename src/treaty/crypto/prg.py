"""The mask generator: AES-256 in counter mode as a seekable stream.

Guarantees: byte i of the stream of a key is a function of the key and i alone (SP 800-38A, 6.5;
zero plaintext, counter block 128-bit big-endian from 0), so any chunk can be made again without
the chunks before it. The stream is indistinguishable from uniform while the key is secret,
uniform and used for one mask.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes

from treaty.errors import UsageError

__all__ = ["BLOCK_BYTES", "KEY_BYTES", "Keystream"]

KEY_BYTES: Final = 32
BLOCK_BYTES: Final = 16

_STEP: Final = 1 << 18
_ZEROS: Final = memoryview(bytes(_STEP))
_FROM_ZERO: Final = modes.CTR(bytes(BLOCK_BYTES))
"""Where nearly every stream begins. A mode holds its counter block and no state."""


class Keystream:
    """The stream of one key, from a block on. Its `repr` shows nothing but the type."""

    __slots__ = ("_algorithm", "_context")

    _context: CipherContext

    def __init__(self, key: bytes, block: int = 0) -> None:
        if len(key) != KEY_BYTES:
            raise UsageError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
        self._algorithm = algorithms.AES(key)
        self.seek(block)

    def seek(self, block: int) -> None:
        """Continue at the 16-byte block number `block` (0 .. 2^64 - 1) of the stream."""
        if not 0 <= block < 1 << 64:
            raise UsageError("a block number must be between 0 and 2^64 - 1")
        counter = modes.CTR(block.to_bytes(BLOCK_BYTES, "big")) if block else _FROM_ZERO
        self._context = Cipher(self._algorithm, counter).encryptor()

    def fill(self, buffer: bytearray | memoryview) -> None:
        """Overwrite `buffer` with the next bytes of the stream.

        `buffer` is writable and contiguous: a `bytearray`, or ``memoryview(array)`` of any item
        type. Works in pieces of 256 KiB, so it needs no second buffer of its size.
        """
        view = memoryview(buffer)
        if view.readonly or not view.c_contiguous:
            raise UsageError("the buffer of a keystream must be writable and contiguous")
        size = view.nbytes
        if size == _STEP:
            # The usual case by far; every step between cipher and sum counts.
            self._context.update_into(_ZEROS, view.cast("B"))
        elif size:
            view = view.cast("B")
            for start in range(0, size, _STEP):
                piece = view[start : start + _STEP]
                self._context.update_into(_ZEROS[: len(piece)], piece)

    def filling(self, buffer: bytearray | memoryview) -> Callable[[], object]:
        """Return a call that does `fill` of `buffer`, each time with the next bytes.

        For one buffer that is filled very often: what `fill` looks at is looked at once. `seek`
        makes earlier calls stale: they go on where they were.
        """
        view = memoryview(buffer)
        if view.readonly or not view.c_contiguous:
            raise UsageError("the buffer of a keystream must be writable and contiguous")
        if 0 < view.nbytes <= _STEP:
            return partial(self._context.update_into, _ZEROS[: view.nbytes], view.cast("B"))
        return partial(self.fill, view)

    def take(self, size_bytes: int) -> bytes:
        """Return the next `size_bytes` bytes of the stream."""
        if 0 <= size_bytes <= _STEP:
            return self._context.update(_ZEROS[:size_bytes])
        buffer = bytearray(size_bytes)
        self.fill(buffer)
        return bytes(buffer)

    def __repr__(self) -> str:
        return "Keystream"
