"""Graph: who holds whose shares in an epoch, and who masks with whom.

In a large group (`secagg_degree`) every member chooses k holders for its shares by a nonce of its
own: committed to with its keys, shown when it deals. Two members share a mask when one of them is
a holder of the other. In a small group everyone holds everyone's shares: the same with
k = members - 1. Guarantees (docs/spec/secagg.md, section 10):

  * A choice is a function of the member's nonce and the epoch's roster alone. The commitment is
    older than the roster and the roster older than the nonce, so nobody has steered a choice of
    an honest member, and everyone who has the log derives it again.
  * Who does not show its nonce takes part in nothing, and moves nobody else's choice. (One seed
    made of all nonces would give the last one to show its own a choice between two graphs.)

Nothing here is secret: choices are public once shares are dealt.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType

from treaty.crypto.derivation import kdf, labelled_hash
from treaty.crypto.prg import Keystream
from treaty.errors import VerificationError
from treaty.ids import Digest
from treaty.protocol.secagg_keys import Group
from treaty.protocol.secagg_messages import EpochKeys, EpochShares

__all__ = ["Graph", "check_choice", "chosen_holders", "nonce_commitment", "threshold_in"]

_KEY_BYTES = 16
"""Of a sorting key: two of a roster agree with probability below 2^-109, which biases nothing."""


def threshold_in(group: Group, roster: int) -> int:
    """Return how many shares open a secret in an epoch of `roster` members."""
    derived = group.degree(roster)
    return group.share_threshold if derived is None else derived.threshold


def nonce_commitment(nonce: bytes, charter: bytes, epoch: int, index: int) -> Digest:
    """Return the commitment to a member's nonce of 32 uniform bytes; it needs no salt."""
    return Digest(labelled_hash("graph-com", charter, epoch, index, nonce).hex())


def chosen_holders(
    group: Group, name: str, roster: Sequence[str], epoch_hash: str, nonce: str | None
) -> tuple[str, ...]:
    """Return the members that hold shares of `name` besides itself, in the roster's order.

    Without a nonce, in a small group: everyone. `nonce` is hex.
    """
    derived = group.degree(len(roster))
    if derived is None or nonce is None:
        return tuple(other for other in roster if other != name)
    return _chosen(name, tuple(roster), epoch_hash, nonce, derived.holders)


def check_choice(
    group: Group,
    keys: EpochKeys,
    roster: Sequence[str],
    epoch_hash: str,
    shares: EpochShares,
) -> None:
    """Raise `VerificationError` unless a member dealt to the holders that its nonce chooses.

    ``nonce-missing``, ``nonce-differs``, ``shares-malformed``.
    """
    author = shares.author
    if (shares.nonce is None) != (group.degree(len(roster)) is None):
        raise VerificationError(
            f"expected of {author} a nonce in a large group, and none in a small one",
            code="nonce-missing",
        )
    if shares.nonce is not None:
        charter, index = bytes.fromhex(group.charter), group.index(author)
        shown = nonce_commitment(bytes.fromhex(shares.nonce), charter, keys.epoch, index)
        if shown != keys.graph:
            raise VerificationError(
                f"the nonce of {author} is not the one it committed to", code="nonce-differs"
            )
    chosen = chosen_holders(group, author, roster, epoch_hash, shares.nonce)
    if set(shares.columns) != set(chosen):
        raise VerificationError(
            f"expected one column of {author} for each of its {len(chosen)} holders",
            code="shares-malformed",
        )


@dataclass(frozen=True, slots=True)
class Graph:
    """Who holds and who masks among the dealers of an epoch. `choices` is None in a small group.

    `threshold` shares open a secret.
    """

    group: Group
    dealers: tuple[str, ...]
    threshold: int
    choices: Mapping[str, frozenset[str]] | None = field(default=None, repr=False)

    @staticmethod
    def of(group: Group, roster: Sequence[str], shares: Mapping[str, EpochShares]) -> "Graph":
        """Return the graph of checked `shares`, by dealer, in the order of the dealers."""
        threshold = threshold_in(group, len(roster))
        if group.degree(len(roster)) is None:
            return Graph(group, tuple(shares), threshold)
        choices = {name: frozenset(one.columns) for name, one in shares.items()}
        return Graph(group, tuple(shares), threshold, MappingProxyType(choices))

    def holds(self, holder: str, owner: str) -> bool:
        """Say whether `holder` has a share of `owner`; everyone has one of its own."""
        return self.choices is None or holder == owner or holder in self.choices[owner]

    def masks(self, one: str, other: str) -> bool:
        """Say whether two different members share a mask."""
        return self.choices is None or other in self.choices[one] or one in self.choices[other]

    def partners(self, name: str) -> tuple[str, ...]:
        """Return the dealers that share a mask with `name`, in order."""
        return tuple(one for one in self.dealers if one != name and self.masks(name, one))

    def owners(self, holder: str, among: Iterable[str]) -> frozenset[str]:
        """Return those of `among` whose shares `holder` has."""
        if self.choices is None:
            return frozenset(among)
        return frozenset(owner for owner in among if self.holds(holder, owner))

    def opens(self, answered: Set[str], owners: Iterable[str]) -> bool:
        """Say whether `answered` hold enough shares of every one of `owners`."""
        if self.choices is None:
            return len(answered) >= self.threshold
        return all(
            len(self.choices[owner] & answered) + (owner in answered) >= self.threshold
            for owner in owners
        )

    def fast_survivors(self, participants: int, *, surplus: bool = False) -> int:
        """Return from how many survivors on no confirmation is needed; in a large group: never.

        The count behind u_fast is of the complete graph. Where everyone confirms one set first,
        no honest member answers for another. `surplus` as in `Group.fast_survivors`.
        """
        if self.choices is not None:
            return participants + 1
        return self.group.fast_survivors(participants, surplus=surplus)


@functools.lru_cache(maxsize=4096)
def _chosen(
    name: str, roster: tuple[str, ...], epoch_hash: str, nonce: str, count: int
) -> tuple[str, ...]:
    """Sort the others by keys of a keystream, take the first `count`: a uniform choice."""
    others = [other for other in roster if other != name]
    key = kdf(bytes.fromhex(nonce), "holders", bytes.fromhex(epoch_hash))
    stream = Keystream(key).take(_KEY_BYTES * len(others))
    keys = [stream[at : at + _KEY_BYTES] for at in range(0, len(stream), _KEY_BYTES)]
    first = set(sorted(range(len(others)), key=keys.__getitem__)[:count])
    return tuple(other for place, other in enumerate(others) if place in first)
