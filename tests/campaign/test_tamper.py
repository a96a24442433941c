"""Tamper campaign: a genuine bundle, altered at random in every known way, is never accepted.

Each mutation has the set of reasons for which it must be refused: another reason is a failure, for
a check that happens to stand behind another is no check. Classes:

* *bytes*: single bits flipped, bytes deleted, inserted, files cut short or made longer, anywhere;
* *files*: deleted, added, two exchanged;
* *note*: the checkpoint altered and the manifest made to name it;
* *entries, old signatures*: entries exchanged, repeated, removed, altered; tiles, size and root are
  computed anew and the checkpoint says so, but nobody signed that;
* *entries, all log keys*: an entry's bytes altered, and the log and all witnesses sign the result;
* *rules*: every key in the attacker's hands, one rule of the protocol broken (`tests.violations`);
* *keys of noise*: in a study whose answers take noise off, a key altered, left out or added, a
  commitment to one altered, signed by whoever said it;
* *prefixes*: an older genuine log with files of the newer one.

Controls are accepted: the bundle itself, other exports of it, and every older prefix alone.
`TREATY_CAMPAIGN=ci` plays 1,000 mutations and 100 of keys of noise, ``full`` 12,000 and 1,200; both
are seeded.
"""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import msgspec
import pytest

from tests.forgery import Files, Forge, Genuine, genuine_of, released_history, suspended_history
from tests.private_federation import found_private, private_contract, private_plan
from tests.small_federation import SITES
from tests.violations import VIOLATIONS
from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.crypto.envelope import encode_base64
from treaty.errors import FormatError, VerificationError
from treaty.protocol.messages import (
    BallotCast,
    ReleaseProvenance,
    SiteReported,
    StudyCompleted,
    TimeStated,
)
from treaty.protocol.secagg_messages import EpochOpened, MaskedInput, Reveal
from treaty.protocol.statements import peek
from treaty.provenance.bundle import BLOBS, CHECKPOINT, LOG, MANIFEST, Manifest
from treaty.provenance.verify import verify_bundle
from treaty.tlog.merkle import MerkleTree, leaf_hash

FORMAT = "format"
MUTATIONS = 12_000 if os.environ.get("TREATY_CAMPAIGN") == "full" else 1_000
SEEDS = range(4)

BENIGN_REPETITION = (TimeStated, BallotCast)
"""Saying these again changes nothing, so that all keys together may put them into the log twice."""

BENIGN_REMOVAL = (TimeStated, SiteReported, ReleaseProvenance)
"""A log without one of these can be a history too: one that all keys together may have made."""

REPLAY = frozenset(
    {
        FORMAT,
        "clock-back",
        "equivocation",
        "malformed",
        "missing-blob",
        "no-charter",
        "no-proposal",
        "no-study",
        "not-in-epoch",
        "not-in-round",
        "out-of-order",
        "replayed",
        "skipped-version",
        "slot-used",
        "study-runs",
        "sub-quorum",
        "too-few",
        "unlogged",
        "wrong-attempt",
        "wrong-code",
        "wrong-context",
        "wrong-epoch",
        "wrong-model",
        "wrong-previous",
        "wrong-query",
        "wrong-round",
    }
)
"""Reasons of the replay when entries are missing, repeated or out of their order."""

STATEMENT = frozenset(
    {
        FORMAT,
        "bad-signature",
        "missing-blob",
        "unknown-key",
        "wrong-author",
        "wrong-charter",
        "wrong-key-kind",
        "wrong-signatures",
    }
)
"""Reasons for an entry whose bytes were altered without its author's key."""

NOTE = frozenset(
    {
        FORMAT,
        "bad-signature",
        "checkpoint-differs",
        "missing-tile",
        "signed-twice",
        "strange-file",
        "tile-differs",
        "unknown-key",
        "unsigned",
    }
)


@dataclass(frozen=True)
class Mutant:
    """An altered bundle, what was done, and the reasons of which one must refuse it."""

    kind: str
    files: Files
    reasons: frozenset[str]


Maker = Callable[[Genuine, Random], Mutant | None]


def reasons_of(path: str) -> frozenset[str]:
    """Return why a bundle is refused in which the bytes of `path` alone are others."""
    if path == MANIFEST:
        return frozenset({FORMAT, "wrong-anchor", "checkpoint-differs"})
    if path == CHECKPOINT:
        return frozenset({"checkpoint-differs"})
    if path.startswith(LOG + "tile/entries/"):
        return frozenset({FORMAT, "tile-differs", "missing-tile"})
    if path.startswith(LOG):
        return frozenset({"tile-differs"})
    if path.startswith(BLOBS):
        return frozenset({"blob-mismatch"})
    return frozenset({"derived-differs"})


def missing(path: str) -> frozenset[str]:
    """Return why a bundle without `path` is refused."""
    if path in (MANIFEST, CHECKPOINT):
        return frozenset({FORMAT})
    if path.startswith(LOG):
        return frozenset({"missing-tile"})
    if path.startswith(BLOBS):
        return frozenset({"missing-blob"})
    return frozenset({"derived-differs"})


def altered(data: bytes, choose: Random) -> bytes:
    """Return `data` with a bit flipped, a byte deleted or inserted, cut short or made longer."""
    at = choose.randrange(len(data))
    match choose.choice(("flip", "flip", "flip", "delete", "insert", "cut", "grow")):
        case "flip":
            return data[:at] + bytes([data[at] ^ 1 << choose.randrange(8)]) + data[at + 1 :]
        case "delete":
            return data[:at] + data[at + 1 :]
        case "insert":
            return data[:at] + choose.randbytes(1) + data[at:]
        case "cut":
            return data[:at]
        case _:
            return data + choose.randbytes(choose.randint(1, 40))


def bytes_altered(genuine: Genuine, choose: Random) -> Mutant:
    files = genuine.files
    kinds = sorted({kind_of(path) for path in files})
    kind = choose.choice([*kinds, LOG, LOG, BLOBS])
    path = choose.choice([path for path in sorted(files) if kind_of(path) == kind_of(kind)])
    other = altered(files[path], choose)
    return Mutant(f"bytes of {kind_of(path)}", {**files, path: other}, reasons_of(path))


def file_deleted(genuine: Genuine, choose: Random) -> Mutant:
    path = choose.choice(sorted(genuine.files))
    rest = {name: data for name, data in genuine.files.items() if name != path}
    return Mutant("file deleted", rest, missing(path))


def file_added(genuine: Genuine, choose: Random) -> Mutant:
    data = choose.randbytes(choose.randint(0, 64))
    path = choose.choice(
        [
            BLOBS + sha256(data),
            BLOBS + choose.randbytes(32).hex(),
            LOG + f"tile/{choose.randint(0, 3)}/{choose.randint(1, 99):03}",
            LOG + f"tile/entries/000.p/{choose.randint(1, 20)}",
            f"{choose.choice(sorted(genuine.files))}.bak",
            choose.choice(["README.md", "model.pt", "log", "", "../x", "policy/"]),
        ]
    )
    reasons = frozenset({"strange-file", "blob-mismatch"})
    return Mutant("file added", {**genuine.files, path: data}, reasons)


def files_exchanged(genuine: Genuine, choose: Random) -> Mutant:
    first, second = choose.sample(sorted(genuine.files), 2)
    files = {**genuine.files, first: genuine.files[second], second: genuine.files[first]}
    return Mutant("files exchanged", files, reasons_of(first) | reasons_of(second))


def named_by_manifest(files: Files, note: bytes, size: int | None = None) -> Files:
    """Return the bundle with another checkpoint that its manifest names."""
    manifest = canonical.decode(files[MANIFEST], Manifest)
    other = Manifest(
        edition=manifest.edition,
        anchor=manifest.anchor,
        size=manifest.size if size is None else size,
        checkpoint=sha256(note),
    )
    return {**files, CHECKPOINT: note, MANIFEST: canonical.encode(other)}


def note_altered(genuine: Genuine, choose: Random) -> Mutant:
    note = altered(genuine.files[CHECKPOINT], choose)
    # A note that is cut within its lines of cosignatures may still be met by a quorum.
    reasons = NOTE | {"derived-differs", "no-quorum", "root-mismatch"}
    return Mutant("note altered", named_by_manifest(genuine.files, note), reasons)


def unsigned_note(forge: Forge, note: bytes) -> bytes:
    """Return `note` saying size and root of the entries, under the signatures that it had."""
    tree = MerkleTree(leaf_hash(entry) for entry in forge.entries)
    origin, _, _, *rest = note.split(b"\n")
    root = encode_base64(tree.root()).encode()
    return b"\n".join([origin, str(tree.size).encode(), root, *rest])


def rearranged(forge: Forge, choose: Random) -> tuple[str, int, int, Forge]:
    """Return how entries were rearranged, at which two places, and the result."""
    entries = list(forge.entries)
    first, second = sorted(choose.sample(range(len(entries)), 2))
    match choose.choice(("exchanged", "repeated", "removed")):
        case "exchanged":
            entries[first], entries[second] = entries[second], entries[first]
            return "exchanged", first, second, forge.exchanged(entries)
        case "repeated":
            entries.insert(second, entries[first])
            return "repeated", first, second, forge.exchanged(entries)
        case _:
            del entries[first]
            return "removed", first, first, forge.exchanged(entries)


def entries_rearranged_unsigned(genuine: Genuine, choose: Random) -> Mutant:
    how, _, _, forge = rearranged(genuine.forge, choose)
    note = unsigned_note(forge, genuine.files[CHECKPOINT])
    reasons = REPLAY | {"bad-signature"}
    return Mutant(f"entries {how}, old signatures", forge.bundle(note=note), reasons)


def entries_rearranged_signed(genuine: Genuine, choose: Random) -> Mutant | None:
    how, first, second, forge = rearranged(genuine.forge, choose)
    kinds = (
        type(peek(genuine.forge.entries[first])[1]),
        type(peek(genuine.forge.entries[second])[1]),
    )
    if how == "exchanged" and (kinds[0] is kinds[1] or second - first < 8):
        return None  # neighbours may be said in either order
    if how == "repeated" and kinds[0] in BENIGN_REPETITION:
        return None
    if how == "removed" and kinds[0] in BENIGN_REMOVAL:
        return None
    if how == "exchanged" and {*kinds} & {TimeStated, SiteReported, Reveal}:
        return None
    # Out of its place an epoch's opening bears another number than the next one has to.
    numbered = EpochOpened in (kinds[:1] if how == "repeated" else kinds)
    reasons = REPLAY | {"altered-parameters"} if numbered else REPLAY
    return Mutant(f"entries {how}, every log key", forge.bundle(), reasons)


def entry_altered_signed(genuine: Genuine, choose: Random) -> Mutant:
    forge = genuine.forge
    at = choose.randrange(len(forge.entries))
    entries = list(forge.entries)
    entries[at] = altered(entries[at], choose)[:65_535]
    return Mutant("entry altered, every log key", forge.exchanged(entries).bundle(), STATEMENT)


def blob_altered_renamed(genuine: Genuine, choose: Random) -> Mutant:
    path = choose.choice([path for path in sorted(genuine.files) if path.startswith(BLOBS)])
    data = altered(genuine.files[path], choose)
    files = {name: content for name, content in genuine.files.items() if name != path}
    files[BLOBS + sha256(data)] = data
    return Mutant("blob altered and renamed", files, frozenset({"missing-blob"}))


def rule_broken(genuine: Genuine, choose: Random) -> Mutant:
    one = choose.choice(VIOLATIONS)
    return Mutant(one.name, one.make(genuine.forge, choose), one.codes)


def prefix_with_later_files(genuine: Genuine, choose: Random) -> Mutant:
    forge = genuine.forge
    size = choose.randint(1, forge.places(StudyCompleted)[-1])
    older = forge.until(size).exported()
    path = choose.choice(sorted(set(genuine.files) - set(older)))
    reasons = frozenset({"strange-file"})
    return Mutant("later file in a prefix", {**older, path: genuine.files[path]}, reasons)


MAKERS: tuple[tuple[int, Maker], ...] = (
    (30, bytes_altered),
    (4, file_deleted),
    (4, file_added),
    (4, files_exchanged),
    (8, note_altered),
    (8, entries_rearranged_unsigned),
    (6, entries_rearranged_signed),
    (10, entry_altered_signed),
    (4, blob_altered_renamed),
    (20, rule_broken),
    (2, prefix_with_later_files),
)


# --- a study whose answers take noise off -----------------------------------------------------


def noised_answers(forge: Forge) -> list[int]:
    """Return where in the log the answers stand that open keys of noise."""
    return [at for at in forge.places(Reveal) if forge.said(at, Reveal).surplus]


def other_hex(text: str, choose: Random) -> str:
    at = choose.randrange(len(text))
    digit = choose.choice([one for one in "0123456789abcdef" if one != text[at]])
    return text[:at] + digit + text[at + 1 :]


def noise_key_altered(genuine: Genuine, choose: Random) -> Mutant:
    forge = genuine.forge
    at = choose.choice(noised_answers(forge))
    keys = list(forge.said(at, Reveal).surplus or ())
    place = choose.randrange(len(keys))
    others = [key for one in noised_answers(forge) for key in forge.said(one, Reveal).surplus or ()]
    foreign = [key for key in others if key not in keys]
    keys[place] = choose.choice([other_hex(keys[place], choose), choose.choice(foreign)])
    files = forge.changed(at, surplus=tuple(keys)).bundle()
    return Mutant("key of noise altered", files, frozenset({"surplus-differs"}))


def noise_key_added(genuine: Genuine, choose: Random) -> Mutant:
    forge = genuine.forge
    at = choose.choice(forge.places(Reveal))
    keys = forge.said(at, Reveal).surplus or ()
    known = [key for one in noised_answers(forge) for key in forge.said(one, Reveal).surplus or ()]
    files = forge.changed(at, surplus=(*keys, choose.choice(known))).bundle()
    return Mutant("key of noise added", files, frozenset({"surplus-parts"}))


def noise_key_removed(genuine: Genuine, choose: Random) -> Mutant:
    """The noise stays in, and everybody arrives at another model than the log goes on with."""
    forge = genuine.forge
    at = choose.choice(noised_answers(forge))
    files = forge.changed(at, surplus=msgspec.UNSET).bundle()
    return Mutant("key of noise removed", files, frozenset({"wrong-query", "wrong-model"}))


def noise_commitment_altered(genuine: Genuine, choose: Random) -> Mutant:
    """In the header, with nothing after it: as many as parts, each once."""
    forge = genuine.forge
    at = choose.choice(forge.places(MaskedInput))
    header = forge.said(at, MaskedInput)
    parts = header.surplus or ()
    more = (*parts, other_hex(header.root, choose))
    repeated = (header.noise,) if parts and header.noise else more
    changed = choose.choice([more, repeated])
    files = forge.until(at + 1).changed(at, surplus=changed).bundle()
    return Mutant(
        "commitment to noise altered", files, frozenset({"surplus-parts", "surplus-repeat"})
    )


NOISE_MAKERS: tuple[tuple[int, Maker], ...] = (
    (4, noise_key_altered),
    (4, noise_key_added),
    (4, noise_key_removed),
    (4, noise_commitment_altered),
    (4, bytes_altered),
    (2, entry_altered_signed),
)


@pytest.fixture(scope="module")
def noised(tmp_path_factory: pytest.TempPathFactory) -> Genuine:
    """A study whose answers take noise off, with a member lost in one round, released."""
    federation = found_private(tmp_path_factory.mktemp("noised"), in_memory=True, capture=False)
    lost = SITES[-1]

    def lose_one() -> None:
        study = federation.coordinator.state.running
        index = -1 if study is None else study.progress.index
        if index == 2:
            federation.network.sever(lost)
        elif index == 3:
            federation.network.heal(lost)

    plan = private_plan(federation, surplus=True)
    study = federation.run_study(plan, private_contract(), lose_one)
    assert [len(one.members_in) for one in study.rounds] == [4, 4, 3, 4, 4]
    federation.release(study)
    genuine = genuine_of(federation)
    assert len(noised_answers(genuine.forge)) == 3 * 4
    return genuine


@pytest.mark.parametrize("seed", SEEDS)
def test_no_altered_key_of_noise_is_accepted(noised: Genuine, seed: int) -> None:
    verify_bundle(noised.forge.bundle(), noised.forge.anchor)
    choose = Random(f"noise {seed}")
    try_mutations(lambda: noised, NOISE_MAKERS, choose, MUTATIONS // len(SEEDS) // 10)


def try_mutations(
    draw: Callable[[], Genuine], makers: Sequence[tuple[int, Maker]], choose: Random, number: int
) -> None:
    """Alter what `draw` returns `number` times: each is refused, for a reason that fits."""
    weighted = [maker for weight, maker in makers for _ in range(weight)]
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    while counts.total() < number:
        genuine = draw()
        mutant = choose.choice(weighted)(genuine, choose)
        if mutant is None or mutant.files == genuine.files:
            continue
        counts[mutant.kind] += 1
        try:
            verify_bundle(mutant.files, genuine.forge.anchor)
        except (FormatError, VerificationError) as refusal:
            reason = getattr(refusal, "code", FORMAT)
            if reason not in mutant.reasons:
                wrong.append(f"{mutant.kind}: {reason}: {refusal}")
        else:
            wrong.append(f"{mutant.kind}: accepted")
    print(*(f"{count:6} {kind}" for kind, count in sorted(counts.items())), sep="\n")
    assert not wrong, "\n".join(wrong[:40])


def kind_of(path: str) -> str:
    """Return the kind of a file, for the count."""
    return path.split("/")[0] if path.startswith((BLOBS, LOG)) else path


@pytest.fixture(scope="module")
def histories(tmp_path_factory: pytest.TempPathFactory) -> tuple[Genuine, ...]:
    classical = released_history(tmp_path_factory.mktemp("classical"))
    hybrid = released_history(tmp_path_factory.mktemp("hybrid"), post_quantum=True)
    return classical, hybrid


def test_the_controls_hold(histories: tuple[Genuine, ...]) -> None:
    for genuine in histories:
        forge = genuine.forge
        after = suspended_history(genuine)
        for files in (
            genuine.files,
            forge.exported(),
            forge.exported(note=forge.note(tuple(forge.keys.members)[:3])),
            forge.exported("attested"),
            forge.bundle(),
            after.files,
        ):
            verify_bundle(files, forge.anchor)
        for size in range(1, len(forge.entries), 7):
            verify_bundle(forge.until(size).exported(), forge.anchor)


def test_reasonless_rearrangements_are_histories_too(histories: tuple[Genuine, ...]) -> None:
    """What the campaign leaves out is accepted: so nothing that matters hides behind it."""
    forge = histories[0].forge
    for kind in BENIGN_REPETITION:
        at = forge.places(kind)[0]
        twice = forge.until(at + 1).and_entry(forge.entries[at])
        verify_bundle(twice.exported(), forge.anchor)
    for kind in BENIGN_REMOVAL:
        at = forge.places(kind)[0]
        without = forge.exchanged(forge.entries[:at] + forge.entries[at + 1 :])
        verify_bundle(without.exported(), forge.anchor)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_mutation_is_accepted_or_refused_for_another_reason(
    histories: tuple[Genuine, ...], seed: int
) -> None:
    choose = Random(f"tamper {seed}")
    number = MUTATIONS // len(SEEDS)
    try_mutations(lambda: histories[choose.random() < 0.25], MAKERS, choose, number)
