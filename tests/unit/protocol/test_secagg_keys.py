"""The key schedule against a second implementation, and the entropy of what it derives.

The reference uses hmac and hashlib alone. Planted faults that these tests caught: a field left out
of the context; a label shared by two values; an integer of other width; the pair key without
the order of indexes; one seed for two slots; a stream that begins anew where what was made ahead
ends; fewer wrapped keys than peers taken; a pair's key made without what was sent to the peer.
"""

import hashlib
import hmac
import struct

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tests.unit.protocol.secagg_rig import (
    dealt,
    expected_of,
    group_of,
    open_round,
    ready,
    send_inputs,
    tag,
)
from treaty.crypto import shamir
from treaty.crypto.prg import Keystream
from treaty.crypto.sealing import seal
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.governance.quorum import DerivedParameters
from treaty.ids import Digest
from treaty.protocol.secagg_dealing import open_wrap, slot_secrets
from treaty.protocol.secagg_keys import (
    EpochSeed,
    SlotSecrets,
    context_of,
    survivors_digest,
    wrap_context,
    wrap_key,
)
from treaty.protocol.secagg_messages import Survivor


def enc(*fields: bytes | str | int) -> bytes:
    out = b""
    for field in fields:
        if isinstance(field, int):
            data = struct.pack(">Q", field)
        else:
            data = field.encode() if isinstance(field, str) else field
        out += struct.pack(">I", len(data)) + data
    return out


def kdf(key: bytes, label: str, *fields: bytes | str | int) -> bytes:
    return hmac.new(key, enc("cesa/1", label, *fields) + b"\x01", hashlib.sha256).digest()


@pytest.mark.parametrize("hybrid", [False, True])
def test_the_masks_of_an_input_are_those_of_the_specification(hybrid: bool) -> None:
    federation = ready(dealt(group_of(4, hybrid=hybrid)))
    turn = open_round(federation, expected_of())
    ask = turn.opened.predicate
    context = hashlib.sha256(
        enc(
            "cesa/1",
            "round",
            bytes.fromhex(ask.charter),
            bytes.fromhex(ask.epoch_hash),
            ask.slot,
            ask.round,
            ask.attempt,
            enc(*ask.participants),
            bytes.fromhex(ask.plan),
            bytes.fromhex(ask.query),
            bytes.fromhex(ask.code),
            bytes.fromhex(ask.model),
            ask.length,
            ask.ring_bits,
            bytes.fromhex(ask.previous),
        )
    ).digest()
    assert context_of(federation.group.charter, ask) == context.hex()
    node = turn.node("m02")
    need = node.begin(turn.opened, turn.expected)
    secret = msgspec.json.decode(node.slot_secret or b"")
    self_seed = bytes.fromhex(secret["self_seed"])
    expected = [(kdf(self_seed, "self", context), 1)]
    mine = X25519PrivateKey.from_private_bytes(bytes.fromhex(secret["agreement"]))
    for index in (1, 3, 4):
        peer = bytes.fromhex(federation.hub.peers[f"m0{index}"].round_keys[0])
        shared = mine.exchange(X25519PublicKey.from_public_bytes(peer))
        if hybrid:
            shared = enc(shared, bytes.fromhex(secret["pair_seeds"][f"m0{index}"]))
        root = hmac.new(bytes.fromhex(ask.epoch_hash), shared, hashlib.sha256).digest()
        key = kdf(root, "pair", context, min(2, index), max(2, index))
        expected.append((key, 1 if index > 2 else -1))
    assert list(need.plan) == expected


def test_published_keys_and_commitments_are_those_of_the_specification() -> None:
    charter = bytes.fromhex(tag("c"))
    seed = EpochSeed(bytes(range(32)), tag("c"), 7, 3)
    z, u = seed.self_seed(5).to_bytes(32, "big"), seed.round_seed(5).to_bytes(32, "big")
    label = enc("cesa/1", "com", charter, 7, 3, 5, z)
    assert seed.commitment(5) == hashlib.sha256(label).hexdigest()
    private = X25519PrivateKey.from_private_bytes(kdf(u, "rsk", charter, 7, 3, 5))
    assert seed.agreement_key(5).public == private.public_key().public_bytes_raw()


def test_both_ends_of_a_pair_derive_one_key_and_opposite_signs() -> None:
    federation = ready(dealt(group_of(5, hybrid=True)))
    turn = open_round(federation, expected_of())
    masks: dict[bytes, list[int]] = {}
    for name in turn.opened.predicate.participants:
        for key, sign in turn.node(name).begin(turn.opened, turn.expected).plan:
            masks.setdefault(key, []).append(sign)
    assert sorted(map(sorted, masks.values())) == [[-1, 1]] * 10 + [[1]] * 5


CONTEXT_FIELDS = {
    "epoch_hash": tag("x"),
    "slot": 1,
    "round": 1,
    "attempt": 1,
    "participants": ("m01", "m02", "m03"),
    "plan": tag("x"),
    "query": tag("x"),
    "code": tag("x"),
    "model": tag("x"),
    "length": 6,
    "ring_bits": 32,
    "previous": tag("x"),
}


def test_every_field_of_the_opening_changes_the_context() -> None:
    federation = ready(dealt(group_of(4)))
    ask = open_round(federation, expected_of()).opened.predicate
    assert set(CONTEXT_FIELDS) == set(ask.__struct_fields__) - {"charter", "author"}
    seen = {context_of(federation.group.charter, ask), context_of(tag("other"), ask)}
    for name, value in CONTEXT_FIELDS.items():
        other = msgspec.structs.replace(ask, **{name: value})
        seen.add(context_of(federation.group.charter, other))
    assert len(seen) == 2 + len(CONTEXT_FIELDS)


def test_the_survivors_digest_binds_context_members_and_roots() -> None:
    group = group_of(4)
    one = Survivor(member="m01", header=tag("h"), root=tag("r"))
    base = survivors_digest(tag("c"), [one], group)
    assert (
        survivors_digest(tag("c"), [msgspec.structs.replace(one, header=tag("i"))], group) == base
    )
    others = {
        survivors_digest(tag("d"), [one], group),
        survivors_digest(tag("c"), [msgspec.structs.replace(one, root=tag("s"))], group),
        survivors_digest(tag("c"), [msgspec.structs.replace(one, member="m02")], group),
        survivors_digest(tag("c"), [one, one], group),
    }
    assert len(others | {base}) == 5


def test_derived_keys_have_256_live_bits_and_never_repeat() -> None:
    """Over slots, epochs, members and purposes; a truncated seed would freeze bits."""
    values: list[int] = []
    for epoch in range(8):
        for index in range(1, 6):
            seed = EpochSeed(
                hashlib.sha256(b"%d %d" % (epoch, index)).digest(), tag("c"), epoch, index
            )
            for slot in range(16):
                values += [
                    seed.self_seed(slot),
                    seed.round_seed(slot),
                    int.from_bytes(seed.agreement_key(slot).seed_bytes(), "big"),
                    int(seed.commitment(slot), 16),
                    *seed.deal(slot, 2, [1, 2])[0].values(),
                ]
    assert len(values) > 3000 and len(set(values)) == len(values)
    some, every = 0, (1 << 256) - 1
    for value in values:
        some, every = some | value, every & value
    assert some == (1 << 256) - 1 and every == 0


def test_one_seed_gives_other_keys_to_others() -> None:
    seed = bytes(32)
    keys = {
        EpochSeed(seed, charter, epoch, index).round_seed(slot)
        for charter in (tag("a"), tag("b"))
        for epoch in (1, 2)
        for index in (1, 2)
        for slot in (0, 1)
    }
    assert len(keys) == 16
    assert repr(EpochSeed(seed, tag("a"), 1, 1)) == "EpochSeed"


@pytest.mark.parametrize(("members", "colluders"), [(3, 1), (4, 1), (5, 1), (10, 3), (25, 8)])
def test_a_group_has_the_thresholds_of_the_charter(members: int, colluders: int) -> None:
    derived = DerivedParameters(members, colluders)
    group = group_of(members, colluders)
    assert group.share_threshold == derived.share_threshold
    assert group.min_survivors == derived.min_survivors
    assert group.min_honest == derived.min_honest


def test_slot_secrets_show_only_their_type() -> None:
    federation = ready(dealt(group_of(3)))
    data = federation.nodes["m01"].disk.secrets["epoch-000001-slot-0000"]
    assert repr(msgspec.json.decode(data, type=SlotSecrets)) == "SlotSecrets"


def test_a_masked_vector_tells_nothing_about_its_input() -> None:
    """Bits of one masked vector of zeros are balanced within six standard deviations."""
    federation = ready(dealt(group_of(3)))
    turn = send_inputs(open_round(federation, expected_of(length=4096)))
    for header in turn.headers.values():
        blob = turn.node(header.predicate.author).disk.blobs[header.predicate.blob]
        ones = sum(byte.bit_count() for byte in blob)
        assert abs(ones - 4 * len(blob)) < 6 * (2 * len(blob)) ** 0.5


def test_a_polynomial_of_many_coefficients_comes_from_one_stream() -> None:
    """Whether what is made of a stream ahead suffices for it or not."""
    charter = "ab" * 32
    for threshold in (2, 8, 9, 10, 17, 30):
        key = kdf(bytes(32), "epoch-self-deal", bytes.fromhex(charter), 3, 1, 5)
        seed = EpochSeed(bytes(32), Digest(charter), 3, 1)
        points = range(1, threshold + 1)
        wanted = shamir.deal(seed.self_seed(5), threshold, points, Keystream(key).take)
        assert seed.deal(5, threshold, points)[1] == wanted
        assert seed.own_shares(5, threshold)[1] == wanted[1]
        assert EpochSeed(bytes(32), Digest(charter), 3, 1).own_shares(5, threshold)[1] == wanted[1]


def test_own_shares_are_those_of_the_threshold_asked_for_whatever_was_dealt_before() -> None:
    """Two at once: a shorter polynomial, and a dealing that leaves the member's own point out."""
    seed, other = (EpochSeed(bytes(32), tag("c"), 3, 2) for _ in range(2))
    seed.deal(0, 2, (1, 2, 3))
    seed.deal(1, 3, (1, 3, 4))
    seed.deal(3, 3, (1, 2, 4))
    for slot, threshold in ((0, 2), (0, 3), (1, 3), (2, 2), (3, 2), (3, 3)):
        assert seed.own_shares(slot, threshold) == other.own_shares(slot, threshold)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_seed_of_another_length_is_no_seed(length: int) -> None:
    """Shorter entropy, or what is longer than anyone meant, never becomes an epoch's secrets."""
    with pytest.raises(UsageError, match=f"32 bytes, got {length}"):
        EpochSeed(bytes(length), tag("a"), 1, 1)


@pytest.mark.parametrize("keys", [0, 1, 3])
def test_wrapped_keys_of_another_number_than_the_peers_are_not_taken(keys: int) -> None:
    """Who sealed fewer and committed to them would have the sum refused by everybody."""
    group, seed, epoch = group_of(4, hybrid=True), 7, tag("epoch")
    plain = bytes(range(32)) * keys
    part = seal(wrap_key(seed, 0), plain, wrap_context(epoch, group.index("m02"), 0))
    with pytest.raises((FormatError, VerificationError)):
        open_wrap(group, "m02", epoch, 0, 2, seed, part)
    if keys == 1:
        assert open_wrap(group, "m02", epoch, 0, 1, seed, part) == (bytes(range(32)).hex(),)


def test_a_transport_secret_that_was_not_kept_is_not_left_out_of_a_mask() -> None:
    """Both halves of a post-quantum key enter it, or none is made."""
    group = group_of(3, hybrid=True)
    with pytest.raises(UsageError, match="the transport secret for m02 was not kept"):
        slot_secrets(
            group,
            "m01",
            EpochSeed(bytes(32), group.charter, 1, 0),
            {"m02": None},  # type: ignore[dict-item]  # not looked at
            ("m01", "m02"),
            1,
            2,
            {},
            {},
        )
