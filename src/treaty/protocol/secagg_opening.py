"""Opening a sum: from revealed seeds to the plan that takes the masks off, checked offline.

Guarantees (docs/spec/secagg.md, section 8): seeds that do not match what the members committed
to when the epoch began are refused, so the published seeds determine the sum of the published
inputs. `check_result` is what an auditor runs; the coordinator runs the same checks before it
publishes. Nothing here is secret any more once a result stands in the log.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Final

from treaty.aggregation.masking import MaskPlan
from treaty.crypto import shamir
from treaty.crypto.derivation import kdf
from treaty.errors import FormatError, VerificationError
from treaty.protocol.secagg_dealing import open_wrap
from treaty.protocol.secagg_graph import Graph
from treaty.protocol.secagg_keys import (
    Group,
    agreement_key,
    context_of,
    pair_commitment,
    pair_key,
    self_commitment,
    survivors_digest,
)
from treaty.protocol.secagg_messages import (
    EpochKeys,
    EpochReady,
    Reveal,
    RoundOpened,
    RoundResult,
    SurvivorsSealed,
)

__all__ = [
    "MAX_SUBSETS",
    "Recovered",
    "check_result",
    "dropped_pair_seeds",
    "holds_pair_seeds",
    "holds_round_seed",
    "holds_self_seed",
    "rebuild",
    "recover",
    "unmask_plan",
]

MAX_SUBSETS: Final = 4096
"""Subsets of answers tried for one seed: enough for two liars among 90 answers."""


def unmask_plan(
    group: Group,
    opened: RoundOpened,
    epoch: int,
    survivors: Iterable[str],
    self_seeds: Mapping[str, str],
    round_seeds: Mapping[str, str],
    round_keys: Mapping[str, str],
    pair_seeds: Mapping[str, Mapping[str, str]],
    *,
    graph: Graph | None = None,
) -> MaskPlan:
    """Return what takes the masks off the sum of the survivors' inputs.

    Each survivor's own mask goes by its self seed; the pair masks between survivors cancel, those
    with a dropped member go by the key that follows from its round seed. `round_keys` are the
    public keys of the slot, `pair_seeds` the post-quantum keys by dropped member and survivor. The
    seeds are taken as checked (`check_result`). Without a `graph` everyone masks with everyone.
    """
    bound = bytes.fromhex(context_of(group.charter, opened))
    charter = bytes.fromhex(group.charter)
    survivors = tuple(survivors)
    plan = [(kdf(bytes.fromhex(self_seeds[name]), "self", bound), -1) for name in survivors]
    for dropped, seed in round_seeds.items():
        index = group.index(dropped)
        value = shamir.decode_element(bytes.fromhex(seed))
        key = agreement_key(value, charter, epoch, index, opened.slot)
        for name in survivors:
            if graph is not None and not graph.masks(dropped, name):
                continue
            other = group.index(name)
            pair = pair_key(
                key,
                round_keys[name],
                pair_seeds.get(dropped, {}).get(name),
                opened.epoch_hash,
                bound,
                index,
                other,
            )
            plan.append((pair, -1 if other < index else 1))
    return tuple(plan)


def check_result(
    group: Group,
    opened: RoundOpened,
    keys: Mapping[str, EpochKeys],
    ready: Mapping[str, EpochReady],
    dealers: Sequence[str],
    sealed: SurvivorsSealed,
    result: RoundResult,
    *,
    graph: Graph | None = None,
    pairs: Mapping[str, Sequence[str]] | None = None,
) -> MaskPlan:
    """Return the unmask plan of a published result, having checked every seed in it.

    `keys` and `ready` are the members' statements of the epoch, `dealers` those of its
    `EpochSealed`, `graph` its graph; without one everyone masks with everyone. `pairs` are the
    pair seeds where they stand beside the result (`secagg_pairs.pair_seeds_of`). The sum is what
    `recompute_sum` makes of the survivors' inputs and this plan; its SHA-256 must be `result.sum`.
    Raises `VerificationError`: ``wrong-context``, ``survivors-differ``, ``too-few-survivors``,
    ``seeds-incomplete``, ``seed-differs``; `FormatError` for a seed outside the field.
    """
    context = context_of(group.charter, opened)
    if sealed.context != context or result.context != context:
        raise VerificationError(
            "the result belongs to another round than the one opened", code="wrong-context"
        )
    names = [one.member for one in sealed.survivors]
    group.check_order(names, "survivors")
    if result.survivors != survivors_digest(context, sealed.survivors, group) or not set(
        names
    ) <= set(opened.participants):
        raise VerificationError(
            "the result is over other survivors than those sealed", code="survivors-differ"
        )
    if len(names) < group.min_survivors:
        raise VerificationError(
            f"expected at least {group.min_survivors} survivors, got {len(names)}",
            code="too-few-survivors",
        )
    dropped = [name for name in opened.participants if name not in names]
    if set(result.self_seeds) != set(names) or set(result.round_seeds) != set(dropped):
        raise VerificationError(
            "expected a self seed of every survivor and a round seed of everyone else",
            code="seeds-incomplete",
        )
    epoch = 0
    for name in opened.participants:
        epoch = keys[name].epoch
        own = name in result.self_seeds
        seed = result.self_seeds[name] if own else result.round_seeds[name]
        if not (holds_self_seed if own else holds_round_seed)(
            group, keys[name], name, opened.slot, shamir.decode_element(bytes.fromhex(seed))
        ):
            raise _differs(name)
    graph = graph or Graph(group, tuple(dealers), group.share_threshold)
    given = result.pair_seeds if pairs is None else pairs
    checked = _checked_pairs(group, opened, ready, graph, dropped, given)
    round_keys = {name: keys[name].round_keys[opened.slot] for name in names}
    return unmask_plan(
        group,
        opened,
        epoch,
        names,
        result.self_seeds,
        result.round_seeds,
        round_keys,
        checked,
        graph=graph,
    )


def holds_self_seed(group: Group, keys: EpochKeys, name: str, slot: int, seed: int) -> bool:
    """Say whether `seed` is what the member committed to as its self seed."""
    charter = bytes.fromhex(group.charter)
    committed = keys.commitments[slot]
    return self_commitment(seed, charter, keys.epoch, group.index(name), slot) == committed


def holds_round_seed(group: Group, keys: EpochKeys, name: str, slot: int, seed: int) -> bool:
    """Say whether the member's published round key follows from `seed`."""
    charter = bytes.fromhex(group.charter)
    key = agreement_key(seed, charter, keys.epoch, group.index(name), slot)
    return key.public.hex() == keys.round_keys[slot]


@dataclass(frozen=True, slots=True)
class Recovered:
    """Seeds rebuilt from shares, hex by member; who gave a false share; whose seed stays closed."""

    seeds: Mapping[str, str]
    liars: frozenset[str]
    missing: frozenset[str]


def recover(
    group: Group,
    shares: Mapping[str, Mapping[str, str]],
    holds: Callable[[str, int], bool],
    *,
    owners: Iterable[str] | None = None,
    threshold: int | None = None,
) -> Recovered:
    """Rebuild every member's seed from shares, given by answering member and then by owner.

    `holds(owner, seed)` compares with the owner's commitment. When the first subset of
    `share_threshold` answers fails, others are tried, the members caught lying last; a share that
    does not lie on the polynomial of a seed that holds convicts who signed it, because the
    answer is in the log. At most `MAX_SUBSETS` subsets are tried for one seed.

    `owners` are those whose seeds are wanted, all whom the first answer names unless given, and
    `threshold` of shares open one, the group's unless given: in a large group answers differ.
    """
    answers = sorted(shares, key=group.index)
    if owners is None:
        owners = shares[answers[0]] if answers else ()
    needed = group.share_threshold if threshold is None else threshold
    seeds: dict[str, str] = {}
    liars: set[str] = set()
    missing: set[str] = set()
    for owner in owners:
        holders = [name for name in answers if owner in shares[name]]
        points = {
            group.index(name): int.from_bytes(bytes.fromhex(shares[name][owner]), "big")
            for name in holders
        }
        trusted = [group.index(name) for name in holders if name not in liars]
        doubted = [group.index(name) for name in holders if name in liars]
        found = _first_that_holds(needed, owner, points, [*trusted, *doubted], holds)
        if found is None:
            missing.add(owner)
            continue
        seed, subset, clean = found
        seeds[owner] = shamir.encode_element(seed).hex()
        if not clean:
            liars |= {
                name
                for name in holders
                if not _on_polynomial(points, subset, group.index(name), seed)
            }
    return Recovered(seeds, frozenset(liars), frozenset(missing))


def rebuild(
    graph: Graph,
    opened: RoundOpened,
    keys: Mapping[str, EpochKeys],
    survivors: Iterable[str],
    answers: Mapping[str, Reveal],
) -> tuple[Recovered, Recovered]:
    """Return the survivors' self seeds and the others' round seeds, as far as answers open them."""
    group, slot, inside = graph.group, opened.slot, tuple(survivors)
    own = recover(
        group,
        {name: one.self_shares for name, one in answers.items()},
        lambda name, seed: holds_self_seed(group, keys[name], name, slot, seed),
        owners=inside,
        threshold=graph.threshold,
    )
    gone = recover(
        group,
        {name: one.round_shares for name, one in answers.items()},
        lambda name, seed: holds_round_seed(group, keys[name], name, slot, seed),
        owners=[name for name in opened.participants if name not in set(inside)],
        threshold=graph.threshold,
    )
    return own, gone


def _first_that_holds(
    needed: int,
    owner: str,
    points: Mapping[int, int],
    order: Sequence[int],
    holds: Callable[[str, int], bool],
) -> tuple[int, tuple[int, ...], bool] | None:
    """The seed, the subset it came from, and whether it was the first one tried."""
    subsets = combinations(order, needed)
    for tried, subset in enumerate(islice(subsets, MAX_SUBSETS)):
        if any(points[at] >= shamir.MODULUS for at in subset):
            continue
        seed = shamir.combine({at: points[at] for at in subset})
        if holds(owner, seed):
            return seed, subset, tried == 0
    return None


def _on_polynomial(points: Mapping[int, int], subset: Sequence[int], at: int, seed: int) -> bool:
    """Say whether the share at `at` lies on the polynomial through `subset`."""
    if at in subset:
        return True
    if points[at] >= shamir.MODULUS:
        return False
    exchanged = {other: points[other] for other in subset[1:]} | {at: points[at]}
    return shamir.combine(exchanged) == seed


def holds_pair_seeds(
    group: Group, opened: RoundOpened, ready: EpochReady, name: str, seeds: Sequence[str]
) -> bool:
    """Say whether `seeds` are the post-quantum keys that the member committed to."""
    made = pair_commitment(opened.epoch_hash, group.index(name), opened.slot, seeds)
    return ready.pair_commitments[opened.slot : opened.slot + 1] == (made,)


def dropped_pair_seeds(
    group: Group, opened: RoundOpened, ready: EpochReady, peers: int, seed: str, wraps: bytes
) -> tuple[str, ...] | None:
    """Return the post-quantum keys of a dropped member, None if it did not keep its promise.

    `ready` is its statement, `peers` with how many it shares a mask, `seed` its rebuilt round seed.
    """
    element = shamir.decode_element(bytes.fromhex(seed))
    name, epoch_hash, slot = ready.author, opened.epoch_hash, opened.slot
    try:
        seeds = open_wrap(group, name, epoch_hash, slot, peers, element, wraps)
    except (VerificationError, FormatError):
        return None
    return seeds if holds_pair_seeds(group, opened, ready, name, seeds) else None


def _checked_pairs(
    group: Group,
    opened: RoundOpened,
    ready: Mapping[str, EpochReady],
    graph: Graph,
    dropped: Sequence[str],
    pair_seeds: Mapping[str, Sequence[str]],
) -> dict[str, dict[str, str]]:
    if set(pair_seeds) != (set(dropped) if group.hybrid else set()):
        raise VerificationError(
            "expected the post-quantum keys of every dropped member", code="seeds-incomplete"
        )
    checked: dict[str, dict[str, str]] = {}
    for name, seeds in pair_seeds.items():
        peers = graph.partners(name)
        if len(peers) != len(seeds) or not holds_pair_seeds(
            group, opened, ready[name], name, seeds
        ):
            raise _differs(name)
        checked[name] = dict(zip(peers, seeds, strict=True))
    return checked


def _differs(name: str) -> VerificationError:
    return VerificationError(
        f"a revealed seed of {name} is not the one it committed to", code="seed-differs"
    )
