"""A site's gradient and Hessian of logistic regression: the same work in every peer."""

import numpy as np


def derivatives(
    features: np.ndarray, label: np.ndarray, parameters: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (gradient, Hessian) of the log-likelihood; the intercept's column stands first."""
    design = np.column_stack([np.ones(len(features)), features])
    mean = 1.0 / (1.0 + np.exp(-(design @ parameters)))
    gradient = design.T @ (label - mean)
    hessian = design.T @ (design * (mean * (1.0 - mean))[:, None])
    return gradient, hessian
