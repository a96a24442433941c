"""Closed codes of secure aggregation's statements: why an epoch, an input or a round ended.

Each is a word of the log that says nothing about anybody's data. The statements that carry them are
those of `secagg_messages`.
"""

from enum import Enum

__all__ = ["CloseCode", "DeclineCode", "RoundCode"]


class CloseCode(Enum):
    """Why an epoch ended."""

    EXHAUSTED = "exhausted"
    FINISHED = "finished"
    SUPERSEDED = "superseded"
    TOO_FEW_MEMBERS = "too-few-members"


class DeclineCode(Enum):
    """Why a member sends no input; says nothing about its data."""

    SITE_DECLINED = "site-declined"
    PROTOCOL_REFUSED = "protocol-refused"


class RoundCode(Enum):
    """Why a round ended without a sum."""

    TOO_FEW_INPUTS = "too-few-inputs"
    TOO_FEW_CONFIRMATIONS = "too-few-confirmations"
    TOO_FEW_REVEALS = "too-few-reveals"
    SEEDS_DO_NOT_HOLD = "seeds-do-not-hold"
    CLAIMS_REFUSED = "claims-refused"
