"""Roster: which members' keys make an epoch, judged the same way by everyone.

Guarantees (docs/spec/secagg.md, 5.3): every entry is a logged statement of a member, in the
charter's order, each member once; no key appears twice and none has low order, so no party can
put a key of its own choice, or somebody else's, in place of a member's.
"""

from collections.abc import Collection, Mapping

from treaty.crypto import canonical, key_agreement
from treaty.errors import PolicyError, VerificationError
from treaty.protocol.secagg_graph import check_choice
from treaty.protocol.secagg_keys import Group
from treaty.protocol.secagg_messages import EpochKeys, EpochRoster, EpochShares
from treaty.protocol.statements import Verified

__all__ = ["check_dealt", "check_keys", "check_roster", "fresh_keys"]


def check_roster(
    group: Group, roster: EpochRoster, keys: Mapping[str, Verified[EpochKeys]], slots: int
) -> dict[str, EpochKeys]:
    """Return the key statements of a roster by member, in order.

    `keys` are the logged key statements by envelope digest. Raises `VerificationError`:
    ``keys-missing``, ``member-order``, ``not-a-member``, ``keys-malformed``, ``keys-repeat``,
    ``low-order-key``, or `PolicyError` ``too-few-members``; `FormatError` for a key that is none.
    """
    if any(digest not in keys for digest in roster.keys):
        raise VerificationError(
            "the roster names a key statement that is not in the log", code="keys-missing"
        )
    listed = [keys[digest] for digest in roster.keys]
    group.check_order([one.author for one in listed], "members of a roster")
    if len(listed) < group.min_survivors:
        raise PolicyError(
            f"expected at least {group.min_survivors} members in an epoch, got {len(listed)}",
            code="too-few-members",
        )
    seen: set[str] = set()
    for one in listed:
        item = one.predicate
        if (item.epoch, item.opened) != (roster.epoch, roster.opened):
            raise VerificationError(
                f"the keys of {one.author} are for another epoch", code="wrong-epoch"
            )
        check_keys(group, item, slots, seen)
        seen |= fresh_keys(item)
    return {str(one.author): one.predicate for one in listed}


def fresh_keys(keys: EpochKeys) -> frozenset[str]:
    """Return the agreement keys of a statement: no key may stand in an epoch twice."""
    return frozenset((keys.transport, *keys.round_keys))


def check_keys(
    group: Group, keys: EpochKeys, slots: int, seen: Collection[str] = frozenset()
) -> None:
    """Raise unless `keys` has one usable key and commitment for each of `slots` slots.

    `seen` are the agreement keys of the members before it. `VerificationError`
    (``keys-malformed``, ``keys-repeat``, ``low-order-key``) or `FormatError`.
    """
    if not len(keys.round_keys) == len(keys.commitments) == slots or (
        (keys.kem is not None, keys.graph is not None) != (group.hybrid, group.large)
    ):
        raise VerificationError(
            f"expected keys for {slots} slots under suite {group.suite} of {keys.author}",
            code="keys-malformed",
        )
    fresh = fresh_keys(keys)
    if len(fresh) != slots + 1 or not fresh.isdisjoint(seen):
        raise VerificationError(
            f"a key of {keys.author} appears twice in the epoch", code="keys-repeat"
        )
    for key in (keys.transport, *keys.round_keys):
        key_agreement.check_agreement_key(bytes.fromhex(key))
    if keys.kem is not None:
        key_agreement.check_encapsulation_key(bytes.fromhex(keys.kem))


def check_dealt(
    group: Group,
    me: str,
    roster: Mapping[str, EpochKeys],
    epoch_hash: str,
    dealer: str,
    dealt: Verified[EpochShares] | None,
    column: bytes | None,
) -> None:
    """Raise unless `dealer` dealt to its holders and `column`, if `me` is one, is what it signed.

    `VerificationError`: ``shares-missing``, ``wrong-epoch``, ``column-missing``,
    ``column-differs``, and those of `check_choice`.
    """
    if dealt is None or dealt.author != dealer:
        raise VerificationError(f"no shares of dealer {dealer} in the log", code="shares-missing")
    shares = dealt.predicate
    if shares.epoch_hash != epoch_hash:
        raise VerificationError(
            f"the shares of {dealer} are for another roster", code="wrong-epoch"
        )
    if me in shares.columns or group.degree(len(roster)) is None:
        if column is None:
            raise VerificationError(
                f"the column of {dealer} did not arrive: fetch it by its digest",
                code="column-missing",
            )
        if canonical.sha256(column) != shares.columns.get(me):
            raise VerificationError(
                f"the column of {dealer} is not the one it signed", code="column-differs"
            )
    # Prevents a dealer from choosing its holders, or from leaving one out.
    check_choice(group, roster[dealer], tuple(roster), epoch_hash, shares)
