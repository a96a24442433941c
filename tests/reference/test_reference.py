"""T-17: the product and the second implementation agree byte for byte.

The second implementation (`secagg_reference`) was written from the page alone. Whole federations
of the machines run beside it: random sizes, thresholds, rings, lengths, participants, losses before
dealing, before the input and before the answer, both suites. Compared are keys and commitments,
columns, slot secrets, wraps, contexts, masked vectors, roots, blobs, shares, seeds and sums.

Planted faults, in the product, that these tests caught: counter from 1; the
sign of a pair by the wrong order; the slot left out of a share key or a wrap key; the context left
out of a self key; 4-byte integers in `enc`; lower and higher swapped in the hybrid secret, or the
two directions of a pair seed; a leaf hash without its prefix; the index left out of the survivors
digest or of the commitment; coefficients in falling degree; the domain renamed; the post-quantum
seed in front of the X25519 secret; participants hashed as one text; the attempt left out of the
context; both shares of a column swapped; masks of a dropped member with the other sign; a false key
held against the dealer alone; chunks of half the size; a blob from 256 pair seeds on, or from 258.
And in the page and the reference: a changed word in a normative section; an import of the product.
"""

import ast
import hashlib
import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import event, example, given, settings
from hypothesis import strategies as st

from tests.reference import mlkem768
from tests.reference import secagg_reference as ref
from tests.reference.page import NORMATIVE, PAGE, REVIEWED, normative_digest, normative_text
from tests.unit.protocol.secagg_rig import (
    Federation,
    Round,
    dealt,
    expected_of,
    finish,
    group_of,
    open_round,
    ready,
    send_inputs,
    tag,
    unmasked,
)
from treaty.aggregation.masking import apply_masks, input_root
from treaty.aggregation.quantization import RING_TYPES
from treaty.crypto import canonical
from treaty.crypto.key_agreement import AgreementKey, EncapsulationKey, encapsulate
from treaty.crypto.prg import Keystream
from treaty.crypto.sealing import seal
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_dealing import complaint_holds
from treaty.protocol.secagg_keys import Group, SlotSecrets
from treaty.protocol.secagg_pairs import placed_pairs

SOURCES = [Path(ref.__file__), Path(mlkem768.__file__)]
CHARTER = bytes.fromhex(tag("charter"))
ZEROS = bytes(32)


# --- the reference stands alone ----------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_the_reference_imports_nothing_of_the_product(path: Path) -> None:
    """And nothing that would: the standard library, the block cipher, its own neighbour."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    foreign = {name for name in found if name.split(".")[0] not in sys.stdlib_module_names}
    assert foreign <= {"cryptography.hazmat.primitives.ciphers", "tests.reference"}


def test_the_reference_was_read_against_the_page_as_it_is() -> None:
    """Whoever changes a normative section reads the reference against it and stores the digest."""
    page = PAGE.read_text(encoding="utf-8")
    assert REVIEWED.read_text(encoding="utf-8").strip() == normative_digest(page), (
        "sections 1 to 6 or 8 of docs/spec/secagg.md have changed: read "
        "tests/reference/secagg_reference.py against them, mend it, then write what "
        "`python -m tests.reference.page` prints into tests/reference/REVIEWED"
    )


def test_the_digest_covers_the_normative_sections_and_nothing_else() -> None:
    page = PAGE.read_text(encoding="utf-8")
    text = normative_text(page)
    for number in [*range(1, 10), 20, 21, 22, 23]:
        assert (f"\n{number} " in "\n" + text) == (number in NORMATIVE)
    assert normative_digest(page.replace("nonce zero", "nonce one")) != normative_digest(page)
    assert normative_digest(page.replace("## 9 ", "Later.\n\n## 9 ")) != normative_digest(page)
    assert normative_digest(page + "\n## 24 More\n\n1. Text.\n") == normative_digest(page)


# --- primitives --------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.binary())
def test_primitives(one: bytes, other: bytes, text: bytes) -> None:
    mine, theirs = AgreementKey(one), AgreementKey(other)
    assert ref.x25519(one, ref.BASE) == mine.public
    assert ref.x25519(one, theirs.public) == mine.exchange(theirs.public)
    sealed = seal(one, text, other)
    assert ref.seal(one, text, other) == sealed
    assert ref.unseal(one, sealed, other) == text
    assert ref.unseal(one, sealed[:-1] + bytes([sealed[-1] ^ 1]), other) is None
    assert ref.keystream(one, 3, 70) == Keystream(one, 3).take(70)
    assert ref.low_order(bytes(32)) and not ref.low_order(mine.public)


@settings(max_examples=5)
@given(st.binary(min_size=64, max_size=64), st.binary(min_size=32, max_size=32))
def test_ml_kem(seed: bytes, message: bytes) -> None:
    """Keys, both directions, and the rejection of another ciphertext."""
    key = EncapsulationKey(seed)
    public, private = mlkem768.keys(seed)
    assert public == key.public
    secret, ciphertext = encapsulate(public)
    assert mlkem768.decapsulate(private, ciphertext) == secret
    secret, ciphertext = mlkem768.encapsulate(public, message)
    assert key.decapsulate(ciphertext) == secret
    other = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert key.decapsulate(other) == mlkem768.decapsulate(private, other) != secret


@pytest.mark.parametrize("members", range(3, 41))
def test_thresholds(members: int) -> None:
    for colluders in range(1, members - 1):
        group = group_of(members, colluders)
        least = ref.least_survivors(members, colluders)
        assert group.share_threshold == ref.share_threshold(members, colluders)
        assert group.min_survivors == least
        for taking in range(least, members + 1):
            assert group.fast_survivors(taking) == ref.fast_survivors(
                members, colluders, least, taking
            )
            for survivors in range(least, taking + 1):
                for comes_off in (False, True):
                    assert (
                        survivors >= group.fast_survivors(taking, surplus=comes_off)
                    ) is ref.at_once(
                        members, colluders, least, taking, survivors, comes_off=comes_off
                    )


@pytest.mark.parametrize("bits", [16, 32, 64])
@pytest.mark.parametrize("length", [1, 15, 16, 65_535, 65_536, 65_537])
def test_masks_and_roots_across_a_chunk_border(bits: int, length: int) -> None:
    draw = np.random.Generator(np.random.PCG64(length + bits))
    words = np.frombuffer(draw.bytes(length * bits // 8), RING_TYPES[bits])
    own, pair = hashlib.sha256(b"own").digest(), hashlib.sha256(b"pair").digest()
    out = words.copy()
    apply_masks(out, ((own, 1), (pair, -1)), bits)
    plain = ref.masked([int(word) for word in words], bits, own, {1: pair}, 2)
    assert [int(word) for word in out] == plain
    assert input_root(out) == ref.root(plain, bits).hex()
    for at in (0, length // 2, length - 1):
        (word,) = ref.mask(own, bits, at, 1)
        stream = Keystream(own).take((at + 1) * bits // 8)
        assert word == int.from_bytes(stream[-bits // 8 :], "little")


# --- whole rounds ------------------------------------------------------------------------------


class Twin:
    """The reference's copy of a federation, from the members' epoch seeds."""

    def __init__(self, federation: Federation) -> None:
        self.federation, self.group = federation, federation.group
        self.names = list(federation.hub.peers)
        self.hybrid, self.slots = self.group.hybrid, federation.hub.slots
        self.secrets = {
            name: ref.Secrets(
                hashlib.sha256(f"seed {name} 1".encode()).digest(),
                CHARTER,
                1,
                self.group.index(name),
            )
            for name in self.names
        }
        digests = [bytes.fromhex(one.digest) for one in federation.keys]
        self.roster = ref.epoch_hash(CHARTER, 1, digests)
        assert self.roster.hex() == federation.hub.epoch_hash
        self.transport = self._transport()
        self.dealers = [str(name) for name in federation.hub.dealers]
        self.q = self._pair_seeds()

    def index(self, name: str) -> int:
        return self.group.index(name)

    def column(self, dealer: str, recipient: str) -> bytes:
        digest = self.federation.shares[dealer].predicate.columns[recipient]
        return self.federation.columns[digest]

    def check_keys(self) -> None:
        for name, keys in self.federation.hub.peers.items():
            own = self.secrets[name]
            assert keys.transport == ref.x25519(own.transport(), ref.BASE).hex()
            assert keys.kem == (own.kem_keys()[0].hex() if self.hybrid else None)
            assert keys.round_keys == tuple(own.round_key(r).hex() for r in range(self.slots))
            assert keys.commitments == tuple(own.commitment(r).hex() for r in range(self.slots))

    def _transport(self) -> dict[tuple[str, str], bytes]:
        made = {}
        for dealer, recipient in permutations(self.federation.shares, 2):
            one, other = self.secrets[dealer], self.secrets[recipient]
            mine = ref.x25519(one.transport(), ref.BASE)
            theirs = ref.x25519(other.transport(), ref.BASE)
            classical = ref.x25519(one.transport(), theirs)
            if not self.hybrid:
                made[dealer, recipient] = ref.transport_secret(self.roster, classical)
                continue
            ciphertext = self.column(dealer, recipient)[: ref.CIPHERTEXT_BYTES]
            public, private = other.kem_keys()
            lower, higher = (mine, theirs) if one.index < other.index else (theirs, mine)
            made[dealer, recipient] = ref.transport_secret(
                self.roster,
                classical,
                mlkem768.decapsulate(private, ciphertext),
                ciphertext,
                public,
                lower,
                higher,
            )
        return made

    def _pair_seeds(self) -> dict[tuple[str, str, int], bytes]:
        if not self.hybrid:
            return {}
        made = {}
        for one, other in permutations(self.dealers, 2):
            lower, higher = sorted((one, other), key=self.index)
            for slot in range(self.slots):
                made[one, other, slot] = ref.pair_seed(
                    self.transport[lower, higher], self.transport[higher, lower], slot
                )
        return made

    def check_columns(self) -> None:
        threshold = self.group.share_threshold
        for (dealer, recipient), transport in self.transport.items():
            head = self.column(dealer, recipient)[: ref.CIPHERTEXT_BYTES] if self.hybrid else b""
            i, j = self.index(dealer), self.index(recipient)
            parts = [
                ref.sealed_share(
                    transport,
                    self.roster,
                    i,
                    j,
                    r,
                    *self.secrets[dealer].shares_for(j, r, threshold),
                )
                for r in range(self.slots)
            ]
            assert self.column(dealer, recipient) == head + b"".join(parts)
            assert {len(part) for part in parts} == {ref.SHARE_BYTES}

    def check_slots(self, slot: int) -> None:
        threshold = self.group.share_threshold
        for name in self.dealers:
            node = self.federation.nodes[name]
            assert node.epoch is not None
            kept = canonical.decode(
                node.disk.secrets[node.epoch.slot_secret_name(slot)], SlotSecrets
            )
            own, me = self.secrets[name], self.index(name)
            assert kept.self_seed == ref.element(own.z(slot)).hex()
            assert kept.agreement == own.rsk(slot).hex()
            for other in self.dealers:
                u, z = self.secrets[other].shares_for(me, slot, threshold)
                assert kept.round_shares[other] == ref.element(u).hex()
                assert kept.self_shares[other] == ref.element(z).hex()
                if other != name:
                    assert kept.peers[other] == self.secrets[other].round_key(slot).hex()
                    q = self.q.get((name, other, slot))
                    assert kept.pair_seeds.get(other) == (q.hex() if q else None)

    def check_wraps(self) -> None:
        for name in self.dealers:
            statement, me = self.federation.hub.ready[name], self.index(name)
            if not self.hybrid:
                assert statement.wraps is None and statement.pair_commitments == ()
                continue
            rows = [
                [self.q[name, other, r] for other in self.dealers if other != name]
                for r in range(self.slots)
            ]
            own = self.secrets[name]
            blob = b"".join(
                ref.wrap(own.u(r), self.roster, me, r, row) for r, row in enumerate(rows)
            )
            assert self.federation.hub.wraps[name] == blob
            assert statement.pair_commitments == tuple(
                ref.pair_commitment(self.roster, me, r, row).hex() for r, row in enumerate(rows)
            )

    def opening(self, turn: Round) -> ref.Opening:
        ask = turn.opened.predicate
        digests = (ask.plan, ask.query, ask.code, ask.model)
        return ref.Opening(
            ask.slot,
            ask.round,
            ask.attempt,
            ask.participants,
            *(bytes.fromhex(one) for one in digests),
            ask.length,
            ask.ring_bits,
            bytes.fromhex(ask.previous),
        )

    def pair_key(self, one: str, other: str, slot: int, context: bytes) -> bytes:
        return ref.pair_key(
            self.secrets[one].rsk(slot),
            self.secrets[other].round_key(slot),
            self.q.get((one, other, slot)),
            self.roster,
            context,
            self.index(one),
            self.index(other),
        )

    def check_inputs(self, turn: Round, context: bytes) -> dict[str, list[int]]:
        """Return the masked vectors of all participants, compared with what they stored."""
        ask, made = turn.opened.predicate, {}
        for name in ask.participants:
            pairs = {
                self.index(other): self.pair_key(name, other, ask.slot, context)
                for other in ask.participants
                if other != name
            }
            words = [int(word) for word in turn.inputs[name]]
            own = ref.self_key(self.secrets[name].z(ask.slot), context)
            made[name] = ref.masked(words, ask.ring_bits, own, pairs, self.index(name))
            data = ref.vector_bytes(made[name], ask.ring_bits)
            node = turn.node(name)
            assert node.slot is not None and node.slot.state.input is not None
            header = node.slot.state.input
            assert header.context == context.hex()
            assert header.blob == hashlib.sha256(data).hexdigest()
            assert node.disk.blobs[header.blob] == data
            assert header.root == ref.root(made[name], ask.ring_bits).hex()
        return made

    def check_result(self, turn: Round, context: bytes, vectors: dict[str, list[int]]) -> list[int]:
        """Rebuild the seeds from the answers, open the sum, compare with what was published."""
        ask, hub = turn.opened.predicate, turn.hub
        inside = list(hub.survivor_names)
        gone = [name for name in ask.participants if name not in inside]
        digest = ref.survivors_digest(
            context, [(self.index(n), ref.root(vectors[n], ask.ring_bits)) for n in inside]
        )
        assert hub.survivors == digest.hex()
        answers = {name: one.predicate for name, one in hub.reveals.items()}
        first = dict(list(answers.items())[: self.group.share_threshold])
        for name, reveal in answers.items():
            assert (set(reveal.self_shares), set(reveal.round_shares)) == (set(inside), set(gone))
            for owner, share in reveal.self_shares.items():
                z = self.secrets[owner].shares_for(
                    self.index(name), ask.slot, self.group.share_threshold
                )[1]
                assert share == ref.element(z).hex()

        def rebuilt(owner: str, kind: str) -> int:
            return ref.rebuild(
                {self.index(n): int(getattr(one, kind)[owner], 16) for n, one in first.items()}
            )

        own = {n: rebuilt(n, "self_shares") for n in inside}
        rounds = {n: rebuilt(n, "round_shares") for n in gone}
        assert own == {n: self.secrets[n].z(ask.slot) for n in inside}
        assert rounds == {n: self.secrets[n].u(ask.slot) for n in gone}
        words, result, _ = unmasked(turn)
        assert result.self_seeds == {n: ref.element(z).hex() for n, z in own.items()}
        assert result.round_seeds == {n: ref.element(u).hex() for n, u in rounds.items()}
        if self.hybrid:
            for name in gone:
                row = [
                    self.q[name, other, ask.slot].hex() for other in self.dealers if other != name
                ]
                assert result.pair_seeds[name] == tuple(row)
        total = ref.opened_sum(
            {self.index(n): vectors[n] for n in inside},
            ask.ring_bits,
            {self.index(n): ref.self_key(z, context) for n, z in own.items()},
            {
                (self.index(d), self.index(n)): self.pair_key(d, n, ask.slot, context)
                for d in gone
                for n in inside
            },
        )
        assert words == total
        data = ref.vector_bytes(total, ask.ring_bits)
        assert result.sum == hashlib.sha256(data).hexdigest()
        return total


def plain(turn: Round) -> list[int]:
    """Return the sum of the survivors' vectors before masking, in big integers."""
    modulus = 1 << turn.expected.ring_bits
    inside = [turn.inputs[name] for name in turn.hub.survivor_names]
    return [sum(int(v[at]) for v in inside) % modulus for at in range(turn.expected.length)]


def compare(
    group: Group,
    names: Sequence[str],
    bits: int,
    length: int,
    losses: tuple[int, int, int, int, int],
) -> None:
    """Run an epoch and a round beside the reference.

    `losses`: how many of `names` send no keys; no keys or shares; no input; how many of the rest
    are silent after it; and how many, the last, are no participants.
    """
    undealt, early, lost, silent, excluded = losses
    federation = ready(
        dealt(group, slots=2, lost_keys=names[:undealt], lost_shares=names[undealt:early])
    )
    twin = Twin(federation)
    twin.check_keys()
    twin.check_columns()
    twin.check_slots(0)
    twin.check_wraps()
    turn = open_round(federation, expected_of(length, bits), exclude=names[len(names) - excluded :])
    assert len(turn.opened.predicate.participants) == len(names) - early - excluded
    context = twin.opening(turn).context(CHARTER, twin.roster)
    assert turn.hub.context == context.hex()
    send_inputs(turn, lost=names[early:lost])
    vectors = twin.check_inputs(turn, context)
    finish(turn, silent=names[lost : lost + silent])
    assert twin.check_result(turn, context, vectors) == plain(turn)


@pytest.mark.parametrize(
    ("size", "colluders", "hybrid", "bits", "losses"),
    [
        (3, 1, False, 64, (0, 0, 0, 0, 0)),
        (4, 1, True, 32, (0, 0, 1, 0, 0)),
        (5, 1, True, 16, (0, 1, 1, 0, 0)),
        (6, 1, False, 32, (1, 1, 2, 0, 0)),
        (6, 1, True, 64, (0, 0, 1, 0, 1)),
    ],
)
def test_named_rounds_agree_byte_for_byte(
    size: int, colluders: int, hybrid: bool, bits: int, losses: tuple[int, int, int, int, int]
) -> None:
    group = group_of(size, colluders, hybrid=hybrid)
    compare(group, group.members[::2] + group.members[1::2], bits, 5, losses)


@settings(max_examples=12)
@given(
    size=st.integers(3, 8),
    bits=st.sampled_from([16, 32, 64]),
    length=st.integers(1, 30),
    hybrid=st.booleans(),
    data=st.data(),
)
def test_drawn_rounds_agree_byte_for_byte(
    size: int, bits: int, length: int, hybrid: bool, data: st.DataObject
) -> None:
    group = group_of(size, data.draw(st.integers(1, max(1, (size - 1) // 3))), hybrid=hybrid)
    names = data.draw(st.permutations(group.members))
    lost = data.draw(st.integers(0, size - group.min_survivors))
    early = data.draw(st.integers(0, lost))
    undealt = data.draw(st.integers(0, early))
    excluded = data.draw(st.integers(0, size - lost - group.min_survivors))
    silent = data.draw(st.integers(0, size - lost - excluded - group.share_threshold))
    compare(group, names, bits, length, (undealt, early, lost, silent, excluded))
    event(f"lost {lost} of {size}, silent {silent}, excluded {excluded}, hybrid {hybrid}")


@pytest.mark.parametrize("hybrid", [False, True])
def test_both_judge_a_complaint_alike(hybrid: bool) -> None:
    """Bytes of a column changed in turn, a false key, another slot, another size."""
    federation = dealt(group_of(4, hybrid=hybrid), slots=2)
    twin = Twin(federation)
    group, (dealer, recipient, *_) = twin.group, twin.names
    i, j = twin.index(dealer), twin.index(recipient)
    good = twin.column(dealer, recipient)
    outs = set()
    for slot in (0, 1, 2):
        right = ref.share_key(twin.transport[dealer, recipient], i, j, slot)
        for key in (right, ZEROS):
            changed = [good, good[:-1], good + b"x"]
            changed += [
                good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
                for at in range(len(good) - 224, len(good), 7)
            ]
            for column in changed:
                judged = complaint_holds(
                    group, twin.roster.hex(), dealer, recipient, slot, key, column, 2
                )
                out = ref.left_out(column, key, twin.roster, i, j, slot, 2, hybrid)
                assert out == {True: {i}, False: {j}, None: {i, j}}[judged]
                outs.add(judged)
    assert outs == {True, False, None}


@settings(max_examples=20)
@given(
    st.dictionaries(st.sampled_from(["b.x", "a", "a-1", "a.1", "m10", "m2"]), st.integers(0, 130))
)
@example({"a-1": 128, "a.1": 128})
@example({"a-1": 128, "a.1": 129})
def test_pair_seeds_stand_where_the_reference_puts_them(counts: dict[str, int]) -> None:
    seeds = {
        name: [hashlib.sha256(f"{name} {place}".encode()).digest() for place in range(count)]
        for name, count in counts.items()
    }
    texts = {name: tuple(one.hex() for one in several) for name, several in seeds.items()}
    inline, blob = placed_pairs(texts)
    assert blob == ref.pair_seed_blob(seeds)
    assert inline == ({} if blob else texts)
    event("blob" if blob else "inline")


def test_the_answer_of_a_member_is_the_references() -> None:
    """A confirmed round: the confirmation carries the reference's digest."""
    federation = ready(dealt(group_of(6), slots=1))
    twin = Twin(federation)
    turn = send_inputs(open_round(federation, expected_of(3, 16)), lost=["m05", "m06"])
    context = twin.opening(turn).context(CHARTER, twin.roster)
    vectors = twin.check_inputs(turn, context)
    finish(turn)
    assert turn.hub.confirmed == {"m01", "m02", "m03", "m04"}
    assert twin.check_result(turn, context, vectors) == plain(turn)
    sent = [one for node in federation.nodes.values() for one in node.sent]
    confirmed = {one.survivors for one in sent if isinstance(one, messages.SurvivorsConfirmed)}
    assert confirmed == {turn.hub.survivors}
