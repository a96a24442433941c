"""Quorums and thresholds: derived from two numbers, never configured one by one.

From N unsuspended members and the number c of members that may collude with the
coordinator follow (docs/spec/governance.md, section 4):

  * ``tolerated_faults``  f = floor((N - 1) / 3), witnesses that may be dishonest;
  * ``share_threshold``   floor((N + c) / 2) + 1, shares that open a member's secret;
  * ``min_survivors``     at least max(share_threshold, c + 2): no smaller sum is ever opened
    (for every c that is allowed, c <= N - 2, the share threshold is the larger of the two);
  * ``min_honest``        min_survivors - c, honest inputs in any opened sum, at least 2;
  * ``witness_quorum``    floor((N + max(c, f)) / 2) + 1: two quorums share more
    members than may be dishonest, so no two histories are both cosigned.

c is at least 1: members receive the model, so each can subtract its own share from a sum.
"""

from dataclasses import dataclass

from treaty.errors import PolicyError
from treaty.tlog.policy import witness_quorum

__all__ = ["LEAST_MEMBERS", "MOST_MEMBERS", "DerivedParameters"]

LEAST_MEMBERS = 3
MOST_MEMBERS = 200
"""Of a charter: above this the list of survivors outgrows a log entry when names are long."""


@dataclass(frozen=True, slots=True)
class DerivedParameters:
    """Every threshold of a consortium of `members` of which `max_colluders` may collude.

    `raised_min_survivors` is the charter's own, higher, least number of survivors; None takes
    the derived one. Raises `PolicyError` (code ``parameters``) when no safe values exist.
    """

    members: int
    max_colluders: int
    raised_min_survivors: int | None = None

    def __post_init__(self) -> None:
        if not LEAST_MEMBERS <= self.members <= MOST_MEMBERS:
            raise PolicyError(
                f"expected {LEAST_MEMBERS} to {MOST_MEMBERS} unsuspended members, "
                f"got {self.members}: a sum of fewer shows a member's own share",
                code="parameters",
            )
        if self.max_colluders < 1:
            raise PolicyError(
                f"expected max_colluders of at least 1, got {self.max_colluders}: every member "
                "receives the model and can subtract its own share",
                code="parameters",
            )
        if self.max_colluders > self.members - 2:
            raise PolicyError(
                f"expected max_colluders of at most {self.members - 2} for {self.members} members, "
                f"got {self.max_colluders}: at least two members must be honest",
                code="parameters",
            )
        raised = self.raised_min_survivors
        if raised is not None and not self.least_min_survivors <= raised <= self.members:
            raise PolicyError(
                f"expected min_survivors between {self.least_min_survivors} and {self.members}, "
                f"got {raised}: a charter may raise the derived value, never lower it",
                code="parameters",
            )

    @property
    def tolerated_faults(self) -> int:
        """Return f, the number of witnesses that may be dishonest."""
        return (self.members - 1) // 3

    @property
    def share_threshold(self) -> int:
        """Return the number of shares that open a member's secret."""
        return (self.members + self.max_colluders) // 2 + 1

    @property
    def least_min_survivors(self) -> int:
        """Return the smallest `min_survivors` that a charter may have."""
        return max(self.share_threshold, self.max_colluders + 2)

    @property
    def min_survivors(self) -> int:
        """Return the least number of contributions in a sum that may be opened."""
        raised = self.raised_min_survivors
        return self.least_min_survivors if raised is None else raised

    @property
    def min_honest(self) -> int:
        """Return the least number of honest contributions in an opened sum, at least 2."""
        return self.min_survivors - self.max_colluders

    @property
    def witness_quorum(self) -> int:
        """Return the number of witness cosignatures that fix a checkpoint."""
        return witness_quorum(self.members, self.max_colluders)

    @property
    def tolerated_losses(self) -> int:
        """Return how many members may drop out of a round without stopping it."""
        return self.members - self.min_survivors
