"""Splits: which of a site's rows are held out, decided by a keyed digest and nothing else.

Guarantees (docs/spec/contract.md, section 8):
  * The split depends on seed, site name, labels and row keys only: no random number generator,
    no library version. Whoever holds the rows can repeat it.
  * Within each label, the persons with the smallest digests are held out; their number is the
    share rounded to nearest, halves up. A label with one person stays in training.
  * All rows of a person are on one side. A person with an outcome in any row counts under it.
  * `split_persons` decides every person by its own digest, whoever else is there: adding or
    removing one moves nobody else, as certificates of one partition need it.
"""

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from treaty.crypto import canonical
from treaty.errors import UsageError

__all__ = ["split_persons", "split_rows"]


def split_rows(
    label: NDArray[np.float64], *, keys: Sequence[str], site: str, seed: int, holdout_permille: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (training rows, holdout rows) as rising int64 row numbers.

    Args:
        label: shape (n,), zeros and ones.
        keys: n person keys, such as `ConformedData.persons`; equal keys are one person.
        site: the site's name, so that equal keys at two sites are ordered apart.
        seed: 0 to 2**32 - 1.
        holdout_permille: thousandths of each label's rows to hold out, 1 to 999.

    Raises `UsageError` for arguments out of range.
    """
    if len(keys) != label.shape[0]:
        raise UsageError(f"expected {label.shape[0]} person keys, got {len(keys)}")
    prefix = _prefix(site, seed, holdout_permille)
    outcomes: dict[str, float] = {}
    for key, value in zip(keys, label.tolist(), strict=True):
        outcomes[key] = max(value, outcomes.get(key, 0.0))
    held: set[str] = set()
    for outcome in (0.0, 1.0):
        persons = [key for key, value in outcomes.items() if value == outcome]
        order = sorted(persons, key=lambda key: canonical.sha256(prefix + key.encode()))
        wanted = (len(persons) * holdout_permille + 500) // 1000
        held.update(order[: min(wanted, max(len(persons) - 1, 0))])
    mask = np.array([key in held for key in keys], dtype=np.bool_)
    return np.flatnonzero(~mask).astype(np.int64), np.flatnonzero(mask).astype(np.int64)


def split_persons(
    keys: Sequence[str], *, site: str, seed: int, holdout_permille: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (training rows, holdout rows), each person decided by its own digest alone.

    A person is held out when the first 64 bits of its digest, as a fraction, are below the
    share: shares of outcomes are met on average, not exactly. Arguments as in `split_rows`.
    """
    prefix = _prefix(site, seed, holdout_permille)
    limit = (holdout_permille << 64) // 1000
    held = {key: int(canonical.sha256(prefix + key.encode())[:16], 16) < limit for key in set(keys)}
    mask = np.array([held[key] for key in keys], dtype=np.bool_)
    return np.flatnonzero(~mask).astype(np.int64), np.flatnonzero(mask).astype(np.int64)


def _prefix(site: str, seed: int, holdout_permille: int) -> bytes:
    if not 0 <= seed < 1 << 32:
        raise UsageError(f"expected a seed of 0 to 2**32 - 1, got {seed}")
    if not 1 <= holdout_permille <= 999:
        raise UsageError(f"expected holdout_permille of 1 to 999, got {holdout_permille}")
    name = site.encode()
    return b"treaty.split/v1\0" + struct.pack(">QQ", seed, len(name)) + name
