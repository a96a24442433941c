"""Splits: which of a site's rows are held out, decided by a keyed digest and nothing else.

Guarantees (docs/spec/contract.md, section 8):
  * The split depends on seed, site name, labels and row keys only: no random number generator,
    no library version. Whoever holds the rows can repeat it.
  * Within each label, the rows with the smallest digests are held out; their number is the
    share rounded to nearest, halves up. A label with one row stays in training.
"""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from treaty.crypto import canonical
from treaty.errors import UsageError

__all__ = ["split_rows"]


def split_rows(
    label: NDArray[np.float64], *, keys: Sequence[str], site: str, seed: int, holdout_permille: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (training rows, holdout rows) as rising int64 row numbers.

    Args:
        label: shape (n,), zeros and ones.
        keys: n distinct row keys, such as `ConformedData.persons`.
        site: the site's name, so that equal keys at two sites are ordered apart.
        seed: 0 to 2**32 - 1.
        holdout_permille: thousandths of each label's rows to hold out, 1 to 999.

    Raises `UsageError` for arguments out of range.
    """
    if len(keys) != label.shape[0] or len(set(keys)) != len(keys):
        raise UsageError(f"expected {label.shape[0]} distinct row keys, got {len(set(keys))}")
    if not 0 <= seed < 1 << 32:
        raise UsageError(f"expected a seed of 0 to 2**32 - 1, got {seed}")
    if not 1 <= holdout_permille <= 999:
        raise UsageError(f"expected holdout_permille of 1 to 999, got {holdout_permille}")
    name = site.encode()
    prefix = b"treaty.split/v1\0" + struct.pack(">QQ", seed, len(name)) + name
    held: list[int] = []
    for outcome in (0.0, 1.0):
        rows = np.flatnonzero(label == outcome).tolist()
        order = sorted(rows, key=lambda row: canonical.sha256(prefix + keys[row].encode()))
        wanted = (len(rows) * holdout_permille + 500) // 1000
        held += order[: min(wanted, max(len(rows) - 1, 0))]
    mask = np.zeros(label.shape[0], dtype=np.bool_)
    mask[held] = True
    return np.flatnonzero(~mask).astype(np.int64), np.flatnonzero(mask).astype(np.int64)
