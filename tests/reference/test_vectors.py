"""Known answers of secure aggregation: the reference makes them again, the product gives the same.

Planted faults that these tests caught: see `test_reference`; each of them also fails here, and so
does a seek to the wrong block of a far chunk.
"""

import json
from functools import cache
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.reference.vectors import DROPPED, LENGTH, MEMBERS, NAMES, PATH, SLOT, encoded, vector
from treaty.aggregation.masking import CHUNK_WORDS, mask_input, recompute_sum
from treaty.aggregation.quantization import RING_TYPES
from treaty.crypto import canonical, shamir
from treaty.crypto.derivation import extract
from treaty.crypto.key_agreement import combine
from treaty.crypto.prg import Keystream
from treaty.crypto.sealing import seal
from treaty.ids import Digest, MemberId
from treaty.protocol import secagg_keys as keys
from treaty.protocol.secagg_dealing import open_column, open_wrap
from treaty.protocol.secagg_messages import EpochKeys, RoundOpened, Survivor
from treaty.protocol.secagg_opening import unmask_plan

VECTORS: dict[str, Any] = json.loads(PATH.read_text(encoding="utf-8"))


def group(hybrid: bool = False) -> keys.Group:
    return keys.Group(
        charter=Digest(VECTORS["charter"]),
        coordinator=MemberId("hub"),
        members=tuple(MemberId(name) for name in NAMES),
        share_threshold=VECTORS["share_threshold"],
        min_survivors=3,
        max_colluders=1,
        suite="cesa1-x25519-mlkem768" if hybrid else "cesa1-x25519",
        slots_max=2,
    )


@cache
def seed_of(index: int) -> keys.EpochSeed:
    seed = bytes.fromhex(VECTORS["seeds"][str(index)])
    return keys.EpochSeed(seed, Digest(VECTORS["charter"]), VECTORS["epoch"], index)


def opened(bits: int) -> RoundOpened:
    fields = VECTORS["opening"] | {"ring_bits": bits, "epoch_hash": VECTORS["epoch_hash"]}
    return msgspec.convert(fields | {"charter": VECTORS["charter"], "author": "hub"}, RoundOpened)


def test_the_reference_makes_the_file_again() -> None:
    assert encoded() == PATH.read_text(encoding="utf-8")


@pytest.mark.parametrize("index", MEMBERS)
def test_keys_commitments_and_shares(index: int) -> None:
    row, own = VECTORS["keys"][str(index)], seed_of(index)
    assert own.transport_key().seed_bytes().hex() == row["transport_secret"]
    assert own.transport_key().public.hex() == row["transport"]
    assert canonical.sha256(own.encapsulation_key().public) == row["kem_sha256"]
    assert shamir.encode_element(own.round_seed(SLOT)).hex() == row["round_seed"]
    assert shamir.encode_element(own.self_seed(SLOT)).hex() == row["self_seed"]
    assert own.agreement_key(SLOT).seed_bytes().hex() == row["rsk"]
    assert own.agreement_key(SLOT).public.hex() == row["round_key"]
    assert own.commitment(SLOT) == row["commitment"]
    shares = own.deal(SLOT, VECTORS["share_threshold"], list(MEMBERS))
    for point, pair in VECTORS["shares"][str(index)].items():
        assert [shamir.encode_element(one[int(point)]).hex() for one in shares] == pair
    some = {int(at): int(pair[0], 16) for at, pair in VECTORS["shares"][str(index)].items()}
    assert shamir.combine(dict(list(some.items())[1:])) == int(row["round_seed"], 16)


def test_the_roster_and_the_context() -> None:
    made = keys.epoch_hash_of(Digest(VECTORS["charter"]), VECTORS["epoch"], VECTORS["key_digests"])
    assert made == VECTORS["epoch_hash"]
    assert keys.context_of(Digest(VECTORS["charter"]), opened(32)) == VECTORS["context"]


@pytest.mark.parametrize("hybrid", [False, True])
def test_a_column_opens(hybrid: bool) -> None:
    """Transport secret, share key, commitment and seal of one slot; two slots are complained of."""
    row, dealer, recipient = VECTORS["columns"], seed_of(1), seed_of(2)
    shared = recipient.transport_key().exchange(dealer.transport_key().public)
    head = b""
    if hybrid:
        head = bytes.fromhex(row["hybrid_ciphertext_1_to_2"])
        kem = recipient.encapsulation_key()
        shared = combine(
            shared,
            kem.decapsulate(head),
            ciphertext=head,
            kem_public=kem.public,
            public_low=dealer.transport_key().public,
            public_high=recipient.transport_key().public,
        )
    name = "hybrid_transport_1_to_2" if hybrid else "transport_1_to_2"
    transport = extract(bytes.fromhex(VECTORS["epoch_hash"]), shared)
    assert transport.hex() == row[name]
    sealed = bytes.fromhex(row["hybrid_sealed_1_to_2" if hybrid else "sealed_1_to_2"])
    key = keys.share_key(transport, 1, 2, SLOT)
    assert hybrid or key.hex() == row["share_key_1_to_2"]
    assert keys.key_commitment(key) == sealed[:32]
    peers = msgspec.convert(
        {
            "charter": VECTORS["charter"],
            "author": NAMES[0],
            "epoch": VECTORS["epoch"],
            "opened": VECTORS["charter"],
            "transport": VECTORS["keys"]["1"]["transport"],
            "kem": None,
            "round_keys": [],
            "commitments": [],
        },
        EpochKeys,
    )
    # The vectors have slot 1; in the place of slot 0 it must not open.
    found = open_column(
        group(hybrid),
        NAMES[1],
        NAMES[0],
        recipient,
        peers,
        VECTORS["epoch_hash"],
        2,
        head + sealed * 2,
    )
    assert getattr(found, "slot", None) == 0
    plain = "".join(VECTORS["shares"]["1"]["2"])
    context = keys.share_context(VECTORS["epoch_hash"], 1, 2, SLOT)
    assert seal(key, bytes.fromhex(plain), context) == sealed[32:]


def test_post_quantum_keys_of_pairs() -> None:
    row, columns = VECTORS["post_quantum"], VECTORS["columns"]
    lower = bytes.fromhex(columns["hybrid_transport_1_to_2"])
    higher = bytes.fromhex(columns["hybrid_transport_2_to_1"])
    assert keys.pair_seed(lower, higher, SLOT).hex() == row["pair_seed_1_2"] == row["row_of_1"][0]
    made = keys.pair_commitment(VECTORS["epoch_hash"], 1, SLOT, row["row_of_1"])
    assert made == row["commitment_of_1"]
    wraps = bytes(len(row["wrap_of_1"]) // 2) + bytes.fromhex(row["wrap_of_1"])
    found = open_wrap(
        group(True), NAMES[0], VECTORS["epoch_hash"], SLOT, 3, seed_of(1).round_seed(SLOT), wraps
    )
    assert list(found) == row["row_of_1"]


def plan_of(index: int, hybrid: bool) -> Any:
    row = VECTORS["keys"]
    seeds = {}
    if hybrid:
        # Only member 1's row is in the vectors; the others' plans are checked through the sum.
        seeds = dict(
            zip(
                [n for n in NAMES if n != NAMES[0]],
                VECTORS["post_quantum"]["row_of_1"],
                strict=True,
            )
        )
    secrets = keys.SlotSecrets(
        slot=SLOT,
        self_seed=row[str(index)]["self_seed"],
        agreement=row[str(index)]["rsk"],
        self_shares={},
        round_shares={},
        peers={NAMES[j - 1]: row[str(j)]["round_key"] for j in MEMBERS if j != index},
        pair_seeds=seeds,
    )
    name = NAMES[index - 1]
    return keys.mask_plan(
        group(hybrid), name, NAMES, secrets, VECTORS["context"], VECTORS["epoch_hash"]
    )


def test_mask_keys() -> None:
    own, pair, *_ = plan_of(1, False)
    assert (own[0].hex(), own[1]) == (VECTORS["self_key_1"], 1)
    assert (pair[0].hex(), pair[1]) == (VECTORS["pair_key_1_2"], 1)
    other = plan_of(2, False)[1]
    assert (other[0].hex(), other[1]) == (VECTORS["pair_key_2_1"], -1)
    assert VECTORS["pair_key_1_2"] == VECTORS["pair_key_2_1"]
    assert plan_of(1, True)[1][0].hex() == VECTORS["hybrid_pair_key_1_2"]


@pytest.mark.parametrize("name", VECTORS["rounds"])
def test_masked_vectors_roots_and_the_sum_across_a_chunk_border(name: str) -> None:
    row = VECTORS["rounds"][name]
    bits, hybrid = row["ring_bits"], row["suite"] == "hybrid"
    masked = {}
    for index in (1,) if hybrid else MEMBERS:
        words = np.array(vector(index, bits), RING_TYPES[bits])
        root = mask_input(words, plan_of(index, hybrid), bits)
        assert root == row["roots"][str(index)]
        assert [int(word) for word in words[-4:]] == row["masked_words_65534_to_65537"][str(index)]
        assert canonical.sha256(words.tobytes()) == row["blobs"][str(index)]
        halves = (words[:CHUNK_WORDS], words[CHUNK_WORDS:])
        hashes = [canonical.sha256(part.tobytes()) for part in halves]
        assert hashes == row["chunk_hashes"][str(index)]
        masked[index] = words
    inside = [index for index in MEMBERS if index != DROPPED]
    survivors = [
        Survivor(member=NAMES[i - 1], header="0" * 64, root=row["roots"][str(i)]) for i in inside
    ]
    made = keys.survivors_digest(VECTORS["context"], survivors, group())
    assert made == row["survivors_digest"]
    if hybrid:
        return
    names = [NAMES[i - 1] for i in inside]
    plan = unmask_plan(
        group(),
        opened(32),
        VECTORS["epoch"],
        names,
        {NAMES[i - 1]: VECTORS["keys"][str(i)]["self_seed"] for i in inside},
        {NAMES[DROPPED - 1]: VECTORS["keys"][str(DROPPED)]["round_seed"]},
        {NAMES[i - 1]: VECTORS["keys"][str(i)]["round_key"] for i in inside},
        {},
    )
    total = recompute_sum([masked[i] for i in inside], plan, bits)
    assert canonical.sha256(total.tobytes()) == row["sum"]
    plain = [sum(vector(i, bits)[t] for i in inside) % 2**bits for t in (0, 1, LENGTH - 1)]
    assert [int(total[t]) for t in (0, 1, LENGTH - 1)] == plain


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_the_keystream_is_found_anywhere(bits: int) -> None:
    key, width = bytes.fromhex(VECTORS["keystream"]["key"]), bits // 8
    for at, words in VECTORS["keystream"]["words"][str(bits)].items():
        block, skip = divmod(int(at) * width, 16)
        data = Keystream(key, block).take(skip + 3 * width)[skip:]
        assert [int(one) for one in np.frombuffer(data, RING_TYPES[bits])] == words
