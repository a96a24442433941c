"""T-30 to T-36: bundles altered as files, cosignatures, anchors and older prefixes; and controls.

Planted faults that these tests, or the campaign, caught, each a check taken out alone: anchor,
checkpoint named by the manifest, its size, tiles, names of blobs, root, quorum (with that of the
age), quorum one lower, strict reading of the note, lost inputs, strange blobs, derived files,
strange files, least size, greatest age, age by the newest cosignature, exposure of sums,
documents of proposals, simulation, bounds of the claimed size, the kind of a refusal.
"""

from collections.abc import Callable, Mapping
from random import Random

import msgspec
import pytest

from tests import worlds
from tests.forgery import Files, Forge, Genuine, Keys, released_history, suspended_history
from tests.small_federation import SITES
from tests.violations import a_last_sum_off_by_one_and_all_that_follows_from_it
from tests.worlds import World
from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.crypto.keys import SigningKey
from treaty.errors import FormatError, ResourceError, UsageError, VerificationError
from treaty.governance.charter import Charter, witness_name
from treaty.governance.exposure import Artefact
from treaty.governance.template import CharterOptions
from treaty.ids import Digest, Timestamp
from treaty.protocol.messages import ComparisonPublished, Figures, ProposalOpened, StudyCompleted
from treaty.protocol.secagg_messages import MaskedInput, RoundAbandoned, RoundCode, RoundResult
from treaty.protocol.statements import seal_statement
from treaty.provenance.bundle import BLOBS, CHECKPOINT, MANIFEST, Manifest
from treaty.provenance.record import replay
from treaty.provenance.verify import Status, verify_bundle
from treaty.simulation.federation import COORDINATOR
from treaty.tlog.checkpoint import (
    Checkpoint,
    add_cosignatures,
    cosign,
    parse_unverified,
    sign,
)
from treaty.tlog.merkle import MerkleTree
from treaty.tlog.notes import Cosigner, Signer


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Genuine:
    return released_history(tmp_path_factory.mktemp("federation"))


def refused(files: Files, anchor: Digest, **asked: object) -> str:
    """Return the code by which the bundle is refused; fail when it holds."""
    with pytest.raises((VerificationError, FormatError)) as caught:
        verify_bundle(files, anchor, **asked)  # type: ignore[arg-type]  # passed through
    return getattr(caught.value, "code", "format")


def with_manifest(files: Mapping[str, bytes], **changes: object) -> Files:
    """Return the bundle with fields of its manifest changed; it names the checkpoint as it is."""
    manifest = canonical.decode(files[MANIFEST], Manifest)
    fields = {name: getattr(manifest, name) for name in Manifest.__struct_fields__}
    fields |= {"checkpoint": sha256(files[CHECKPOINT])} | changes
    return {**files, MANIFEST: canonical.encode(Manifest(**fields))}


def with_note(files: Mapping[str, bytes], note: bytes) -> Files:
    """Return the bundle with another checkpoint, which the manifest names."""
    return with_manifest({**files, CHECKPOINT: note})


# --- controls ---------------------------------------------------------------------------------


def test_the_exported_bundle_holds(genuine: Genuine) -> None:
    verdict = verify_bundle(genuine.files, genuine.forge.anchor)
    assert verdict.record.released
    assert verdict.record.sums_recomputed == 6
    assert verdict.record.sums_attested == 0
    assert verdict.record.simulation


def test_another_export_of_the_same_log_holds(genuine: Genuine) -> None:
    """Cosigned anew, at another time and by a bare quorum: other bytes, the same history."""
    forge = genuine.forge
    files = forge.exported(note=forge.note(SITES[:3]))
    assert files != genuine.files
    assert verify_bundle(files, forge.anchor).record.cosignatures == 3


def test_r07_the_attested_edition_says_that_sums_are_not_recomputed(genuine: Genuine) -> None:
    record = verify_bundle(genuine.forge.exported("attested"), genuine.forge.anchor).record
    assert (record.sums_recomputed, record.sums_attested) == (0, 6)
    statuses = {one.name: one.status for one in record.guarantees}
    assert statuses["sums"] is Status.ATTESTED


def test_a_bundle_after_a_suspension_holds(genuine: Genuine) -> None:
    after = suspended_history(genuine)
    assert verify_bundle(after.files, after.forge.anchor).record.quorum == 3


def test_every_older_genuine_prefix_holds(genuine: Genuine) -> None:
    forge = genuine.forge
    for size in range(1, len(forge.entries) + 1):
        older = forge.until(size)
        record = verify_bundle(older.exported(), forge.anchor).record
        assert record.size == size
        fresh = next(one for one in record.guarantees if one.name == "freshness")
        assert fresh.status is Status.NOT_COVERED


# --- T-32: older histories --------------------------------------------------------------------


def test_t32_an_older_prefix_is_refused_where_a_least_size_is_asked(genuine: Genuine) -> None:
    forge = genuine.forge
    older = forge.until(len(forge.entries) - 1).exported()
    assert refused(older, forge.anchor, min_size=len(forge.entries)) == "too-short"
    verify_bundle(genuine.files, forge.anchor, min_size=len(forge.entries))


def test_t32_an_old_quorum_is_refused_where_an_age_is_asked(genuine: Genuine) -> None:
    forge = genuine.forge
    files = forge.exported()
    at = Timestamp(forge.time_s * 1000 + 60_000)
    verdict = verify_bundle(files, forge.anchor, max_age_ms=60_000, now=at)
    fresh = next(one for one in verdict.record.guarantees if one.name == "freshness")
    assert fresh.status is Status.PROVED
    late = Timestamp(at + 1)
    assert refused(files, forge.anchor, max_age_ms=60_000, now=late) == "too-old"


def test_t32_one_fast_clock_does_not_make_an_old_checkpoint_new(genuine: Genuine) -> None:
    forge = genuine.forge
    day = 86_400
    checkpoint = parse_unverified(forge.note())
    name = SITES[3]
    fast = cosign(
        checkpoint,
        Cosigner(witness_name(name), forge.keys.members[name]["witness"]),
        forge.time_s + day,
    )
    files = forge.exported(note=add_cosignatures(forge.note(SITES[:3]), [fast]))
    now = Timestamp((forge.time_s + day) * 1000)
    assert refused(files, forge.anchor, max_age_ms=3_600_000, now=now) == "too-old"


def test_t32_a_prefix_is_refused_when_derived_files_name_a_later_model(genuine: Genuine) -> None:
    forge = genuine.forge
    completed = forge.places(StudyCompleted)[-1]
    older = forge.until(completed).exported()
    for path in ("model.safetensors", "normaliser.json", "evaluation.json", "plan.json"):
        assert refused({**older, path: genuine.files[path]}, forge.anchor) == "strange-file"
    unreleased = forge.until(completed + 1).exported()
    proof = {"release.tlog-proof": genuine.files["release.tlog-proof"]}
    assert refused({**unreleased, **proof}, forge.anchor) == "strange-file"


def test_t32_an_age_without_the_present_time_is_the_callers_mistake(genuine: Genuine) -> None:
    with pytest.raises(UsageError):
        verify_bundle(genuine.files, genuine.forge.anchor, max_age_ms=1)


# --- T-30: cosignatures -----------------------------------------------------------------------


def test_t30_too_few_cosignatures_are_refused(genuine: Genuine) -> None:
    forge = genuine.forge
    for names in ((), SITES[:1], SITES[:2], SITES[2:]):
        files = forge.exported(note=forge.note(names))
        assert refused(files, forge.anchor) == "no-quorum"


def test_t30_one_witness_twice_does_not_make_a_quorum(genuine: Genuine) -> None:
    forge = genuine.forge
    name = SITES[0]
    again = cosign(
        parse_unverified(forge.note()),
        Cosigner(witness_name(name), forge.keys.members[name]["witness"]),
        forge.time_s + 1,
    )
    two = forge.note(SITES[:2])
    line = str(again).encode()
    body, _, lines = two.rpartition(b"\n\n")
    rows = sorted({*lines.splitlines(keepends=True), line}, key=lambda row: row.split(b" ")[1])
    rows.sort(key=lambda row: b"/log/" not in row)
    files = with_note(forge.exported(), body + b"\n\n" + b"".join(rows))
    assert refused(files, forge.anchor) in {"signed-twice", "format"}


def test_t30_a_stranger_or_a_suspended_member_is_no_witness(genuine: Genuine) -> None:
    forge = genuine.forge
    strange = cosign(
        parse_unverified(forge.note()),
        Cosigner("zuflueh/witness", SigningKey.generate(bytes(32))),
        forge.time_s,
    )
    files = forge.exported(note=add_cosignatures(forge.note(), [strange]))
    assert refused(files, forge.anchor) == "unknown-key"
    after = suspended_history(genuine).forge
    files = after.exported(note=after.note(SITES))
    assert refused(files, forge.anchor) == "unknown-key"


def test_t30_a_log_that_did_not_sign_is_refused(genuine: Genuine) -> None:
    forge = genuine.forge
    note = forge.note()
    rows = [row for row in note.splitlines(keepends=True) if b"/log/1 " not in row]
    assert refused(with_note(forge.exported(), b"".join(rows)), forge.anchor) == "unsigned"


def test_t31_another_root_under_every_signature_is_refused(genuine: Genuine) -> None:
    """The log and all witnesses sign a tree that is not that of the entries."""
    forge = genuine.forge
    other = forge.until(len(forge.entries) - 1)
    longer = other.and_entry(other.entries[-1])
    files = with_note(forge.exported(), longer.note())
    assert refused(files, forge.anchor) == "root-mismatch"


def test_t31_a_checkpoint_of_another_size_is_refused(genuine: Genuine) -> None:
    forge = genuine.forge
    shorter = forge.until(len(forge.entries) - 1)
    files = with_note(forge.exported(), shorter.note())
    assert refused(files, forge.anchor) == "checkpoint-differs"
    files = with_manifest(files, size=len(shorter.entries))
    assert refused(files, forge.anchor) in {"missing-tile", "strange-file"}


def test_t31_another_genuine_checkpoint_is_not_the_manifests(genuine: Genuine) -> None:
    """As many cosignatures, of the same tree: still not the bytes that the manifest names."""
    forge = genuine.forge
    older = forge.until(forge.places(StudyCompleted)[-1])
    other = older.note(SITES[:3])
    assert refused({**older.exported(), CHECKPOINT: other}, forge.anchor) == "checkpoint-differs"
    assert refused({**genuine.files, CHECKPOINT: forge.note(SITES[:3])}, forge.anchor) == (
        "checkpoint-differs"
    )


@pytest.mark.parametrize("size", [0, 10_000_001, (1 << 53) - 1])
def test_t31_no_log_is_empty_or_without_end(genuine: Genuine, size: int) -> None:
    """What a checkpoint claims is bounded before a tile of it is looked for."""
    forge = genuine.forge
    origin = forge.charter.log.origin
    claimed = Checkpoint(origin, size, MerkleTree().root())
    note = sign(claimed, Signer(origin, forge.keys.log))
    files = with_manifest({**forge.exported(), CHECKPOINT: note}, size=size)
    assert refused(files, forge.anchor) == "checkpoint-differs"


def test_t31_an_entry_that_does_not_parse_is_refused_as_that(genuine: Genuine) -> None:
    """It is a matter of format, and the refusal names the entry."""
    forge = genuine.forge
    files = forge.and_entry(b"{}").bundle()
    with pytest.raises(FormatError, match=f"entry {len(forge.entries)}: expected"):
        verify_bundle(files, forge.anchor)


# --- T-35: files ------------------------------------------------------------------------------


def test_t35_the_anchor_decides(genuine: Genuine) -> None:
    other = sha256(b"another consortium")
    assert refused(genuine.files, other) == "wrong-anchor"
    assert refused(with_manifest(genuine.files, anchor=other), other) == "wrong-anchor"
    assert refused(with_manifest(genuine.files, anchor=other), genuine.forge.anchor) == (
        "wrong-anchor"
    )


def test_t35_every_file_is_needed(genuine: Genuine) -> None:
    expected = {"manifest.json": "format", "log/checkpoint": "format"}
    for path in genuine.files:
        rest = {name: data for name, data in genuine.files.items() if name != path}
        code = refused(rest, genuine.forge.anchor)
        if path.startswith(BLOBS):
            assert code == "missing-blob", path
        elif path.startswith("log/tile"):
            assert code == "missing-tile", path
        else:
            assert code == expected.get(path, "derived-differs"), path


def test_t35_every_document_that_was_voted_on_is_needed(genuine: Genuine) -> None:
    """A plan that was proposed and never run cannot be taken out of the bundle unseen."""
    forge = genuine.forge
    document = b'{"a plan":"that nobody opened"}'
    proposal = forge.said(forge.places(ProposalOpened)[-1], ProposalOpened)
    asked = ProposalOpened(
        charter=proposal.charter,
        author=proposal.author,
        action=proposal.action,
        subject=sha256(document),
    )
    files = forge.with_blob(document).saying(asked).exported()
    verify_bundle(files, forge.anchor)
    del files[BLOBS + sha256(document)]
    assert refused(files, forge.anchor) == "missing-blob"


def test_t35_nothing_may_be_added(genuine: Genuine) -> None:
    extra = b"extra"
    for path, code in (
        ("notes.txt", "strange-file"),
        ("log/tile/0/001.p/1", "strange-file"),
        ("log/tile/entries/000.p/1", "strange-file"),
        ("log/notes", "strange-file"),
        (BLOBS + sha256(extra), "strange-file"),
        (BLOBS + "0" * 64, "blob-mismatch"),
        (BLOBS + sha256(extra).upper(), "blob-mismatch"),
        ("", "strange-file"),
    ):
        assert refused({**genuine.files, path: extra}, genuine.forge.anchor) == code


def test_t35_the_edition_says_which_inputs_are_there(genuine: Genuine) -> None:
    forge = genuine.forge
    full, attested = genuine.files, forge.exported("attested")
    assert refused(with_manifest(full, edition="attested"), forge.anchor) == "strange-file"
    assert refused(with_manifest(attested, edition="full"), forge.anchor) == "missing-blob"
    [some, *_] = sorted(set(full) - set(attested))
    assert refused({**attested, some: full[some]}, forge.anchor) == "strange-file"
    partly = {path: data for path, data in full.items() if path != some}
    assert refused(partly, forge.anchor) == "missing-blob"


def test_t23_inputs_of_an_abandoned_round_are_needed_too(genuine: Genuine) -> None:
    """They were logged; that no sum came of them does not make them free to vanish."""
    forge = genuine.forge
    result = forge.places(RoundResult)[0]
    body = RoundAbandoned(
        charter=forge.state().members.directory.charter,
        author=COORDINATOR,
        context=forge.said(result, RoundResult).context,
        code=RoundCode.TOO_FEW_REVEALS,
    )
    forge = forge.until(result).saying(body)
    files = forge.exported()
    assert verify_bundle(files, forge.anchor).record.sums_recomputed == 0
    blob = forge.said(forge.places(MaskedInput)[0], MaskedInput).blob
    rest = {path: data for path, data in files.items() if path != BLOBS + blob}
    assert refused(rest, forge.anchor) == "missing-blob"
    with pytest.raises(ResourceError):
        forge.without_blob(blob).exported()
    verify_bundle(forge.without_blob(blob).exported("attested"), forge.anchor)


def test_a_bundle_of_two_members_left_of_three_holds() -> None:
    """Too few for a secure sum, but their history is as good as before."""
    world = World(3)
    world.propose_and_suspend(world.names[-1])
    forge = forge_of(world)
    record = verify_bundle(forge.exported(), forge.anchor).record
    assert (record.cosignatures, record.quorum) == (2, 2)


def test_t30_a_suspension_that_would_leave_no_quorum_is_refused() -> None:
    """Three of five may collude: with three left, no number of witnesses would hold an honest one.

    As many as amend the charter stay, and they are more than may collude.
    """
    world = World(5, CharterOptions(max_colluders=3, post_quantum=False))
    world.propose_and_suspend(world.names[4], world.names[:2])
    with worlds.refused("deadlock"):
        world.propose_and_suspend(world.names[3], world.names[:2])
    forge = forge_of(world)
    record = verify_bundle(forge.exported(), forge.anchor).record
    assert record.quorum == 4


def forge_of(world: World) -> Forge:
    """Return the log of a world in the hands of someone with every key."""
    keys = Keys(
        coordinator=worlds.COORDINATOR,
        log=worlds.LOG_KEY,
        members={
            name: {
                "approval": worlds.approval(name),
                "runner": worlds.runner(name),
                "witness": worlds.witness(name),
            }
            for name in world.names
        },
    )
    return Forge(world.state.anchor, keys, tuple(world.entries), world.documents)


def test_t36_an_attested_sum_off_by_one_is_stated_as_attested_only(genuine: Genuine) -> None:
    """R-7: with every key a false sum passes where no inputs are, and the verdict says so."""
    forge = a_last_sum_off_by_one_and_all_that_follows_from_it(genuine.forge, Random(7))
    for at in forge.places(MaskedInput):
        forge = forge.without_blob(forge.said(at, MaskedInput).blob)
    verdict = verify_bundle(forge.exported("attested"), forge.anchor)
    assert verdict.record.sums_recomputed == 0
    assert "attested, not recomputed" in "\n".join(verdict.lines())


# --- rules that need another charter than the federation's ------------------------------------


def replayed(world: World) -> str:
    """Return the code by which the replay of a world's log is refused."""
    with pytest.raises(VerificationError) as caught:
        replay(world.entries, world.state.anchor, world.find, world.documents.__contains__)
    return caught.value.code


def test_t42_a_comparison_needs_a_simulation(genuine: Genuine) -> None:
    world = World()
    figures = Figures(accuracy=1, auc=None, brier=1)
    body = world.write(
        ComparisonPublished,
        plan=sha256(b"plan"),
        model=sha256(b"model"),
        label="simulation only",
        pooled=figures,
        max_probability_gap_e12=0,
        alone_everywhere={},
    )
    world.entries.append(seal_statement(body, worlds.COORDINATOR))
    assert replayed(world) == "simulation"


def without(artefact: Artefact) -> Callable[[Charter], Charter]:
    """Return an edit that takes every row of a class from the charter."""

    def edit(charter: Charter) -> Charter:
        rows = tuple(row for row in charter.exposure if row.artefact is not artefact)
        return msgspec.structs.replace(charter, exposure=rows)

    return edit


@pytest.mark.parametrize(
    "artefact", [Artefact.PROTOCOL_KEY, Artefact.MASKED_INPUT, Artefact.SECRET_SHARE, Artefact.VOTE]
)
def test_t27_a_member_may_not_say_what_the_charter_has_no_row_for(artefact: Artefact) -> None:
    world = World(edit=without(artefact))
    world.start()
    world.open_epoch()
    world.open_round()
    world.collect()
    world.reveal(world.names[0])
    assert replayed(world) == "exposure"


def test_t40_a_sum_over_fewer_members_than_its_row_accepts_is_refused() -> None:
    """Five members accept sums over four; after a suspension rounds could go on with three."""
    world = World(5)
    world.start()
    world.open_epoch()
    world.propose_and_suspend(world.names[-1])
    world.open_epoch()
    world.open_round()
    world.collect(world.names[:3])
    for name in world.names[:3]:
        world.reveal(name)
    world.result(world.total())
    assert replayed(world) == "exposure"
