"""T-10: every derived key has 256 live bits, and no two purposes share one.

All keys of an epoch of eight members over sixteen slots: transport and ML-KEM seeds, choices of
holders, round and self seeds, pairwise private keys, share keys, wrap keys, post-quantum pair
seeds, and the mask keys of two contexts. Keys are told apart by label, slot, parties and context;
the two ends of a pair derive the same one.

False-alarm rates: a live bit stays equal in n uniform keys with probability 2^(1-n); a bit's count
leaves eight standard deviations with probability below 2^-48.

Planted faults that these tests caught: keys cut to 31 bytes; the slot left out of share keys or of
pair seeds; the order of a pair left in (the two ends differ); the round seed itself as the key of
the wraps; the context left out of the self key.
"""

import hashlib
from functools import cache
from itertools import combinations, permutations

from tests.unit.protocol.secagg_rig import group_of, tag
from treaty.crypto.derivation import extract, kdf
from treaty.crypto.shamir import encode_element
from treaty.protocol.secagg_keys import (
    EpochSeed,
    SlotSecrets,
    mask_plan,
    pair_seed,
    share_key,
    wrap_key,
)

MEMBERS = 8
SLOTS = 16
CONTEXTS = (tag("first context"), tag("second context"))

Purpose = tuple[object, ...]


@cache
def derived() -> tuple[tuple[Purpose, bytes], ...]:
    """Return every key with its purpose; both ends of a pair are in it."""
    group = group_of(MEMBERS, hybrid=True)
    epoch_hash, charter = tag("epoch"), tag("charter")
    names = group.members
    seeds = {
        name: EpochSeed(hashlib.sha256(name.encode()).digest(), charter, 1, group.index(name))
        for name in names
    }
    made: list[tuple[Purpose, bytes]] = []
    transport = {}
    for one, other in permutations(names, 2):
        shared = seeds[one].transport_key().exchange(seeds[other].transport_key().public)
        # In the hybrid suite each direction has a secret of its own; here the direction is bound.
        transport[one, other] = kdf(extract(bytes.fromhex(epoch_hash), shared), "way", one, other)
    for slot in range(SLOTS):
        pairs: dict[tuple[str, str], bytes] = {}
        for low, high in combinations(names, 2):
            made_pair = pair_seed(transport[low, high], transport[high, low], slot)
            pairs[low, high] = pairs[high, low] = made_pair
            made.append((("pq", slot, low, high), made_pair))
        for one, other in permutations(names, 2):
            key = share_key(transport[one, other], group.index(one), group.index(other), slot)
            made.append((("share", slot, one, other), key))
        for name in names:
            own = seeds[name]
            if slot == 0:
                kem = own.encapsulation_key().seed_bytes()
                made.append((("transport", name), own.transport_key().seed_bytes()))
                made.append((("kem-d", name), kem[:32]))
                made.append((("kem-z", name), kem[32:]))
                made.append((("graph", name), own.graph_nonce()))
            made.append((("self-seed", slot, name), encode_element(own.self_seed(slot))))
            made.append((("round-seed", slot, name), encode_element(own.round_seed(slot))))
            made.append((("rsk", slot, name), own.agreement_key(slot).seed_bytes()))
            made.append((("wrap", slot, name), wrap_key(own.round_seed(slot), slot)))
            secrets = SlotSecrets(
                slot=slot,
                self_seed=encode_element(own.self_seed(slot)).hex(),
                agreement=own.agreement_key(slot).seed_bytes().hex(),
                self_shares={},
                round_shares={},
                peers={
                    peer: seeds[peer].agreement_key(slot).public.hex()
                    for peer in names
                    if peer != name
                },
                pair_seeds={peer: pairs[name, peer].hex() for peer in names if peer != name},
            )
            for context in CONTEXTS:
                plan = mask_plan(group, name, names, secrets, context, epoch_hash)
                peers = [peer for peer in names if peer != name]
                made.append((("self", slot, name, context), plan[0][0]))
                for peer, (key, _) in zip(peers, plan[1:], strict=True):
                    low, high = sorted((name, peer))
                    made.append((("pair", slot, low, high, context), key))
    return tuple(made)


def test_every_purpose_has_one_key_and_every_key_one_purpose() -> None:
    by_purpose: dict[Purpose, set[bytes]] = {}
    by_key: dict[bytes, set[Purpose]] = {}
    for purpose, key in derived():
        by_purpose.setdefault(purpose, set()).add(key)
        by_key.setdefault(key, set()).add(purpose)
    assert len(by_purpose) > 3000
    assert {len(keys) for keys in by_purpose.values()} == {1}
    assert {len(purposes) for purposes in by_key.values()} == {1}


def test_all_256_bits_of_the_keys_are_live() -> None:
    keys = {key for _, key in derived()}
    assert {len(key) for key in keys} == {32} and len(keys) > 3000
    values = [int.from_bytes(key, "big") for key in keys]
    some, every = 0, (1 << 256) - 1
    for value in values:
        some, every = some | value, every & value
    assert some == (1 << 256) - 1
    assert every == 0


def test_every_bit_is_set_in_half_of_the_keys_of_each_label() -> None:
    """Eight standard deviations: a label whose keys lean would stand out."""
    by_label: dict[object, list[int]] = {}
    for purpose, key in dict(derived()).items():
        by_label.setdefault(purpose[0], []).append(int.from_bytes(key, "big"))
    for label, values in by_label.items():
        spread = 8 * (len(values) / 4) ** 0.5
        for bit in range(256):
            count = sum(value >> bit & 1 for value in values)
            assert abs(count - len(values) / 2) <= spread, (label, bit)


def test_no_mask_key_is_shared_by_two_labels_slots_or_peers() -> None:
    """The same member in the same context: only what differs in purpose differs in key."""
    masks = {purpose: key for purpose, key in derived() if purpose[0] in ("self", "pair")}
    expected = SLOTS * len(CONTEXTS) * (MEMBERS + MEMBERS * (MEMBERS - 1) // 2)
    assert len(masks) == len(set(masks.values())) == expected
