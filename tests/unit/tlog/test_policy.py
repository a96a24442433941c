"""Policies: the quorum that no split view can pass, and the text others read.

Planted and caught: plain majority as the quorum, max(c, f) left out, a group met by one member
too few, a witness in two groups, a key twice, an undefined name, a witness without a URL
written, the origin not looked up, the oldest instead of the quorum's time.
"""

import itertools
import random
from collections.abc import Iterable

import pytest

from treaty.crypto.keys import SigningKey
from treaty.errors import FormatError, UsageError, VerificationError
from treaty.tlog.checkpoint import (
    Checkpoint,
    SignedCheckpoint,
    add_cosignatures,
    cosign,
    open_checkpoint,
    sign,
)
from treaty.tlog.notes import Cosigner, Signer
from treaty.tlog.policy import (
    Group,
    KnownLog,
    KnownWitness,
    Policy,
    max_faulty,
    parse_policy,
    policy_of_members,
    witness_quorum,
)


def _key(number: int) -> SigningKey:
    return SigningKey.generate(random.Random(number).randbytes(32))


LOG = Signer("log.example/consortium", _key(0))
COSIGNERS = [Cosigner(f"m{number}.example/witness", _key(number)) for number in range(1, 6)]
KNOWN = [
    KnownWitness(f"m{at}", one.verifier, f"https://m{at}.example")
    for at, one in enumerate(COSIGNERS, start=1)
]
THE_LOG = KnownLog(LOG.verifier, "https://log.example")
POLICY = policy_of_members(THE_LOG, KNOWN, 1)
CHECKPOINT = Checkpoint(LOG.name, 7, bytes(32))


def _signed(times: dict[int, int], log: Signer = LOG) -> SignedCheckpoint:
    """The checkpoint with cosignatures of members by number at their times."""
    checkpoint = Checkpoint(log.name, 7, bytes(32))
    lines = [cosign(checkpoint, COSIGNERS[at - 1], time_s) for at, time_s in times.items()]
    data = add_cosignatures(sign(checkpoint, log), lines)
    return open_checkpoint(data, log.verifier, POLICY.witness_keys, strict=True)


def _split_is_possible(members: int, quorum: int, dishonest: int) -> bool:
    """Whether two quorums can share only dishonest members: brute force over their overlap."""
    return any(
        overlap <= dishonest and 2 * quorum - overlap <= members for overlap in range(quorum + 1)
    )


def test_no_split_view_passes_the_quorum_and_one_less_would() -> None:
    """For N to 31 and every c: the quorum exists, is safe, and is the least safe number."""
    for members in range(2, 32):
        for colluders in range(members):
            dishonest = max(colluders, max_faulty(members))
            quorum = witness_quorum(members, colluders)
            assert quorum <= members
            assert not _split_is_possible(members, quorum, dishonest)
            assert _split_is_possible(members, quorum - 1, dishonest)


def test_small_quorums_are_enumerated_completely() -> None:
    """For N to 7: every pair of quorum sets shares more than max(c, f) members."""
    for members in range(2, 8):
        for colluders in range(members):
            sets = list(itertools.combinations(range(members), witness_quorum(members, colluders)))
            least = min(len(set(one) & set(two)) for one in sets for two in sets)
            assert least > max(colluders, max_faulty(members))


def test_the_quorum_can_be_met_without_the_faulty() -> None:
    """With c at most f, the N - f honest members alone form a quorum."""
    for members in range(4, 32):
        faulty = max_faulty(members)
        assert witness_quorum(members, min(1, faulty)) <= members - faulty


@pytest.mark.parametrize(
    ("members", "colluders", "quorum"),
    [(3, 1, 3), (4, 1, 3), (5, 1, 4), (7, 1, 5), (10, 1, 7), (10, 3, 7), (10, 5, 8), (25, 1, 17)],
)
def test_the_formula_gives_the_frozen_table(members: int, colluders: int, quorum: int) -> None:
    """floor((N + max(c, f)) / 2) + 1."""
    assert witness_quorum(members, colluders) == quorum


@pytest.mark.parametrize(("members", "colluders"), [(0, 0), (3, 3), (3, -1), (2, 2), (0, 1)])
def test_parameters_without_a_quorum_are_refused(members: int, colluders: int) -> None:
    """More colluders than members, or none at all."""
    with pytest.raises(UsageError):
        witness_quorum(members, colluders)
    if members < 1:
        with pytest.raises(UsageError):
            max_faulty(members)


def test_a_consortium_of_five_needs_four_of_its_members() -> None:
    """All 32 subsets: met if and only if four cosigned."""
    for size in range(6):
        for chosen in itertools.combinations(range(5), size):
            keys = [COSIGNERS[at].verifier for at in chosen]
            assert POLICY.is_met_by(keys) == (size >= 4)
            assert POLICY.is_met_by(keys * 4) == (size >= 4)


def test_require_raises_below_the_quorum() -> None:
    """Code no-quorum; at the quorum it passes."""
    POLICY.require(_signed({1: 1, 2: 1, 3: 1, 4: 1}))
    with pytest.raises(VerificationError) as refusal:
        POLICY.require(_signed({1: 1, 2: 1, 3: 1}))
    assert refusal.value.code == "no-quorum"


def test_require_raises_for_an_unknown_log() -> None:
    """Whoever cosigned it."""
    other = Signer("other.example/log", _key(50))
    with pytest.raises(VerificationError) as refusal:
        POLICY.require(_signed(dict.fromkeys(range(1, 6), 1), other))
    assert refusal.value.code == "unknown-log"


def test_age_is_that_of_the_quorum() -> None:
    """One clock that runs ahead, or one behind, does not decide."""
    assert POLICY.quorum_time_s(_signed({1: 900, 2: 100, 3: 101, 4: 102, 5: 1})) == 100
    assert POLICY.quorum_time_s(_signed({1: 9, 2: 8, 3: 7, 4: 6})) == 6
    with pytest.raises(VerificationError):
        POLICY.quorum_time_s(_signed({1: 9}))
    nobody = Policy((THE_LOG,), (), (), "none")
    assert nobody.quorum_time_s(_signed({})) is None


def test_the_written_policy_is_read_back() -> None:
    """Text, then the same policy; the URL of every witness stands there."""
    text = POLICY.encode().decode()
    assert parse_policy(text.encode()) == POLICY
    rows = text.splitlines()
    assert rows[0] == f"log {LOG.verifier.vkey} https://log.example"
    assert rows[1] == f"witness m1 {COSIGNERS[0].verifier.vkey} https://m1.example"
    assert rows[6:] == ["group members 4 m1 m2 m3 m4 m5", "quorum members"]


def test_a_policy_without_a_url_is_read_but_not_written() -> None:
    """C2SP makes it optional; a widespread reader refuses the line without."""
    text = POLICY.encode().replace(b" https://m1.example", b"")
    policy = parse_policy(text)
    assert policy.witnesses[0].url is None
    with pytest.raises(UsageError, match="URL"):
        policy.encode()


def _vkeys() -> Iterable[str]:
    return (one.verifier.vkey for one in COSIGNERS)


def test_nested_groups_as_in_the_specification() -> None:
    """Two of X and any of Y; tabs, comments and empty lines are ignored."""
    a, b, c, d, e = _vkeys()
    text = (
        f"# a comment\n\n  log {LOG.verifier.vkey}\n"
        f"witness X1 {a}\nwitness\tX2  {b}\nwitness X3 {c}\ngroup X 2 X1 X2 X3\n"
        f"witness Y1 {d}\nwitness Y2 {e} https://y2.example \n\t# another\ngroup Y any Y1 Y2\n"
        "group both all X Y\nquorum both\n"
    )
    policy = parse_policy(text.encode())
    names = ("X1", "X2", "X3", "Y1", "Y2")
    for bits in itertools.product((False, True), repeat=5):
        keys = [one.verifier for one, bit in zip(COSIGNERS, bits, strict=True) if bit]
        expected = sum(bits[:3]) >= 2 and any(bits[3:])
        assert policy.is_met_by(keys) == expected, dict(zip(names, bits, strict=True))


def test_names_are_opaque_octets() -> None:
    """A name that is no UTF-8 round trips; a number sign within a name is no comment."""
    text = POLICY.encode().replace(b"m1 ", b"m\xff# ")
    assert parse_policy(text).witnesses[0].name == "m\udcff#"
    assert parse_policy(text).encode() == text


LOG_LINE = f"log {LOG.verifier.vkey}\n"
W1, W2 = (f"witness m{at} {COSIGNERS[at].verifier.vkey}\n" for at in (1, 2))
TEXTS = {
    "no quorum": LOG_LINE + W1,
    "two quorums": LOG_LINE + W1 + "quorum m1\nquorum m1\n",
    "an undefined quorum": LOG_LINE + W1 + "quorum m2\n",
    "a quorum before its witness": LOG_LINE + "quorum m1\n" + W1,
    "a group before its member": LOG_LINE + "group g any m1\n" + W1 + "quorum g\n",
    "a group of itself": LOG_LINE + W1 + "group g any g\nquorum g\n",
    "a group of nobody": LOG_LINE + W1 + "group g any\nquorum g\n",
    "a threshold of zero": LOG_LINE + W1 + "group g 0 m1\nquorum g\n",
    "a threshold beyond the members": LOG_LINE + W1 + "group g 2 m1\nquorum g\n",
    "a threshold with a leading zero": LOG_LINE + W1 + "group g 01 m1\nquorum g\n",
    "a threshold in words": LOG_LINE + W1 + "group g some m1\nquorum g\n",
    "a member twice in a group": LOG_LINE + W1 + "group g 2 m1 m1\nquorum g\n",
    "a member of two groups": LOG_LINE
    + W1
    + "group g any m1\ngroup h any m1\ngroup i all g h\nquorum i\n",
    "a name twice": LOG_LINE + W1 + W2.replace("m2", "m1", 1) + "quorum m1\n",
    "a key twice": LOG_LINE + W1 + W1.replace("m1", "m2", 1) + "quorum m1\n",
    "a log twice": LOG_LINE + LOG_LINE + "quorum none\n",
    "the name none": LOG_LINE + W1.replace("m1", "none", 1) + "quorum none\n",
    "none in a group": LOG_LINE + W1 + "group g any none\nquorum g\n",
    "a log key for a witness": f"witness m1 {LOG.verifier.vkey}\nquorum m1\n",
    "a witness key for a log": f"log {COSIGNERS[0].verifier.vkey}\nquorum none\n",
    "a broken key": "log a+00000000+AAAA\nquorum none\n",
    "an unknown word": LOG_LINE + "delay 5\nquorum none\n",
    "too many fields": LOG_LINE + "quorum none none\n",
    "two addresses": LOG_LINE.replace("\n", " a b\n") + "quorum none\n",
    "no newline at the end": LOG_LINE + "quorum none",
    "a carriage return": LOG_LINE + "quorum none\r\n",
    "a control character in a comment": "# a\x07b\n" + LOG_LINE + "quorum none\n",
    "a delete character": LOG_LINE + "quorum none\x7f\n",
    "nothing": "",
    "too long": LOG_LINE + "quorum none\n" + "#" * 70_000 + "\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
def test_texts_that_are_no_policy_are_refused(text: str) -> None:
    """Each witness must be able to count in one way only."""
    with pytest.raises(FormatError):
        parse_policy(text.encode())


def test_the_smallest_policy_is_accepted() -> None:
    """Positive control of the table."""
    assert parse_policy(b"quorum none\n").is_met_by([])
    assert not parse_policy((LOG_LINE + W1 + "quorum m1\n").encode()).is_met_by([])


def test_policies_that_cannot_be_are_not_constructed() -> None:
    """The same rules hold for policies made in code."""
    for parts in (
        ((THE_LOG,), (KNOWN[0],), (), "m2"),
        ((THE_LOG,), (KNOWN[0],), (Group("g", 2, ("m1",)),), "g"),
        ((THE_LOG,), (KnownWitness("a b", KNOWN[0].verifier),), (), "a b"),
        ((KnownLog(LOG.verifier, "two words"),), (), (), "none"),
    ):
        with pytest.raises(UsageError):
            Policy(*parts)
