"""Dealing: the sealed columns by which members give each other shares, and their opening.

A column is what one dealer sends one recipient: in the hybrid suite an ML-KEM ciphertext, then for
each slot a commitment to the share key and the two sealed shares (docs/spec/secagg.md, 5.4).
Guarantees:
  * Dealing with the same secrets to the same roster gives the same bytes (classical suite).
  * A column that is not exactly what its dealer should have made is found when it is opened, and
    one share key shows to everybody who is at fault.

Every share key seals one message: it is derived from the roster's hash, dealer, recipient and
slot. Pure functions; the machines decide when they run.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from treaty.crypto import key_agreement
from treaty.crypto.canonical import sha256
from treaty.crypto.derivation import extract
from treaty.crypto.key_agreement import KEM_CIPHERTEXT_BYTES
from treaty.crypto.sealing import TAG_BYTES, open_sealed, seal
from treaty.crypto.shamir import ELEMENT_BYTES, decode_element, encode_element
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.protocol.secagg_keys import (
    EpochSeed,
    Group,
    SlotSecrets,
    key_commitment,
    pair_commitment,
    pair_seeds,
    share_context,
    share_contexts,
    share_keys,
    wrap_context,
    wrap_key,
)
from treaty.protocol.secagg_messages import EpochKeys, EpochReady

__all__ = [
    "SHARE_BYTES",
    "BadShare",
    "Dealt",
    "Opened",
    "column_bytes",
    "complaint_holds",
    "deal",
    "open_column",
    "open_wrap",
    "ready_statement",
    "seal_wraps",
    "slot_secrets",
]

SHARE_BYTES = 32 + 2 * ELEMENT_BYTES + TAG_BYTES
"""Of one slot in a column: commitment to the share key, sealed shares of both seeds."""


@dataclass(frozen=True, slots=True)
class Dealt:
    """What a dealer made: a column for each peer, and the transport secrets behind them."""

    columns: Mapping[str, bytes]
    outgoing: Mapping[str, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a column held: for each slot, hex of the shares of round seed and self seed.

    `transport` is the secret that the dealer chose for this recipient.
    """

    shares: tuple[tuple[str, str], ...] = field(repr=False)
    transport: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class BadShare:
    """The slot whose share does not open, and the key that proves it."""

    slot: int
    key: bytes = field(repr=False)


def deal(
    group: Group,
    me: str,
    secrets: EpochSeed,
    peers: Mapping[str, EpochKeys],
    epoch_hash: str,
    slots: int,
    threshold: int,
) -> Dealt:
    """Return the columns for the holders of this member's shares: `peers` but `me`."""
    index = group.index(me)
    points = [group.index(name) for name in peers]
    dealt = [secrets.deal(slot, threshold, points) for slot in range(slots)]
    transport = secrets.transport_key()
    columns: dict[str, bytes] = {}
    outgoing: dict[str, bytes] = {}
    for name, keys in peers.items():
        if name == me:
            continue
        other = group.index(name)
        shared, ciphertext = transport.exchange(bytes.fromhex(keys.transport)), b""
        if keys.kem is not None:
            kem = bytes.fromhex(keys.kem)
            post_quantum, ciphertext = key_agreement.encapsulate(kem)
            shared = _hybrid(
                shared, post_quantum, ciphertext, kem, transport.public, keys, index < other
            )
        secret = extract(bytes.fromhex(epoch_hash), shared)
        parts = [ciphertext]
        key_of = share_keys(secret, index, other)
        context_of = share_contexts(epoch_hash, index, other)
        for slot, (round_shares, self_shares) in enumerate(dealt):
            key = key_of(slot)
            plain = encode_element(round_shares[other]) + encode_element(self_shares[other])
            parts.append(key_commitment(key))
            parts.append(seal(key, plain, context_of(slot)))
        columns[name] = b"".join(parts)
        outgoing[name] = secret
    return Dealt(columns, outgoing)


def open_column(
    group: Group,
    me: str,
    dealer: str,
    secrets: EpochSeed,
    keys: EpochKeys,
    epoch_hash: str,
    slots: int,
    column: bytes,
) -> Opened | BadShare:
    """Return the shares in `column`, or the first share that is not as it should be.

    `keys` are the dealer's. A column of the wrong size counts against its slot 0.
    """
    index, other = group.index(dealer), group.index(me)
    transport = secrets.transport_key()
    shared, rest = transport.exchange(bytes.fromhex(keys.transport)), column
    if group.hybrid:
        ciphertext, rest = column[:KEM_CIPHERTEXT_BYTES], column[KEM_CIPHERTEXT_BYTES:]
        if len(ciphertext) == KEM_CIPHERTEXT_BYTES:
            kem = secrets.encapsulation_key()
            shared = _hybrid(
                shared,
                kem.decapsulate(ciphertext),
                ciphertext,
                kem.public,
                transport.public,
                keys,
                other < index,
            )
    secret = extract(bytes.fromhex(epoch_hash), shared)
    shares: list[tuple[str, str]] = []
    key_of = share_keys(secret, index, other)
    context_of = share_contexts(epoch_hash, index, other)
    for slot in range(slots):
        key = key_of(slot)
        part = rest[slot * SHARE_BYTES : (slot + 1) * SHARE_BYTES]
        pair = _opened_share(key, part, context_of(slot))
        if pair is None or len(rest) != slots * SHARE_BYTES:
            return BadShare(slot, key)
        shares.append(pair)
    return Opened(tuple(shares), secret)


def column_bytes(group: Group, slots: int) -> int:
    """Return the size of a dealer's column for one holder, in an epoch of `slots` slots."""
    return (KEM_CIPHERTEXT_BYTES if group.hybrid else 0) + slots * SHARE_BYTES


def complaint_holds(
    group: Group,
    epoch_hash: str,
    dealer: str,
    recipient: str,
    slot: int,
    key: bytes,
    column: bytes,
    slots: int,
) -> bool | None:
    """Judge a complaint: True, the dealer is at fault; False, the complainer; None, one of both.

    `column` is the blob whose digest the dealer signed. The dealer committed to every share key
    in it, so the right key either opens the share in front of everyone or does not.
    """
    size, head = column_bytes(group, slots), KEM_CIPHERTEXT_BYTES if group.hybrid else 0
    if len(column) != size or not 0 <= slot < slots:
        return len(column) != size
    part = column[head + slot * SHARE_BYTES : head + (slot + 1) * SHARE_BYTES]
    if key_commitment(key) != part[:32]:
        return None
    context = share_context(epoch_hash, group.index(dealer), group.index(recipient), slot)
    return _opened_share(key, part, context) is None


def slot_secrets(
    group: Group,
    me: str,
    secrets: EpochSeed,
    partners: Mapping[str, EpochKeys],
    holders: Collection[str],
    slots: int,
    threshold: int,
    opened: Mapping[str, Opened],
    outgoing: Mapping[str, bytes],
) -> tuple[SlotSecrets, ...]:
    """Return what the member keeps for each slot.

    `partners` are the members that it shares masks with, `holders` those that it dealt to, itself
    among them, `opened` what the columns held that it got; `outgoing` is, in the hybrid suite,
    the transport secret for each holder. Raises `UsageError` when one of those is missing.
    """
    index = group.index(me)
    pairs: dict[str, tuple[bytes, ...]] = {}
    for name in partners if group.hybrid else ():
        if name in holders and name not in outgoing:
            raise UsageError(f"the transport secret for {name} was not kept")
        sent = outgoing.get(name, b"")
        got = opened[name].transport if name in opened else b""
        lower = index < group.index(name)
        pairs[name] = pair_seeds(*((sent, got) if lower else (got, sent)), range(slots))
    kept: list[SlotSecrets] = []
    for slot in range(slots):
        round_own, self_own = secrets.own_shares(slot, threshold)
        round_shares = {name: one.shares[slot][0] for name, one in opened.items()}
        self_shares = {name: one.shares[slot][1] for name, one in opened.items()}
        kept.append(
            SlotSecrets(
                slot=slot,
                self_seed=encode_element(secrets.self_seed(slot)).hex(),
                agreement=secrets.agreement_key(slot).seed_bytes().hex(),
                self_shares={**self_shares, me: encode_element(self_own).hex()},
                round_shares={**round_shares, me: encode_element(round_own).hex()},
                peers={name: keys.round_keys[slot] for name, keys in partners.items()},
                pair_seeds={name: seeds[slot].hex() for name, seeds in pairs.items()},
            )
        )
    return tuple(kept)


def seal_wraps(
    group: Group, me: str, secrets: EpochSeed, epoch_hash: str, pair_seeds: Sequence[Sequence[str]]
) -> bytes:
    """Return, slot by slot, the member's post-quantum keys sealed under its own round seed.

    Whoever rebuilds the round seed of a dropped member from enough shares can open them.
    """
    index = group.index(me)
    return b"".join(
        seal(
            wrap_key(secrets.round_seed(slot), slot),
            bytes.fromhex("".join(seeds)),
            wrap_context(epoch_hash, index, slot),
        )
        for slot, seeds in enumerate(pair_seeds)
    )


def ready_statement(
    group: Group,
    me: str,
    secrets: EpochSeed,
    epoch_hash: str,
    partners: Sequence[str],
    slots: Sequence[SlotSecrets],
) -> tuple[EpochReady, tuple[bytes, ...]]:
    """Return the statement that the columns are open, and the blob that it names, if any.

    `partners` are the dealers that the member shares masks with, in order.
    """
    commitments: tuple[str, ...] = ()
    blobs: tuple[bytes, ...] = ()
    if group.hybrid:
        # A dealer without a usable column is no partner of any round; zeros keep its place.
        lists = [[one.pair_seeds.get(name, "0" * 64) for name in partners] for one in slots]
        commitments = tuple(
            pair_commitment(epoch_hash, group.index(me), slot, seeds)
            for slot, seeds in enumerate(lists)
        )
        blobs = (seal_wraps(group, me, secrets, epoch_hash, lists),)
    ready = EpochReady(
        charter=group.charter,
        author=me,
        epoch_hash=epoch_hash,
        pair_commitments=commitments,
        wraps=sha256(blobs[0]) if blobs else None,
    )
    return ready, blobs


def open_wrap(
    group: Group, name: str, epoch_hash: str, slot: int, peers: int, round_seed: int, wraps: bytes
) -> tuple[str, ...]:
    """Return the post-quantum keys of `name` for `slot`, hex, one for each of `peers` peers.

    Raises `FormatError` or `VerificationError` when the blob does not hold them.
    """
    size = 32 * peers + TAG_BYTES
    part = wraps[slot * size : (slot + 1) * size]
    plain = open_sealed(
        wrap_key(round_seed, slot), part, wrap_context(epoch_hash, group.index(name), slot)
    )
    if len(plain) != 32 * peers:
        raise FormatError(f"expected {peers} post-quantum keys of {name}")
    return tuple(plain[at : at + 32].hex() for at in range(0, len(plain), 32))


def _opened_share(key: bytes, part: bytes, context: bytes) -> tuple[str, str] | None:
    """Both shares of one slot, or None if the commitment, the seal or a share does not hold."""
    if len(part) != SHARE_BYTES or part[:32] != key_commitment(key):
        return None
    try:
        plain = open_sealed(key, part[32:], context)
        for half in (plain[:ELEMENT_BYTES], plain[ELEMENT_BYTES:]):
            decode_element(half)
    except (VerificationError, FormatError):
        return None
    return plain[:ELEMENT_BYTES].hex(), plain[ELEMENT_BYTES:].hex()


def _hybrid(
    classical: bytes,
    post_quantum: bytes,
    ciphertext: bytes,
    kem_public: bytes,
    mine: bytes,
    peer: EpochKeys,
    mine_is_lower: bool,
) -> bytes:
    theirs = bytes.fromhex(peer.transport)
    low, high = (mine, theirs) if mine_is_lower else (theirs, mine)
    return key_agreement.combine(
        classical,
        post_quantum,
        ciphertext=ciphertext,
        kem_public=kem_public,
        public_low=low,
        public_high=high,
    )
