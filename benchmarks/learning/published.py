"""What others published for the heart data, quoted as information and never gated on.

FLamby (Ogier du Terrail and others, 2022), Fed-Heart-Disease: accuracy on its one split, means
over five seeds of the published result files with 100 local updates. NVIDIA FLARE's example of
federated logistic regression by Newton's method: accuracy at each site as its guide prints it,
on FLamby's split. Both normalise every site with its own means and deviations.
"""

from dataclasses import dataclass

__all__ = ["FLAMBY", "Published", "flamby_rows"]

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Published:
    """Accuracy at Cleveland, Hungary, Switzerland and VA, their mean, and over all rows."""

    name: str
    sites: tuple[float, float, float, float]
    mean: float
    pooled: float


FLAMBY = (
    Published("FLamby, pooled training", (0.783, 0.764, 0.750, 0.644), 0.735, 0.795),
    Published("FLamby, FedAdagrad and FedYogi", (0.760, 0.753, 0.738, 0.676), 0.732, 0.779),
    Published("FLamby, Cyclic", (0.758, 0.762, 0.712, 0.640), 0.718, 0.785),
    Published("FLamby, FedAvg and FedProx", (0.731, 0.719, 0.650, 0.640), 0.685, 0.748),
    Published("FLamby, SCAFFOLD", (0.727, 0.719, 0.650, 0.640), 0.684, 0.748),
    Published("FLamby, Cleveland alone", (0.746, 0.760, 0.725, 0.658), 0.722, 0.784),
    Published("NVIDIA FLARE, Newton", (0.750, 0.753, 0.750, 0.600), 0.713, 0.724),
)


def flamby_rows(label: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (training, holdout) rows of one hospital in FLamby's split.

    Stratified where every class has more than two rows. Needs scikit-learn; raises `ImportError`.
    """
    from sklearn.model_selection import train_test_split

    counts = np.bincount(label.astype(np.int64))
    counts = counts[counts > 0]
    stratify = label if len(counts) > 1 and bool((counts > 2).all()) else None
    training, holdout = train_test_split(
        np.arange(len(label)), test_size=0.34, train_size=0.66, random_state=43, stratify=stratify
    )
    return np.asarray(training, np.int64), np.asarray(holdout, np.int64)
