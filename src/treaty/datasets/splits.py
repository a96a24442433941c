"""The frozen splits of the benchmarks: fifty seeds, fixed before anything was run.

Every site keeps 340 thousandths of each label out of training (`treaty.contracts.splitting`). The
seeds are 0 to 49; no figure may be quoted from a chosen few of them.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from treaty.contracts.conformance import ConformedData
from treaty.contracts.splitting import split_rows
from treaty.ids import MemberId

__all__ = ["FROZEN_SEEDS", "HOLDOUT_PERMILLE", "split_indices"]

FROZEN_SEEDS = tuple(range(50))
HOLDOUT_PERMILLE = 340


def split_indices(
    sites: Mapping[MemberId, ConformedData],
    seed: int,
    *,
    holdout_permille: int = HOLDOUT_PERMILLE,
) -> dict[MemberId, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return for each site (training rows, holdout rows), stratified by site and label."""
    return {
        site: split_rows(
            data.label,
            keys=data.persons,
            site=site,
            seed=seed,
            holdout_permille=holdout_permille,
        )
        for site, data in sites.items()
    }
