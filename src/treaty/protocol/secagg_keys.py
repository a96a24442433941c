"""Keys of secure aggregation: who counts, what every key is derived from, what opens a sum.

Guarantees (docs/spec/secagg.md, sections 5 to 7):
  * Every key is bound to the charter, the epoch's roster and, through the context, to plan,
    query, code, model, participants and the result before it. Two members that were shown anything
    different derive masks that do not cancel.
  * All secrets of an epoch come from one 32-byte seed, so that dealing can be repeated byte for
    byte after a crash; the seed is erased as soon as the slot secrets stand apart.

Members are numbered from 1 in the charter's order; the number is the point at which a
member's shares are evaluated. Seeds are elements of the field of `treaty.crypto.shamir`,
32 bytes big-endian. Nothing here draws entropy or keeps state.
"""

import hmac
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from treaty.aggregation.masking import MaskPlan
from treaty.crypto import shamir
from treaty.crypto.canonical import Count, MemberName, Record
from treaty.crypto.derivation import enc, extract, kdf, kdf_series, labelled_hash
from treaty.crypto.key_agreement import AgreementKey, EncapsulationKey
from treaty.crypto.prg import Keystream
from treaty.errors import UsageError, VerificationError
from treaty.governance.charter import Charter, charter_digest
from treaty.ids import Digest, MemberId
from treaty.privacy.certificate import Cohort
from treaty.protocol.secagg_degree import COMPLETE_UP_TO, Degree, degree_of
from treaty.protocol.secagg_messages import (
    HYBRID_SUITE,
    Hex32,
    RoundOpened,
    Suite,
    Survivor,
)

__all__ = [
    "NO_RESULT",
    "EpochSeed",
    "Group",
    "SlotSecrets",
    "agreement_key",
    "context_of",
    "epoch_hash_of",
    "key_commitment",
    "mask_plan",
    "pair_commitment",
    "pair_key",
    "pair_seed",
    "pair_seeds",
    "self_commitment",
    "share_context",
    "share_contexts",
    "share_key",
    "share_keys",
    "survivors_digest",
    "wrap_context",
    "wrap_key",
]

NO_RESULT: Final = Digest("0" * 64)
"""`previous` of a study's first round."""


@dataclass(frozen=True, slots=True)
class Group:
    """The unsuspended members of one charter version and the thresholds that follow.

    `share_threshold` members confirm a set of survivors, and in a small group as many shares open
    a seed; a sum over fewer than `min_survivors` is never opened; up to `max_colluders` members may
    collude with the coordinator. `profile` forces the graph of a large group on a small one, for
    tests: `of`, by which every party makes its group, never sets it.
    """

    charter: Digest
    coordinator: MemberId
    members: tuple[MemberId, ...]
    share_threshold: int
    min_survivors: int
    max_colluders: int
    suite: Suite
    slots_max: int
    profile: Degree | None = None
    _indexes: Mapping[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        indexes = {name: place for place, name in enumerate(self.members, start=1)}
        object.__setattr__(self, "_indexes", indexes)
        size = len(self.members)
        # Both kinds of shares of one secret would need more honest members than there are
        # (spec 7.1), and a sum over one honest member would show its input.
        if 2 * self.share_threshold <= size + self.max_colluders or self.min_survivors < max(
            self.share_threshold, self.max_colluders + 2
        ):
            raise UsageError("thresholds of a group must be those that the charter derives")

    @staticmethod
    def of(charter: Charter) -> "Group":
        """Return the group of `charter`; `PolicyError` when no safe thresholds exist."""
        derived = charter.parameters()
        policy = charter.secure_aggregation
        return Group(
            charter=charter_digest(charter),
            coordinator=MemberId(charter.coordinator.name),
            members=charter.active_members(),
            share_threshold=derived.share_threshold,
            min_survivors=derived.min_survivors,
            max_colluders=derived.max_colluders,
            suite=policy.suite,
            slots_max=policy.slots_per_epoch_max,
        )

    @property
    def hybrid(self) -> bool:
        """Say whether pairwise keys also need ML-KEM-768."""
        return self.suite == HYBRID_SUITE

    @property
    def min_honest(self) -> int:
        """Return the least number of honest inputs in an opened sum."""
        return self.min_survivors - self.max_colluders

    @property
    def cohort(self) -> Cohort:
        """Return the group as certificates count it: a share of noise follows from it."""
        return Cohort(len(self.members), self.min_survivors, self.max_colluders)

    @property
    def large(self) -> bool:
        """Say whether members commit to a choice of holders (`secagg_graph`)."""
        return self.profile is not None or len(self.members) > COMPLETE_UP_TO

    def degree(self, roster: int) -> Degree | None:
        """Return the graph's degree in an epoch of `roster` members; None: the complete graph."""
        if self.profile is not None or not self.large:
            return self.profile
        return degree_of(roster, self.max_colluders, self.min_survivors)

    def index(self, member: str) -> int:
        """Return the member's number, from 1; `VerificationError` (code ``not-a-member``)."""
        place = self._indexes.get(member)
        if place is None:
            raise VerificationError(f"{member} is not a member now", code="not-a-member")
        return place

    def check_order(self, names: Sequence[str], what: str) -> None:
        """Raise `VerificationError` unless `names` are members, each once, in charter order."""
        indexes = [self.index(name) for name in names]
        if any(after <= before for before, after in pairwise(indexes)):
            raise VerificationError(
                f"expected {what} in the charter's order, each once", code="member-order"
            )

    def fast_survivors(self, participants: int, *, surplus: bool = False) -> int:
        """Return u_fast: from so many survivors on, a reveal needs no confirmation round.

        The smallest u with (n-c) - floor((n-c)(n-u)/(t-c)) >= min_honest for n participants: even
        if the coordinator shows every member another set of u or more, it opens no sum over fewer
        than min_honest honest inputs (spec 7.4).

        With `surplus`, where answers open keys of noise, members that were shown different sets
        would take off different parts, and together more than may come off. They answer at once
        only where at most one participant can be missing and all who answer must agree who
        (docs/spec/privacy.md, 9.16).
        """
        if surplus and self.share_threshold < participants - 1:
            return participants + 1
        honest = participants - self.max_colluders
        for survivors in range(self.min_survivors, participants + 1):
            lost = (
                honest * (participants - survivors) // (self.share_threshold - self.max_colluders)
            )
            if honest - lost >= self.min_honest:
                return survivors
        return participants + 1


class SlotSecrets(Record):
    """What a member keeps for one slot, outside the database; erased when it has answered.

    `self_seed` and `agreement` are the member's own; shares and peers' round keys are by name,
    the member's own shares among them. `pair_seeds` are post-quantum keys, by peer.
    """

    slot: Count
    self_seed: Hex32
    agreement: Hex32
    self_shares: dict[MemberName, Hex32]
    round_shares: dict[MemberName, Hex32]
    peers: dict[MemberName, Hex32]
    pair_seeds: dict[MemberName, Hex32]

    def __repr__(self) -> str:
        """Show nothing but the type."""
        return "SlotSecrets"


class EpochSeed:
    """All of a member's secrets for one epoch, derived from one fresh 32-byte seed.

    `repr` shows nothing but the type. The same seed, charter, epoch and member give the same keys;
    what was derived once is kept as long as this object: at most until the epoch is ready, as long
    as the seed itself stands in a file.
    """

    __slots__ = (
        "_charter",
        "_elements",
        "_epoch",
        "_index",
        "_kem",
        "_own",
        "_seed",
        "_series",
        "_transport",
    )

    def __init__(self, seed: bytes, charter: Digest, epoch: int, index: int) -> None:
        if len(seed) != 32:
            raise UsageError(f"expected an epoch seed of 32 bytes, got {len(seed)}")
        self._seed = seed
        self._charter = bytes.fromhex(charter)
        self._epoch = epoch
        self._index = index
        self._transport: AgreementKey | None = None
        self._kem: EncapsulationKey | None = None
        self._elements: dict[tuple[str, int], int] = {}
        self._own: dict[tuple[int, int], tuple[int, int]] = {}
        self._series: dict[str, Callable[[int], bytes]] = {}

    def is_of(self, seed: bytes) -> bool:
        """Say whether `seed` is the one that all of this follows from."""
        return hmac.compare_digest(self._seed, seed)

    def transport_key(self) -> AgreementKey:
        """Return the X25519 key under which shares travel."""
        if self._transport is None:
            self._transport = AgreementKey.generate(self._derive("transport"))
        return self._transport

    def encapsulation_key(self) -> EncapsulationKey:
        """Return the ML-KEM-768 key of the hybrid suite."""
        if self._kem is None:
            seed = self._derive("kem-d") + self._derive("kem-z")
            self._kem = EncapsulationKey.generate(seed)
        return self._kem

    def graph_nonce(self) -> bytes:
        """Return the nonce that chooses the holders of the member's shares; shown when it deals."""
        return self._derive("graph")

    def self_seed(self, slot: int) -> int:
        """Return z: the seed of the member's own mask in `slot`."""
        return self._element("self-seed", slot)

    def round_seed(self, slot: int) -> int:
        """Return u: the seed of the member's pairwise key in `slot`."""
        return self._element("round-seed", slot)

    def deal(self, slot: int, threshold: int, points: Sequence[int]) -> tuple[dict[int, int], ...]:
        """Return the shares of the round seed and of the self seed, by point."""
        dealt = (
            shamir.deal(self.round_seed(slot), threshold, points, self._stream("round-deal", slot)),
            shamir.deal(self.self_seed(slot), threshold, points, self._stream("self-deal", slot)),
        )
        if self._index in points:
            self._own[slot, threshold] = (dealt[0][self._index], dealt[1][self._index])
        return dealt

    def own_shares(self, slot: int, threshold: int) -> tuple[int, int]:
        """Return the member's own shares of its round seed and self seed, as `deal` has them."""
        known = self._own.get((slot, threshold))
        if known is not None:
            return known
        me, stream = self._index, self._stream
        return (
            shamir.share_at(self.round_seed(slot), threshold, me, stream("round-deal", slot)),
            shamir.share_at(self.self_seed(slot), threshold, me, stream("self-deal", slot)),
        )

    def agreement_key(self, slot: int) -> AgreementKey:
        """Return the member's pairwise key in `slot`."""
        return agreement_key(self.round_seed(slot), self._charter, self._epoch, self._index, slot)

    def commitment(self, slot: int) -> Digest:
        """Return the commitment to the self seed of `slot`."""
        return self_commitment(self.self_seed(slot), self._charter, self._epoch, self._index, slot)

    def _element(self, label: str, slot: int) -> int:
        known = self._elements.get((label, slot))
        if known is None:
            known = shamir.draw_element(self._stream(label, slot))
            self._elements[label, slot] = known
        return known

    def _derive(self, label: str) -> bytes:
        return kdf(self._seed, "epoch-" + label, self._charter, self._epoch, self._index)

    def _stream(self, label: str, slot: int) -> Callable[[int], bytes]:
        """Return what gives the next bytes of a stream of `slot`."""
        series = self._series.get(label)
        if series is None:
            series = self._series[label] = kdf_series(
                self._seed, "epoch-" + label, self._charter, self._epoch, self._index
            )
        return Keystream(series(slot)).take

    def __repr__(self) -> str:
        return "EpochSeed"


def agreement_key(
    round_seed: int, charter: bytes, epoch: int, index: int, slot: int
) -> AgreementKey:
    """Return the pairwise key that follows from a round seed: whoever rebuilds u has it."""
    return AgreementKey.generate(
        kdf(shamir.encode_element(round_seed), "rsk", charter, epoch, index, slot)
    )


def self_commitment(self_seed: int, charter: bytes, epoch: int, index: int, slot: int) -> Digest:
    """Return the commitment to a self seed. A uniform 256-bit seed needs no salt."""
    return Digest(
        labelled_hash("com", charter, epoch, index, slot, shamir.encode_element(self_seed)).hex()
    )


def epoch_hash_of(charter: Digest, epoch: int, keys: Iterable[str]) -> Digest:
    """Return the hash of a roster: the digests of the members' key statements, in order."""
    entries = [bytes.fromhex(digest) for digest in keys]
    return Digest(labelled_hash("epoch", bytes.fromhex(charter), epoch, *entries).hex())


def context_of(charter: Digest, opened: RoundOpened) -> Digest:
    """Return the context of a round: the hash of everything that it was opened with."""
    return Digest(
        labelled_hash(
            "round",
            bytes.fromhex(charter),
            bytes.fromhex(opened.epoch_hash),
            opened.slot,
            opened.round,
            opened.attempt,
            enc(*opened.participants),
            bytes.fromhex(opened.plan),
            bytes.fromhex(opened.query),
            bytes.fromhex(opened.code),
            bytes.fromhex(opened.model),
            opened.length,
            opened.ring_bits,
            bytes.fromhex(opened.previous),
        ).hex()
    )


def survivors_digest(context: str, survivors: Iterable[Survivor], group: Group) -> Digest:
    """Return the hash of a set of survivors with the roots of their inputs, in order."""
    fields: list[bytes | int] = []
    for one in survivors:
        fields += (group.index(one.member), bytes.fromhex(one.root))
    return Digest(labelled_hash("survivors", bytes.fromhex(context), *fields).hex())


def share_key(transport: bytes, dealer: int, recipient: int, slot: int) -> bytes:
    """Return the key that seals one share; it seals nothing else."""
    return share_keys(transport, dealer, recipient)(slot)


def share_keys(transport: bytes, dealer: int, recipient: int) -> Callable[[int], bytes]:
    """Return what gives the `share_key` of a slot."""
    return kdf_series(transport, "share", dealer, recipient)


def share_context(epoch_hash: str, dealer: int, recipient: int, slot: int) -> bytes:
    """Return what is authenticated with one sealed share."""
    return share_contexts(epoch_hash, dealer, recipient)(slot)


def share_contexts(epoch_hash: str, dealer: int, recipient: int) -> Callable[[int], bytes]:
    """Return what gives the `share_context` of a slot."""
    common = enc(bytes.fromhex(epoch_hash), dealer, recipient)
    return lambda slot: common + enc(slot)


def key_commitment(key: bytes) -> bytes:
    """Return the hash by which a complaint proves that it shows the right share key."""
    return labelled_hash("kc", key)


def wrap_key(round_seed: int, slot: int) -> bytes:
    """Return the key that seals a member's post-quantum keys of `slot`."""
    return kdf(shamir.encode_element(round_seed), "wrap", slot)


def wrap_context(epoch_hash: str, index: int, slot: int) -> bytes:
    """Return what is authenticated with sealed post-quantum keys."""
    return enc(bytes.fromhex(epoch_hash), index, slot)


def pair_seed(first: bytes, second: bytes, slot: int) -> bytes:
    """Return the post-quantum key of a pair for `slot`.

    `first` is the transport secret that the lower member encapsulated, `second` the higher's. In a
    large group one of them may have dealt nothing to the other: its secret is empty.
    """
    return pair_seeds(first, second, (slot,))[0]


def pair_seeds(first: bytes, second: bytes, slots: Iterable[int]) -> tuple[bytes, ...]:
    """Return the `pair_seed` of each of `slots`."""
    return tuple(map(kdf_series(extract(first, second), "pq"), slots))


def pair_commitment(epoch_hash: str, index: int, slot: int, seeds: Iterable[str]) -> Digest:
    """Return the commitment to all post-quantum keys of one member in `slot`, in dealer order.

    Those of its partners in the graph: in a small group of everyone else.
    """
    return Digest(
        labelled_hash(
            "pq-com", bytes.fromhex(epoch_hash), index, slot, *map(bytes.fromhex, seeds)
        ).hex()
    )


def pair_key(
    mine: AgreementKey,
    peer: str,
    pair: str | None,
    epoch_hash: str,
    context: bytes,
    index: int,
    other: int,
) -> bytes:
    """Return the key of the mask that two members share; `pair` is their post-quantum key."""
    shared = mine.exchange(bytes.fromhex(peer))
    if pair is not None:
        shared = enc(shared, bytes.fromhex(pair))
    low, high = min(index, other), max(index, other)
    return kdf(extract(bytes.fromhex(epoch_hash), shared), "pair", context, low, high)


def mask_plan(
    group: Group,
    me: str,
    participants: Iterable[str],
    secrets: SlotSecrets,
    context: str,
    epoch_hash: str,
) -> MaskPlan:
    """Return the masks of one input: the member's own, and one with every participant in `peers`.

    In a small group those are all others. Raises `VerificationError` (code ``low-order-key``) for
    a peer's key that the roster should never have held.
    """
    mine = AgreementKey(bytes.fromhex(secrets.agreement))
    index, bound = group.index(me), bytes.fromhex(context)
    plan = [(kdf(bytes.fromhex(secrets.self_seed), "self", bound), 1)]
    for peer in participants:
        if peer != me and peer in secrets.peers:
            other = group.index(peer)
            key = pair_key(
                mine,
                secrets.peers[peer],
                secrets.pair_seeds.get(peer),
                epoch_hash,
                bound,
                index,
                other,
            )
            plan.append((key, 1 if index < other else -1))
    return tuple(plan)
