"""Simulation only: the pooled model beside the federated one, outside the protocol.

No real consortium can compute this, because it needs every site's rows in one place. It
stands in a simulation's log as one `comparison` statement, labelled *simulation only*.

The pooled fit minimises the same penalised objective as the federated one, by its own dense Newton
over all parameters jointly, so the largest difference of predicted probability is a check.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from treaty.aggregation.tensors import NamedTensors
from treaty.crypto.derivation import kdf
from treaty.errors import UsageError
from treaty.evaluation.metrics import ModelFigures, exact_figures
from treaty.ids import MemberId
from treaty.models.specification import LogisticRegression
from treaty.node.contribution import LocalStudy
from treaty.privacy.terms import NoisedTerms
from treaty.protocol.messages import ComparisonPublished, Figures
from treaty.protocol.study import Study
from treaty.simulation.descent import PlainRows, descend

__all__ = ["PooledFit", "compare_with_pooled", "compare_without_noise", "fit_pooled"]

Matrix = NDArray[np.float64]

_MAX_STEPS = 100
_CONVERGED = 1e-13


@dataclass(frozen=True, slots=True)
class PooledFit:
    """Joint maximum of the penalised likelihood: coefficients (p,), one intercept per site."""

    coefficients: Matrix = field(repr=False)
    intercepts: Mapping[MemberId, float] = field(repr=False)

    def predict(self, site: MemberId, features: Matrix) -> Matrix:
        """Return float64 (n,): the probability of each row at `site`."""
        return _logistic(features @ self.coefficients + self.intercepts[site])


def fit_pooled(
    spec: LogisticRegression, rows: Mapping[MemberId, tuple[Matrix, Matrix]]
) -> PooledFit:
    """Return the pooled fit of `spec` to all sites' (features, labels).

    With site intercepts each has the ridge; a common intercept has none. Raises `UsageError` when
    Newton's method does not settle.
    """
    sites = list(rows)
    features = np.concatenate([rows[site][0] for site in sites])
    labels = np.concatenate([rows[site][1] for site in sites])
    columns = features.shape[1]
    ridge = spec.ridge_milli / 1000
    if spec.site_intercepts:
        owner = np.repeat(np.arange(len(sites)), [len(rows[site][1]) for site in sites])
        design = np.hstack([features, np.eye(len(sites))[owner]])
        penalty = np.full(design.shape[1], ridge)
    else:
        design = np.hstack([features, np.ones((len(labels), 1))])
        penalty = np.concatenate([np.full(columns, ridge), [0.0]])
    beta = np.zeros(design.shape[1])
    for _ in range(_MAX_STEPS):
        p = _logistic(design @ beta)
        gradient = design.T @ (labels - p) - penalty * beta
        weights = p * (1 - p)
        hessian = (design * weights[:, None]).T @ design + np.diag(penalty)
        step = np.linalg.solve(hessian, gradient)
        largest = float(np.max(np.abs(step)))
        beta = beta + step * min(1.0, 8.0 / max(largest, 1e-300))
        if largest < _CONVERGED * max(1.0, float(np.max(np.abs(beta)))):
            break
    else:
        raise UsageError("the pooled fit does not settle")
    own = beta[columns:] if spec.site_intercepts else np.repeat(beta[columns:], len(sites))
    return PooledFit(
        beta[:columns], {site: float(value) for site, value in zip(sites, own, strict=True)}
    )


def compare_with_pooled(
    study: Study, sites: Mapping[MemberId, LocalStudy], author: MemberId, charter: str
) -> ComparisonPublished:
    """Return the comparison of a completed logistic study with its pooled twin.

    `sites` are the simulated sites' own sides. Raises `UsageError` for other model kinds.
    """
    if isinstance(study.plan.privacy, NoisedTerms):
        raise UsageError("a study under noise is compared by `compare_without_noise`")
    spec = study.plan.model
    if not isinstance(spec, LogisticRegression) or study.final_model is None:
        raise UsageError("the pooled comparison is made for completed logistic regressions")
    progress = study.progress
    training = {name: local.rows(progress)[0] for name, local in sites.items()}
    fit = fit_pooled(spec, training)
    scores: list[Matrix] = []
    labels: list[Matrix] = []
    gap = 0.0
    own: dict[str, list[Matrix]] = {name: [] for name in sites}
    for name, local in sites.items():
        held, truth = local.rows(progress)[1]
        pooled = fit.predict(name, held)
        federated = local.federated_scores(progress)
        if len(truth):
            gap = max(gap, float(np.max(np.abs(pooled - federated))))
        scores.append(pooled)
        labels.append(truth)
        for other, elsewhere in sites.items():
            own[other].append(elsewhere.alone_scores(progress, local.data.holdout))
    everything = np.concatenate(labels)
    threshold = study.plan.evaluation.threshold_permille
    return ComparisonPublished(
        charter=charter,
        author=author,
        plan=study.identity,
        model=study.final_model,
        label="simulation only",
        pooled=_figures(
            exact_figures(np.concatenate(scores), everything, threshold_permille=threshold)
        ),
        max_probability_gap_e12=int(np.ceil(gap * 1e12)),
        alone_everywhere={
            name: _figures(
                exact_figures(np.concatenate(parts), everything, threshold_permille=threshold)
            )
            for name, parts in own.items()
        },
    )


def compare_without_noise(
    study: Study, sites: Mapping[MemberId, LocalStudy], author: MemberId, charter: str, noise: bytes
) -> ComparisonPublished:
    """Return the comparison of a completed study under noise with the same training without.

    Beside it stands each site alone, without noise and under the study's own epsilon; `noise`
    (32 fresh bytes) is what that is drawn from. Raises `UsageError` for a study that is not done.
    """
    if study.final_model is None:
        raise UsageError("the comparison is made for completed studies")
    plan, progress = study.plan, study.progress
    rows = {name: local.rows(progress) for name, local in sites.items()}
    plain = {
        name: PlainRows(*rows[name][0], persons=local.data.training.persons)
        for name, local in sites.items()
    }
    trainer = next(iter(sites.values())).trainer
    labels = np.concatenate([held[1] for _, held in rows.values()])

    def scores(model: NamedTensors) -> Matrix:
        found = [trainer.predict(plan.model, model, held[0]) for _, held in rows.values()]
        return np.concatenate(found)

    def figures(model: NamedTensors) -> Figures:
        threshold = plan.evaluation.threshold_permille
        return _figures(exact_figures(scores(model), labels, threshold_permille=threshold))

    pooled = descend(plan, trainer, tuple(plain.values()), noise=None)
    gap = np.max(np.abs(scores(pooled) - scores(progress.model)), initial=0.0)
    return ComparisonPublished(
        charter=charter,
        author=author,
        plan=study.identity,
        model=study.final_model,
        label="simulation only",
        pooled=figures(pooled),
        max_probability_gap_e12=int(np.ceil(float(gap) * 1e12)),
        alone_everywhere={
            name: figures(descend(plan, trainer, (own,), noise=None)) for name, own in plain.items()
        },
        alone_private_everywhere={
            name: figures(descend(plan, trainer, (own,), noise=kdf(noise, "alone", str(name))))
            for name, own in plain.items()
        },
    )


def _figures(figures: ModelFigures) -> Figures:
    return Figures(accuracy=figures.accuracy, auc=figures.auc, brier=figures.brier)


def _logistic(values: Matrix) -> Matrix:
    result: Matrix = 0.5 * (1.0 + np.tanh(0.5 * values))
    return result
