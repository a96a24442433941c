"""Sketches of a plan: which sums are held against claims, and how long an update may be.

EXPERIMENTAL, UNREVIEWED: off unless a plan says `sketched`; no claim of Treaty rests on it.

The bound follows from the plan alone, on the grid of the sum: the clip of the whole update, half
a step of rounding for each coordinate, and the words beside it at their largest.
"""

import math
from typing import Final

from treaty.models.specification import DELTA_PREFIX, MultilayerPerceptron, TorchModule
from treaty.privacy.terms import ExactSums
from treaty.studies.plan import Plan
from treaty.studies.queries import Query, QueryKind

__all__ = ["claim_bound", "sketch_finding"]

HEADROOM: Final = 8
"""A claim is a sum of random signs: its words stay below so many norms, or would wrap."""


def claim_bound(plan: Plan, query: Query) -> int | None:
    """Return the squared norm, in grid units, that a site's vector may have; None for no check."""
    model = plan.model
    if not plan.aggregation.sketched or query.kind is not QueryKind.AVERAGING:
        return None
    if not isinstance(model, MultilayerPerceptron | TorchModule):
        return None
    scale = 1 << plan.aggregation.update_scale_bits
    words = beside = 0
    for part in query.layout.segments:
        if part.name.startswith(DELTA_PREFIX):
            words += part.length
        else:
            beside += part.length * (part.bound << part.scale_bits) ** 2
    clip = -(-model.clip_micro * scale // 10**6)
    return (clip + math.isqrt(words) // 2 + 1) ** 2 + beside


def sketch_finding(plan: Plan, query: Query | None) -> str | None:
    """Return why claims make no sense for `plan` and its `query` of updates, None if they do."""
    if not isinstance(plan.privacy, ExactSums):
        return "claims are exact functions of one site's update: leave them out under noise"
    bound = None if query is None else claim_bound(plan, query)
    if query is None or bound is None:
        return "only clipped updates have a norm to check: leave sketched out for this model"
    if HEADROOM * math.isqrt(bound) >= 1 << (query.layout.ring_bits - 1):
        return "claims could wrap in this ring: lower update_scale_bits"
    return None
