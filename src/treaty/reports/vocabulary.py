"""The report's words: statement types grouped and explained, and the glossary.

LIMIT: a statement type that is not listed is shown under its own name among "other entries";
nothing is hidden because this page does not know it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["GLOSSARY", "LANES", "GlossaryEntry", "describe_kind", "lane_of"]

LANES: tuple[tuple[str, str], ...] = (
    ("governance", "charter and votes"),
    ("epoch", "keys of an epoch"),
    ("input", "masked contributions"),
    ("round", "rounds and sums"),
    ("refusal", "declines and losses"),
    ("result", "results and release"),
    ("other", "other entries"),
)
"""Lanes of the timeline, top to bottom: key and label."""

_KINDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "charter": ("governance", "a charter version takes effect"),
        "time": ("other", "the log's clock"),
        "proposal": ("governance", "a member asks for a decision"),
        "ballot": ("governance", "a member votes"),
        "voting-closed": ("governance", "a vote lapses"),
        "member-suspended": ("governance", "a member is suspended"),
        "study-opened": ("governance", "a ratified study begins"),
        "study-halted": ("refusal", "a study stops before its end"),
        "epoch-opened": ("epoch", "an epoch begins"),
        "epoch-keys": ("epoch", "a member's keys for the epoch"),
        "epoch-roster": ("epoch", "who takes part in the epoch"),
        "epoch-shares": ("epoch", "sealed shares of mask secrets"),
        "epoch-sealed": ("epoch", "all shares are dealt"),
        "epoch-ready": ("epoch", "a member has checked its shares"),
        "epoch-closed": ("epoch", "an epoch ends"),
        "share-complaint": ("refusal", "a member received a bad share"),
        "round-opened": ("round", "a round begins"),
        "masked-input": ("input", "a masked contribution"),
        "input-declined": ("refusal", "a member declines a round"),
        "survivors-sealed": ("round", "whose contributions count"),
        "survivors-confirmed": ("round", "a member confirms the list"),
        "reveal": ("round", "shares that take the masks off the sum"),
        "round-result": ("round", "the opened sum"),
        "audit-called": ("result", "members are asked to add sums up again"),
        "sums-audited": ("input", "a member added sums up again"),
        "sum-disputed": ("refusal", "a member proves a sum false"),
        "round-abandoned": ("refusal", "a round ends without a sum"),
        "site-report": ("result", "a site's own figures"),
        "study-completed": ("result", "model and evaluation are final"),
        "comparison": ("result", "pooled comparison, simulation only"),
        "provenance": ("result", "the model is released"),
    }
)


@dataclass(frozen=True, slots=True)
class GlossaryEntry:
    """One term, its anchor on the page and what it means."""

    anchor: str
    term: str
    meaning: str


GLOSSARY: tuple[GlossaryEntry, ...] = (
    GlossaryEntry(
        "accuracy",
        "Accuracy",
        "The share of test patients whose outcome the model predicts correctly at the threshold "
        "fixed in the plan.",
    ),
    GlossaryEntry(
        "alone",
        "Alone",
        "Each site's own model, fitted on its own patients only and tested on its own test "
        "patients. The pooled figure adds these tests up over all sites through a secure sum.",
    ),
    GlossaryEntry(
        "anchor",
        "Anchor",
        "32 bytes that fix the founding charter. Whoever holds the anchor can check everything "
        "else without trusting anyone.",
    ),
    GlossaryEntry(
        "auc",
        "AUC",
        "Area under the receiver operating characteristic: the chance that the model ranks a "
        "random patient with the outcome above a random one without it. 0.5 is a coin, 1 is "
        "perfect.",
    ),
    GlossaryEntry(
        "brier",
        "Brier score",
        "Mean squared distance between predicted risk and outcome. Lower is better; always "
        "answering one half gives 0.25.",
    ),
    GlossaryEntry(
        "calibration",
        "Calibration",
        "Whether, of the patients given a risk of 30 %, about 30 % have the outcome.",
    ),
    GlossaryEntry(
        "cosignature",
        "Cosignature",
        "A member's signature saying that it has seen this log and that nothing in it was changed "
        "since it last looked.",
    ),
    GlossaryEntry(
        "digest",
        "Digest",
        "SHA-256 of a file or message: a fingerprint that no other content shares.",
    ),
    GlossaryEntry(
        "epsilon",
        "Epsilon",
        "What taking part can cost a person: whatever was learned from noised sums is at most e to "
        "the power of epsilon times (at epsilon 1, 2.7 times) as likely with the person's rows as "
        "without, but for a chance of delta. Smaller is more private.",
    ),
    GlossaryEntry(
        "half-width",
        "Half-width",
        "How much the AUC could differ because scores are counted in bins before they are summed.",
    ),
    GlossaryEntry(
        "holdout",
        "Test patients (holdout)",
        "Rows set aside before training, by a rule in the plan, and used for the evaluation only.",
    ),
    GlossaryEntry(
        "margin",
        "95 % margin",
        "How much chance in the choice of test patients moves a figure, in 19 of 20 cases. It "
        "speaks of these sites, not of others.",
    ),
    GlossaryEntry(
        "quorum",
        "Quorum",
        "The number of cosignatures at which two different histories can no longer both be "
        "accepted, given the assumed number of dishonest members.",
    ),
    GlossaryEntry(
        "secure-sum",
        "Secure sum",
        "Each site adds random masks that cancel in the total. Nobody, the coordinator included, "
        "can read a single contribution; all can read, and check, the sum.",
    ),
    GlossaryEntry(
        "step",
        "Step",
        "The largest change of a coefficient in a round. Without noise, training has "
        "converged when it is practically zero.",
    ),
)
"""Terms that the page links to, in alphabetical order."""


def lane_of(kind: str) -> str:
    """Return the lane of a statement type; its version suffix, if any, does not matter."""
    return _KINDS.get(kind.partition("/")[0], ("other", ""))[0]


def describe_kind(kind: str) -> str:
    """Return what a statement of this type says, or nothing for one that is not listed."""
    return _KINDS.get(kind.partition("/")[0], ("", ""))[1]
