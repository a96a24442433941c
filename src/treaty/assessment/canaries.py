"""Canaries: made-up persons who test whether a mechanism keeps its promise.

Each canary is a person of two rows that point along a coordinate of its own and are far longer
than the clip, so that only real clipping, of the person and not of the row, keeps it within its
bound. Whether it takes part is a fair coin. Over the rounds its sign changes as a public
pattern says: an honest mechanism costs no more by that, and one that draws the same noise twice
gives itself away. No patient is involved.

Guarantees (docs/spec/privacy.md, section 10.4):
  * The attacker sees what the coordinator and one colluding member see: the sum of the honest
    members' releases in every round, and the colluder's noise.
  * `audit_mechanism` reports the guessing game, the attack's rates, and `checks` of the noise;
    each check raises a false alarm with probability below one in five hundred.

The mechanism is an argument: the product's own function, or a broken one in a test.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import combinations
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from treaty.assessment.auditing import Guesses, guess
from treaty.assessment.intervals import Area, OperatingPoint, area, operating_point
from treaty.crypto.derivation import kdf
from treaty.errors import UsageError
from treaty.privacy.mechanisms import Clip

__all__ = [
    "AuditPlan",
    "MechanismAudit",
    "NoiseCheck",
    "SiteRelease",
    "SiteRound",
    "audit_mechanism",
]

Integers = NDArray[np.int64]
BLOCK = 500
"""Canaries of one execution of the mechanism; further ones get executions of their own."""

_LENGTH = 8.0
"""Length of each row of a canary, in clipping norms."""

_FALSE_ALARM = 0.001
"""Chance that one check of honest noise is raised, on each side."""


@dataclass(frozen=True, slots=True)
class AuditPlan:
    """What the mechanism claims, and how it is tested.

    `share_variance` is each site's, in grid units squared; `honest` members release and are
    not known to the attacker; one colluder more releases, and is known. `claimed_shares` of the
    variance are what the certificate counts on (min_honest). Canaries are shared out evenly
    among the honest members; `block` of them are in one execution of the mechanism.
    """

    clip: Clip
    share_variance: int
    claimed_shares: int
    honest: int
    rounds: int
    ring_bits: int = 64
    canaries: int = 4000
    block: int = BLOCK

    def __post_init__(self) -> None:
        if not 1 <= self.claimed_shares <= self.honest:
            raise UsageError(
                f"expected 1 <= claimed shares <= honest members, got {self.claimed_shares} "
                f"of {self.honest}"
            )
        if self.rounds < 1 or self.canaries < 20 or self.block < 1:
            raise UsageError("expected a round or more and 20 canaries or more")

    @property
    def mu(self) -> float:
        """Return the shift of the Gaussian trade-off curve that the plan claims."""
        variance = self.claimed_shares * self.share_variance
        return math.sqrt(self.rounds * self.clip.units**2 / variance)


@dataclass(frozen=True, slots=True)
class SiteRound:
    """What one member's mechanism is given in one round.

    `vectors` (rows, width), `persons` (rows,) sorted; `key` (32 bytes) is the member's noise
    key of this round.
    """

    site: int
    number: int
    vectors: NDArray[np.float64] = field(repr=False)
    persons: Integers = field(repr=False)
    clip: Clip
    share_variance: int
    ring_bits: int
    key: bytes = field(repr=False)


SiteRelease = Callable[[SiteRound], Integers]
"""A member's release, (width,) grid units: clipped, summed over its persons, noised."""


@dataclass(frozen=True, slots=True)
class NoiseCheck:
    """One property of the noise: what was found, and how far chance alone may bring it.

    `limit` is the least for the variance (a share of what is claimed), else the most.
    """

    name: str
    found: float
    limit: float
    holds: bool


@dataclass(frozen=True, slots=True)
class MechanismAudit:
    """What the canaries showed."""

    guesses: Guesses
    area: Area
    points: tuple[OperatingPoint, ...]
    checks: tuple[NoiseCheck, ...]

    @property
    def noise_holds(self) -> bool:
        """Return whether every check of the noise holds."""
        return all(check.holds for check in self.checks)


def audit_mechanism(release: SiteRelease, plan: AuditPlan, seed: bytes) -> MechanismAudit:
    """Return what canaries show of `release`; the same seed gives the same audit.

    Raises what `release` raises, and `UsageError` where it returns another shape.
    """
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(seed, "big")))
    signs = np.where(np.arange(plan.rounds) % 2 == 0, 1.0, -1.0)
    generator.shuffle(signs)
    bits, scores, noises, excesses = [], [], [], []
    for start in range(0, plan.canaries, plan.block):
        inside = generator.random(min(plan.block, plan.canaries - start)) < 0.5
        seen = _Block(release, plan, seed + start.to_bytes(4, "big"), inside, signs)
        bits.append(inside)
        scores.append(seen.scores())
        noises.append(seen.noise)
        excesses.append((signs @ seen.noise[:-1].sum(axis=0))[inside] / plan.rounds)
    inside, score = np.concatenate(bits), np.concatenate(scores)
    noise = np.concatenate(noises, axis=2)
    members, outsiders = score[inside], score[~inside]
    return MechanismAudit(
        guess(score, inside),
        area(members, outsiders),
        tuple(operating_point(members, outsiders, Fraction(1, k)) for k in (100, 1000)),
        (_within_clip(np.concatenate(excesses), plan), *_checks(noise, plan)),
    )


class _Block:
    """One execution over all rounds: what every member released, and what the attacker makes of it.

    `noise` (members, rounds, width) is what remains of each release without the clipped canaries.
    """

    def __init__(
        self,
        release: SiteRelease,
        plan: AuditPlan,
        seed: bytes,
        inside: NDArray[np.bool_],
        signs: NDArray[np.float64],
    ) -> None:
        width, members = len(inside), plan.honest + 1
        self._signs = signs
        self._sums = np.zeros((members, plan.rounds, width))
        self.noise = np.empty((members, plan.rounds, width))
        for site in range(members):
            # The colluder, last, has no canaries.
            own = np.flatnonzero(inside & (np.arange(width) % plan.honest == site))
            own = own if site < plan.honest else own[:0]
            rows = np.repeat(own, 2)
            for number, sign in enumerate(signs):
                vectors = np.zeros((len(rows), width))
                vectors[np.arange(len(rows)), rows] = sign * _LENGTH * plan.clip.norm
                key = (site.to_bytes(2, "big"), number.to_bytes(4, "big"))
                got = release(
                    SiteRound(
                        site,
                        number,
                        vectors,
                        rows.astype(np.int64),
                        plan.clip,
                        plan.share_variance,
                        plan.ring_bits,
                        kdf(seed.ljust(32, b"\0"), "canary noise", *key),
                    )
                )
                if got.shape != (width,):
                    raise UsageError(f"expected a release of {width} coordinates, got {got.shape}")
                self._sums[site, number] = got
                clipped = np.zeros(width)
                clipped[own] = sign * plan.clip.units
                self.noise[site, number] = got - clipped

    def scores(self) -> NDArray[np.float64]:
        """Return the attacker's score of each canary: its mean along the sign pattern.

        The colluder's own noise is taken off as often as it seems to be contained: once it
        is not in the honest sum at all, unless members draw from one key.
        """
        honest, known = self._sums[:-1].sum(axis=0), self._sums[-1]
        power = float(np.square(known).sum())
        times = round(float((honest * known).sum()) / power) if power > 0.0 else 0
        scores: NDArray[np.float64] = self._signs @ (honest - times * known)
        return scores


def _within_clip(excess: NDArray[np.float64], plan: AuditPlan) -> NoiseCheck:
    """Return whether canaries move the sum by their clipping norm on average, and not by more."""
    found = float(excess.mean()) / plan.clip.units if len(excess) else 0.0
    variance = plan.honest * plan.share_variance / (plan.rounds * max(1, len(excess)))
    deviation = math.sqrt(variance) / plan.clip.units
    limit = NormalDist().inv_cdf(1.0 - _FALSE_ALARM) * deviation
    return NoiseCheck("person-within-clip", 1.0 + found, 1.0 + limit, found <= limit)


def _checks(noise: NDArray[np.float64], plan: AuditPlan) -> tuple[NoiseCheck, ...]:
    """Return the checks of noise (members, rounds, width): variance, and independence."""
    members, rounds, width = noise.shape
    honest = noise[:-1].sum(axis=0)
    claimed = float(plan.claimed_shares * plan.share_variance)
    ratio = float(np.square(honest).mean()) / claimed
    least = _chi_square_share(rounds * width, _FALSE_ALARM)
    checks = [NoiseCheck("variance-of-honest-noise", ratio, least, ratio >= least)]
    pairs = list(combinations(range(rounds), 2))
    across = [_correlation(honest[one], honest[other]) for one, other in pairs]
    checks.append(_independent("fresh-noise-in-every-round", across, width))
    among = [
        _correlation(noise[one], noise[other]) for one, other in combinations(range(members), 2)
    ]
    checks.append(_independent("own-noise-at-every-site", among, rounds * width))
    return tuple(checks)


def _independent(name: str, correlations: list[float], size: int) -> NoiseCheck:
    """Return whether no correlation of `size` pairs is larger than chance lets the largest be."""
    largest = max((abs(one) for one in correlations), default=0.0)
    tail = _FALSE_ALARM / max(1, len(correlations))
    limit = NormalDist().inv_cdf(1.0 - tail / 2.0) / math.sqrt(size)
    return NoiseCheck(name, largest, limit, largest <= limit)


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    size = math.sqrt(float(np.square(one).sum()) * float(np.square(other).sum()))
    # Noise that is not there at all is the variance's business.
    return float((one * other).sum()) / size if size > 0.0 else 0.0


def _chi_square_share(freedom: int, probability: float) -> float:
    """Return a lower quantile of chi square over its degrees of freedom (Wilson, Hilferty)."""
    part = 2.0 / (9.0 * freedom)
    return (1.0 - part + NormalDist().inv_cdf(probability) * math.sqrt(part)) ** 3
