"""What the figures say, in sentences: the headline, its three answers and the limits.

Pure functions of `ReportData`. The rule errs towards "not shown": the headline claims a
difference only where the registered comparison does, and never rests on figures of single
sites, which are too small to carry it. Limits are stated by what the data say was disclosed, not
by what was intended.
"""

from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from treaty.reports.document import Coverage, ReportData, Verdict
from treaty.reports.numerals import area, grouped, scientific, signed_area, value_of

__all__ = [
    "CLOSE_PREDICTIONS",
    "SAME_PREDICTIONS",
    "Answer",
    "Limit",
    "Tone",
    "answers",
    "headline",
    "limits",
]

SAME_PREDICTIONS = Decimal("1e-6")
"""Largest difference of predicted probability that is called "the same predictions"."""

CLOSE_PREDICTIONS = Decimal("0.01")
"""Largest difference of predicted probability that is called "close": one percentage point."""


class Tone(Enum):
    """How an answer is coloured. The words say the same without colour."""

    GOOD = "good"
    NEUTRAL = "neutral"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Answer:
    """One question of the headline: a short answer and the sentence that carries it."""

    question: str
    short: str
    sentence: str
    tone: Tone


@dataclass(frozen=True, slots=True)
class Limit:
    """One thing that is not protected, in plain words."""

    name: str
    sentence: str


def headline(data: ReportData) -> str:
    """Return the one sentence that opens the report."""
    if data.halted is not None:
        return "The study stopped before its end."
    if data.plan_digest is None:
        return "No study has been run."
    if data.evaluation is None:
        return "The study has no evaluation yet."
    match data.evaluation.verdict:
        case Verdict.SUPERIOR:
            return "Training together beat training alone."
        case Verdict.INFERIOR:
            return "Training alone beat training together."
        case Verdict.INCONCLUSIVE:
            return "No difference was shown between training together and training alone."
        case Verdict.NOT_COMPARED:
            stated = [line.epsilon for line in data.privacy if line.epsilon is not None]
            if not stated:
                return "One model was trained together, under differential privacy."
            whole, _, rest = stated[0].partition(".")
            epsilon = f"{whole}.{rest.rstrip('0')}".rstrip(".")
            return f"One model was trained together, at epsilon {epsilon} for a person."


def answers(data: ReportData) -> tuple[Answer, ...]:
    """Return the three answers: against each site alone, against pooled data, the verifier's."""
    return (_against_alone(data), _against_pooled(data), _verifier(data))


def limits(data: ReportData) -> tuple[Limit, ...]:
    """Return what is not protected, the most consequential first."""
    found: list[Limit] = []
    if data.simulation:
        found.append(
            Limit(
                "This was a simulation",
                "All parties ran on one machine, so whoever ran it saw "
                "everything. The steps are those of a real study; the secrecy is not.",
            )
        )
    if not data.noised:
        found.append(
            Limit(
                "The sums are exact",
                "No noise was added. A published sum hides who contributed what, but it is the "
                "true total: someone who already knows almost everything about the others can "
                "subtract it and test whether one person was included.",
            )
        )
    else:
        found.append(
            Limit(
                "Noise bounds what is learned, it does not end it",
                "The privacy loss stated here holds for one person's row and adds up over studies. "
                "It does not hide facts about a whole site or about people in general.",
            )
        )
    honest = max(data.min_survivors - data.max_colluders, 0)
    found.append(
        Limit(
            "The group is small",
            f"A sum is opened over at least {data.min_survivors} members. If "
            f"{_up_to(data.max_colluders)} the coordinator, what remains hidden is the sum over "
            f"{honest} honest members, not each of them. More colluders than that are not covered.",
        )
    )
    if data.sites:
        found.append(
            Limit(
                "Figures of single sites are shown",
                "The charter allows it, and it was done. On small holdouts a figure moves with a "
                "single patient.",
            )
        )
    found += [
        Limit(
            "False data",
            "A site that trains on invented data within the allowed bounds is not detected.",
        ),
        Limit(
            "The model itself",
            "Whoever holds the model can study it. It carries what the sums carried, and copies "
            "cannot be called back.",
        ),
        Limit(
            "Being present",
            "That a site took part, when and how often is visible to all members, and so is a "
            "decline, though not its cause.",
        ),
        Limit(
            "Use in care",
            "These figures describe past patients of these sites. They say nothing about other "
            "hospitals, later years or the effect of acting on a prediction.",
        ),
    ]
    return tuple(found)


def _against_alone(data: ReportData) -> Answer:
    question = "Is it better than what sites reach alone?"
    result = data.evaluation
    if result is None:
        return Answer(question, "Not evaluated", "No evaluation was opened.", Tone.NEUTRAL)
    if result.verdict is Verdict.NOT_COMPARED:
        return _against_alone_simulated(data, question, result.federated.auc)
    if result.auc_difference is None or result.auc_margin is None:
        return Answer(
            question,
            "Not shown",
            "The area under the curve or its margin does not exist for these test patients, so "
            "the registered comparison could not be made.",
            Tone.NEUTRAL,
        )
    difference = signed_area(result.auc_difference)
    margin = area(result.auc_margin, up=True)
    match result.verdict:
        case Verdict.SUPERIOR:
            short, tone = "Yes", Tone.GOOD
            how = f"more than the 95 % margin of {margin}"
        case Verdict.INFERIOR:
            short, tone = "No, worse", Tone.BAD
            how = f"beyond the 95 % margin of {margin}"
        case _:
            short, tone = "Not shown", Tone.NEUTRAL
            how = f"within the 95 % margin of {margin}, so chance can explain it"
    sentence = (
        f"Over the test patients of {result.sites} sites the AUC differs by {difference}, {how}."
    )
    return Answer(question, short, sentence + _single_sites(data), tone)


def _against_alone_simulated(data: ReportData, question: str, federated: int | None) -> Answer:
    """Answer for a study under noise: models alone leave no site, a simulation may know them."""
    found = () if data.comparison is None else data.comparison.alone_private
    areas = [figures.auc for _, figures in found if figures.auc is not None]
    if federated is None or not areas:
        return Answer(
            question,
            "Not compared",
            "A site's own model is an exact function of its training rows, so under differential "
            "privacy none was evaluated in common.",
            Tone.NEUTRAL,
        )
    mean = sum(areas) // len(areas)
    sentence = (
        f"Simulation only: the common model's AUC is {area(federated)}, that of a site training "
        f"by itself under the same epsilon {area(mean)} on average and {area(max(areas))} at best."
    )
    better = federated > max(areas)
    return Answer(
        question,
        "Yes" if better else "On average" if federated > mean else "No",
        sentence,
        Tone.GOOD if better else Tone.NEUTRAL,
    )


def _single_sites(data: ReportData) -> str:
    pairs = [
        (site.federated.auc, site.alone.auc)
        for site in data.sites
        if site.federated.auc is not None and site.alone.auc is not None
    ]
    if not pairs:
        return ""
    higher = sum(federated > alone for federated, alone in pairs)
    return f" Taken singly, it is higher at {higher} of {len(pairs)} sites."


def _against_pooled(data: ReportData) -> Answer:
    question = "Is it as good as pooling all data?"
    if data.comparison is None:
        return Answer(
            question,
            "Not tested",
            "This simulation did not fit a model on pooled data."
            if data.simulation
            else "The data stayed where they are, so no pooled model exists to compare with.",
            Tone.NEUTRAL,
        )
    largest = value_of(data.comparison.largest_gap)
    gap = scientific(data.comparison.largest_gap)
    if data.noised:
        pooled = data.comparison.pooled.auc
        shown = "has no AUC" if pooled is None else f"has an AUC of {area(pooled)}"
        return Answer(
            question,
            "Close, not equal" if largest <= CLOSE_PREDICTIONS else "Differs by the noise",
            f"Simulation only: the same training on all data in one place and without noise {shown}"
            f"; predicted risks differ by up to {gap}.",
            Tone.NEUTRAL,
        )
    if largest <= SAME_PREDICTIONS:
        return Answer(
            question,
            "Same predictions",
            f"Simulation only: no test patient's predicted risk differs by more than {gap} from "
            "that of a model fitted on all data in one place.",
            Tone.GOOD,
        )
    return Answer(
        question,
        "Close, not equal"
        if value_of(data.comparison.largest_gap) <= Decimal("0.01")
        else "Differs",
        f"Simulation only: predicted risks differ by up to {gap} from those of a model fitted on "
        "all data in one place.",
        Tone.NEUTRAL,
    )


def _verifier(data: ReportData) -> Answer:
    question = "Can it be checked?"
    match data.verification.status:
        case Coverage.PROVED:
            short, tone = "Verified", Tone.GOOD
        case Coverage.ATTESTED:
            short, tone = "Attested, not recomputed", Tone.NEUTRAL
        case Coverage.NOT_COVERED:
            short, tone = "Not verified", Tone.BAD
    parts = [
        f"{grouped(count)} {status.value}"
        for status in Coverage
        if (count := sum(line.status is status for line in data.guarantees))
    ]
    tail = f" Guarantees: {', '.join(parts)}." if parts else ""
    return Answer(question, short, data.verification.sentence + tail, tone)


def _up_to(count: int) -> str:
    if count == 1:
        return "one of them helps"
    return f"{count} of them help"
