"""Ledger trail: what the shared log knows of a member's privacy ledgers, and what may follow.

A member's masked inputs carry the head of the ledger that pays for them. Invariants
(docs/spec/privacy.md, section 7):
  * A ledger only grows: fewer entries, or another head at the same number, is refused.
  * A member that has shown a ledger shows one with every input, and no other, unless its officer
    signed for the other one: a data set of other persons, or the successor of a lost ledger.
  * One statement of the officer lets one ledger in, however often it is put into the log.
  * A re-base names exactly the head that the log showed last.

What a ledger holds is not known here, only that it grows. Its first head is believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from treaty.errors import VerificationError
from treaty.ids import Digest
from treaty.privacy.ledger_entries import LedgerHead
from treaty.protocol.messages import LedgerRebased
from treaty.protocol.secagg_messages import MaskedInput
from treaty.protocol.statements import Verified

__all__ = ["LedgerTrail", "head_in"]


def head_in(body: MaskedInput) -> LedgerHead | None:
    """Return the ledger head that an input shows, None without a registered data set.

    Raises `VerificationError` (code ``malformed``) for a count without a ledger, or the reverse.
    """
    if body.ledger is None and body.ledger_count is None:
        return None
    if body.ledger is None or not body.ledger_count:
        raise VerificationError(
            "expected a ledger with its number of entries, or neither", code="malformed"
        )
    return LedgerHead(ledger=body.ledger.ledger, count=body.ledger_count, head=body.ledger.head)


@dataclass(frozen=True, slots=True)
class LedgerTrail:
    """One member's ledgers: the last head of each, and what its officer signed for.

    `awaited` are successors of lost ledgers that have shown no head yet; `spare` counts the
    registered data sets whose ledgers have shown none, `registrations` are the statements that
    registered them.
    """

    heads: Mapping[Digest, LedgerHead] = field(default_factory=dict)
    awaited: frozenset[Digest] = frozenset()
    rebases: Mapping[Digest, Verified[LedgerRebased]] = field(default_factory=dict)
    spare: int = 0
    registrations: frozenset[Digest] = frozenset()

    def head_of(self, ledger: Digest) -> LedgerHead | None:
        """Return the last head that the log shows of `ledger`, if any."""
        return self.heads.get(ledger)

    def vouches(self, ledger: Digest) -> bool:
        """Say whether the log shows `ledger`, or the officer signed for one that it may be."""
        return ledger in self.heads or ledger in self.awaited or self.spare > 0

    def admits(self, ledger: Digest) -> bool:
        """Say whether the member may show a head of `ledger`; its first one needs no signature."""
        return self.vouches(ledger) or not (self.heads or self.awaited)

    def rebase_to(self, ledger: Digest) -> Verified[LedgerRebased] | None:
        """Return the officer's last statement that makes `ledger` the successor of a lost one."""
        return self.rebases.get(ledger)

    def with_head(self, body: MaskedInput) -> "LedgerTrail":
        """Return the trail after a masked input.

        Raises `VerificationError`: ``ledger-missing`` for an input without a head where there was
        one, ``ledger-rollback`` for a ledger that did not grow, ``strange-ledger`` for one that
        the officer did not sign for, ``malformed``.
        """
        head = head_in(body)
        if head is None:
            if self.heads or self.awaited:
                raise VerificationError(
                    f"the input of {body.author} shows no ledger, expected one: it showed one "
                    "before",
                    code="ledger-missing",
                )
            return self
        ledger = Digest(head.ledger)
        known = self.heads.get(ledger)
        if known == head:
            return self
        if known is not None and head.count <= known.count:
            raise VerificationError(
                f"the ledger of {body.author} shows {head.count} entries, expected more than "
                f"{known.count}, or the same head: an older copy was put back",
                code="ledger-rollback",
            )
        if not self.admits(ledger):
            raise VerificationError(
                f"{body.author} shows another ledger than before: expected a statement of its "
                "officer on a new data set, or on the loss of the ledger",
                code="strange-ledger",
            )
        fresh = known is None and ledger not in self.awaited and self.spare > 0
        return replace(
            self,
            heads=MappingProxyType({**self.heads, ledger: head}),
            awaited=self.awaited - {ledger},
            spare=self.spare - 1 if fresh else self.spare,
        )

    def registered(self, statement: Digest) -> "LedgerTrail":
        """Return the trail after the officer's statement that a new data set has other persons.

        Raises `VerificationError` (``replayed``) where it stands in the log already: one signature
        lets one ledger in.
        """
        if statement in self.registrations:
            raise VerificationError("this data set is registered already", code="replayed")
        return replace(self, spare=self.spare + 1, registrations=self.registrations | {statement})

    def rebased(self, verified: Verified[LedgerRebased]) -> "LedgerTrail":
        """Return the trail after an officer accepted a loss.

        Raises `VerificationError` (``wrong-ledger``) unless the statement names exactly the head
        that the log showed last, and a successor that is not another living ledger.
        """
        body = verified.predicate
        lost = Digest(body.lost.ledger)
        known = self.heads.get(lost)
        named = (body.lost.ledger, body.lost_count, body.lost.head)
        successor = Digest(body.successor)
        # A ledger that has shown no head may be lost too.
        fits = (
            body.lost_count == 0 and lost not in self.heads
            if known is None
            else named == (known.ledger, known.count, known.head)
        )
        if not fits:
            raise VerificationError(
                f"{body.author} gives up another ledger head than the log showed last",
                code="wrong-ledger",
            )
        if successor != lost and (successor in self.heads or successor in self.awaited):
            raise VerificationError(
                f"{body.author} names a ledger in use as the successor of a lost one",
                code="wrong-ledger",
            )
        heads = {ledger: head for ledger, head in self.heads.items() if ledger != lost}
        return replace(
            self,
            heads=MappingProxyType(heads),
            awaited=self.awaited | {successor},
            rebases=MappingProxyType({**self.rebases, successor: verified}),
        )
