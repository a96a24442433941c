"""The privacy certificate: what was spent, against whom, and what it means, as one record.

Guarantees (docs/spec/privacy.md, section 6):
  * Every epsilon states its unit, adjacency, delta and the sites a person may appear at, and
    is rounded up to a millionth.
  * One noise-free release makes epsilon infinite, and it is listed.
  * No epsilon is printed for rows when the data hold a person identifier that is not used.
  * The record alone gives the text: `certificate_text` is a pure function of it.

One certificate covers one person-disjoint partition (training or holdout). Left to others:
whether the sites did what the plan says (ledger, log).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Literal

import msgspec

from treaty.crypto.canonical import Count, Name, Record
from treaty.errors import PolicyError, UsageError
from treaty.privacy.accountant import Adjacency, composed_epsilon, delta_of, total_signal_to_noise
from treaty.privacy.events import (
    Event,
    GaussianEvent,
    NonPrivateEvent,
    Positive,
    SampledGaussianEvent,
    VarianceField,
    accounted_variance,
    gaussian_event,
    grouped,
)
from treaty.privacy.gaussian import AttackBound, attack_bound, epsilon_attack_bound, square_root_up

__all__ = [
    "AttackLine",
    "Certificate",
    "Cohort",
    "CurvePoint",
    "EpsilonLine",
    "NoisedSum",
    "Unit",
    "certificate_text",
    "certify",
    "curve_lines",
    "epsilon_micro",
    "shown_epsilon",
]

FORMAT = "treaty-privacy-certificate-v1"
MEANINGFUL_LIMIT_MICRO = 10_000_000
"""Above an epsilon of ten the certificate claims no meaningful formal protection."""

_CURVE_POINTS = 12

EpsilonMicro = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)] | None
"""Epsilon in millionths, rounded up; null means infinite."""


class Unit(Enum):
    """Whose presence the bound hides."""

    PERSON = "person-in-institution"
    RECORD = "record-in-institution"


@dataclass(frozen=True, slots=True)
class NoisedSum:
    """A planned series of noisy sums: every site's share, in grid units (section 2)."""

    share_variance: int
    sensitivity: int
    sampling: int
    rounds: int

    def event(self, honest_shares: int) -> GaussianEvent | SampledGaussianEvent:
        """Return the event when that many shares are unknown to the attacker."""
        return gaussian_event(
            variance=accounted_variance(self.share_variance, honest_shares),
            sensitivity=self.sensitivity,
            sampling=self.sampling,
            count=self.rounds,
        )


@dataclass(frozen=True, slots=True)
class Cohort:
    """Members, the least that a sum is opened for, and how many may collude (at least one)."""

    members: int
    min_survivors: int
    max_colluders: int

    def __post_init__(self) -> None:
        if not 1 <= self.max_colluders < self.min_survivors <= self.members:
            raise UsageError(
                "expected 1 <= colluders < survivors <= members, got "
                f"{self.max_colluders}, {self.min_survivors}, {self.members}"
            )

    @property
    def min_honest(self) -> int:
        """The shares that no allowed loss or collusion removes."""
        return self.min_survivors - self.max_colluders


class EpsilonLine(Record, frozen=True):
    """Epsilon of a person whose rows lie at `sites` sites."""

    sites: Positive
    add_remove_micro: EpsilonMicro
    replace_one_micro: EpsilonMicro


class CurvePoint(Record, frozen=True):
    """Epsilon (add or remove, one site) when only `honest_shares` of the noise are unknown."""

    honest_shares: Positive
    epsilon_micro: EpsilonMicro


class AttackLine(Record, frozen=True):
    """Bounds on membership attacks, in millionths, and what they follow from."""

    basis: Name
    area_micro: Count
    rate_at_one_percent_micro: Count
    rate_at_one_per_mille_micro: Count


class Certificate(Record, frozen=True):
    """What one partition's persons risk under a plan.

    With `surplus_removed` noise that a sum does not need comes off: the curve is then over members
    that collude, at the fewest survivors, where they learn most; losses cost nothing.
    """

    format: Name
    partition: Name
    unit: Name
    delta_inverse: Positive
    members: Positive
    min_survivors: Positive
    max_colluders: Positive
    share_variances: tuple[VarianceField, ...]
    events: tuple[Event, ...]
    lines: tuple[EpsilonLine, ...]
    curve: tuple[CurvePoint, ...]
    attack: AttackLine
    non_private: tuple[Name, ...]
    surplus_removed: Literal[True] | msgspec.UnsetType = msgspec.UNSET


def certify(
    *,
    partition: str,
    unit: Unit,
    person_identifier_present: bool,
    sums: Sequence[NoisedSum],
    cohort: Cohort,
    delta_inverse: int,
    max_sites_per_person: int = 2,
    non_private: Sequence[str] = (),
    surplus_removed: bool = False,
) -> Certificate:
    """Return the certificate of a partition.

    `delta_inverse` is 1 / delta, a whole number of at least 2; lines are given for 1 ..
    `max_sites_per_person` sites. Attack bounds are for one site.

    Guarantee: each epsilon as `accountant.composed_epsilon` for noise of `cohort.min_honest`
    shares, rounded up. With `surplus_removed` a point of the curve for h shares holds where all but
    h of the members in a sum collude, however many they are: of k the honest retain
    (k - j) / (k - c) of the variance, least at k = `min_survivors`. Raises `PolicyError`
    ``person-id-unused`` when rows are the unit although a person identifier exists, `UsageError`
    for values out of range.
    """
    if unit is Unit.RECORD and person_identifier_present:
        raise PolicyError(
            "the data hold a person identifier but rows are protected one by one: "
            "no epsilon is stated; group rows by person",
            code="person-id-unused",
        )
    if max_sites_per_person < 1:
        raise UsageError("expected at least one site per person")
    delta = delta_of(delta_inverse)
    names = tuple(sorted(set(non_private)))
    exact: list[Event] = [NonPrivateEvent(name=name) for name in names]

    def events(honest_shares: int) -> tuple[Event, ...]:
        return grouped([item.event(honest_shares) for item in sums] + exact)

    settled = events(cohort.min_honest)

    sampled = any(isinstance(event, SampledGaussianEvent) for event in settled)

    def spent(sites: int, adjacency: Adjacency) -> int | None:
        if sampled and sites > 1 and adjacency is Adjacency.REPLACE_ONE:
            # Only a loose group bound is known, and it takes minutes: none is stated.
            return None
        return epsilon_micro(composed_epsilon(settled, delta, sites=sites, adjacency=adjacency))

    lines = tuple(
        EpsilonLine(
            sites=sites,
            add_remove_micro=spent(sites, Adjacency.ADD_REMOVE),
            replace_one_micro=spent(sites, Adjacency.REPLACE_ONE),
        )
        for sites in range(1, max_sites_per_person + 1)
    )
    curve = tuple(
        CurvePoint(
            honest_shares=shares,
            epsilon_micro=epsilon_micro(composed_epsilon(events(shares), delta)),
        )
        for shares in _curve_shares(
            cohort.min_survivors if surplus_removed else cohort.members, cohort.min_honest
        )
    )
    return Certificate(
        format=FORMAT,
        partition=partition,
        unit=unit.value,
        delta_inverse=delta_inverse,
        members=cohort.members,
        min_survivors=cohort.min_survivors,
        max_colluders=cohort.max_colluders,
        share_variances=tuple(f"{item.share_variance:x}" for item in sums),
        events=settled,
        lines=lines,
        curve=curve,
        attack=_attack_line(settled, lines[0].add_remove_micro, delta),
        non_private=names,
        surplus_removed=True if surplus_removed and sums else msgspec.UNSET,
    )


def epsilon_micro(epsilon: float) -> int | None:
    """Return epsilon in millionths, rounded up; None when infinite or past 2^53."""
    if not math.isfinite(epsilon) or epsilon > 1e9:
        return None
    return math.ceil(epsilon * 1e6)


def certificate_text(certificate: Certificate) -> str:
    """Return the certificate in plain words, lines of at most 100 characters."""
    lost = certificate.members - certificate.min_survivors
    honest = certificate.min_survivors - certificate.max_colluders
    text = [
        f"Privacy certificate, partition {certificate.partition}",
        f"Protected unit: {certificate.unit}; delta 1/{certificate.delta_inverse}.",
        (
            f"Noise counted: {honest} honest shares of {certificate.members} "
            f"(up to {lost} lost and {certificate.max_colluders} colluding members)."
        ),
    ]
    if certificate.non_private:
        text.append(
            "EPSILON IS INFINITE: exact, not differentially private, these releases: "
            + ", ".join(certificate.non_private)
            + "."
        )
    for line in certificate.lines:
        sites = "one site" if line.sites == 1 else f"{line.sites} sites"
        moved, replaced = (
            shown_epsilon(line.add_remove_micro),
            shown_epsilon(line.replace_one_micro),
        )
        text.append(
            f"A person at {sites}: epsilon {moved} (added or removed), {replaced} (replaced)."
        )
    first = certificate.lines[0].add_remove_micro
    if first is None or first > MEANINGFUL_LIMIT_MICRO:
        text.append("No meaningful formal protection is claimed.")
    text += curve_lines(certificate)
    attack = certificate.attack
    text.append(
        f"Best membership attack, bound from the {attack.basis}: area {_share(attack.area_micro)},"
    )
    text.append(
        f"true positives at 1 % false ones {_share(attack.rate_at_one_percent_micro)}, at 0.1 % "
        f"{_share(attack.rate_at_one_per_mille_micro)} (guessing: 0.5, 0.01, 0.001)."
    )
    text.append(
        "The bound protects persons, not facts about a whole institution. It holds only if no more"
    )
    text.append("members collude than stated and the schedule was fixed before the run.")
    return "\n".join(text) + "\n"


def curve_lines(certificate: Certificate) -> list[str]:
    """Return the curve in words: of members that collude or are lost, or that collude alone."""
    if not certificate.surplus_removed:
        text = ["If members collude or drop out (epsilon, one site, added or removed):"]
        whole, what = certificate.members, f"of {certificate.members} shares known or missing"
    else:
        least = certificate.min_survivors
        text = [
            "Noise that a sum does not need is taken off. Who drops out changes no epsilon.",
            f"If members collude, worst of {least} in a sum (epsilon, one site, added or removed):",
        ]
        whole, what = least, "collude"
    for point in certificate.curve:
        count = whole - point.honest_shares
        text.append(f"  {count} {what}: epsilon {shown_epsilon(point.epsilon_micro)}")
    return text


def _curve_shares(whole: int, settled: int) -> tuple[int, ...]:
    """Return how many honest shares to report: all but one of `whole` to one, `settled` too."""
    every = range(1, whole)
    if len(every) <= _CURVE_POINTS:
        return tuple(reversed(every))
    step = (whole - 2) / (_CURVE_POINTS - 2)
    chosen = {1 + round(step * i) for i in range(_CURVE_POINTS - 1)} | {settled}
    return tuple(sorted(chosen, reverse=True))


def _attack_line(events: Sequence[Event], spent_micro: int | None, delta: float) -> AttackLine:
    sampled = any(isinstance(event, SampledGaussianEvent) for event in events)
    if spent_micro is None or sampled:
        epsilon = math.inf if spent_micro is None else spent_micro / 1e6
        basis, bound = "epsilon-and-delta", epsilon_attack_bound(epsilon, delta)
    else:
        mu = square_root_up(total_signal_to_noise(events))
        basis, bound = "gaussian-curve", attack_bound(mu)
    return _line(basis, bound)


def _line(basis: str, bound: AttackBound) -> AttackLine:
    return AttackLine(
        basis=basis,
        area_micro=math.ceil(bound.area * 1e6),
        rate_at_one_percent_micro=math.ceil(bound.rate_at_one_percent * 1e6),
        rate_at_one_per_mille_micro=math.ceil(bound.rate_at_one_per_mille * 1e6),
    )


def shown_epsilon(micro: int | None) -> str:
    """Return epsilon with three decimals, rounded up."""
    if micro is None:
        return "infinite"
    milli = -(-micro // 1000)
    return f"{milli // 1000}.{milli % 1000:03d}"


def _share(micro: int) -> str:
    return f"{micro // 1_000_000}.{micro % 1_000_000:06d}"
