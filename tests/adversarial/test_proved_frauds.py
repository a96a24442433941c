"""T-20, R-14: a coordinator that published a false sum is convicted from stored bytes alone.

A consortium on disk whose coordinator alters one word of one sum of an audited study. Its log goes
on to prove that; the bundle is exported and refused for that reason, and the proof is shown,
written and checked on the command line. Where the coordinator keeps the proof out of the log, a
member's own directory has it.

Planted faults, each seen to fail here: a false sum that is proved ends the replay; a false sum that
nobody proved is taken for one that is; a bundle that proves a fraud holds; the fraud found in the
full edition alone; `audit show` exits 0; it leaves out what is not logged; it shows a log without
verifying the bundle; `audit check` believes the proof; the dispute's author taken for the
coordinator.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.small_federation import SITES, SmallFederation, contract, found, small_plan
from tests.unit.cli.conftest import Command, treaty
from treaty.aggregation.masking import recompute_sum
from treaty.aggregation.quantization import ring_vector
from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.errors import VerificationError
from treaty.ids import Digest
from treaty.node import coordinator as coordinator_node
from treaty.node.intake import MEMBER_STATEMENTS
from treaty.node.rounds import RoundDriver
from treaty.protocol.messages import HaltCode
from treaty.protocol.secagg_audit import FraudProof
from treaty.protocol.secagg_coordinator import NeedSum, SumReady
from treaty.protocol.secagg_messages import RoundResult, SumDisputed
from treaty.protocol.statements import peek
from treaty.provenance.bundle import BLOBS
from treaty.provenance.record import replay
from treaty.provenance.verify import examine_bundle, verify_bundle
from treaty.simulation.federation import COORDINATOR
from treaty.studies.plan import AggregationSettings
from treaty.wiring import read_bundle, stored_log, write_bundle

__all__ = ["treaty"]

LIE = 2
"""The number of the sum that is false."""


def lying(study_driver: RoundDriver, need: NeedSum, find: object) -> None:
    """Add up as the coordinator does, and alter a word of one sum."""
    vectors = [ring_vector(find(blob), need.ring_bits, need.length) for blob in need.blobs]  # type: ignore[operator]  # a function
    words = recompute_sum(vectors, need.plan, need.ring_bits)
    if len(study_driver._opened) == LIE + 1:
        np.add(words[:1], 1, out=words[:1])
    total = words.tobytes()
    study_driver._need = None
    study_driver._in_round(SumReady(sha256(total)), (total,))


def ran(directory: Path, *, hidden: bool) -> SmallFederation:
    """Run an audited study under the lying coordinator, which may keep proofs out of the log."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RoundDriver, "_sum", lying)
        if hidden:
            kept = tuple(kind for kind in MEMBER_STATEMENTS if kind is not SumDisputed)
            patch.setattr(coordinator_node, "MEMBER_STATEMENTS", kept)
        federation = found(directory, capture=False)
        settings = AggregationSettings(
            max_persons_per_site=256,
            slots_per_epoch=LIE + 1 if hidden else 16,
            support_rows=1,
            audited=True,
        )
        study = federation.run_study(small_plan(federation, aggregation=settings), contract())
        code = HaltCode.TOO_FEW_MEMBERS if hidden else HaltCode.SUM_FALSE
        assert study.halt_code is code
        federation.settle()
        federation.close()
    return federation


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallFederation]:
    yield ran(tmp_path_factory.mktemp("proved"), hidden=False)


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallFederation]:
    yield ran(tmp_path_factory.mktemp("hidden"), hidden=True)


def exported(treaty: Command, federation: SmallFederation, out: Path, edition: str) -> Path:
    made = treaty(
        "bundle", "export", "--dir", federation.directory, "--out", out, "--edition", edition
    )
    assert (made.code, made.err) == (0, "")
    return out


@pytest.mark.parametrize("edition", ["full", "attested"])
def test_the_bundle_of_a_proved_fraud_is_exported_and_refused_for_it(
    treaty: Command, proved: SmallFederation, tmp_path: Path, edition: str
) -> None:
    bundle = exported(treaty, proved, tmp_path / "bundle", edition)
    refused = treaty("verify", bundle, "--anchor", proved.anchor, "--format", "json")
    said = json.loads(refused.out)
    assert refused.code == said["exit_code"] == 3 and said["code"] == "sum-false"
    entries = proved.coordinator.entries
    bodies = [peek(entry)[1] for entry in entries]
    results = [at for at, body in enumerate(bodies) if isinstance(body, RoundResult)]
    disputes = [at for at, body in enumerate(bodies) if isinstance(body, SumDisputed)]
    assert said["error"].startswith(f"entry {results[LIE]}: coordinator published a false sum")
    assert f"{bodies[disputes[0]].author} proves in entry {disputes[0]}" in said["error"]
    history = examine_bundle(read_bundle(bundle), proved.anchor).history
    (fraud,) = history.frauds
    assert (fraud.author, fraud.entry, fraud.chunk) == (COORDINATOR, results[LIE], 0)
    assert fraud.result == sha256(entries[results[LIE]])
    assert (fraud.disputed_by, fraud.disputed_in) == (bodies[disputes[0]].author, disputes[0])
    whole = edition == "full"
    assert history.recomputed == (len(results) - 1 if whole else 0)
    assert history.attested == (0 if whole else len(results))


def test_the_proof_is_shown_written_and_checked(
    treaty: Command, proved: SmallFederation, tmp_path: Path
) -> None:
    bundle = exported(treaty, proved, tmp_path / "bundle", "full")
    (tmp_path / "proofs").mkdir()
    log = ("--bundle", bundle, "--anchor", proved.anchor)
    shown = treaty("audit", "show", *log, "--out", tmp_path / "proofs", "--format", "json")
    said = json.loads(shown.out)
    assert shown.code == 3
    (fraud,) = said["frauds"]
    (study,) = said["studies"]
    assert study["phase"] == "halted" and study["unaudited"] > LIE and study["audited"] == 0
    (file,) = said["files"]
    assert Path(file).name == f"{fraud['proof']}.json"
    assert sha256(Path(file).read_bytes()) == fraud["proof"]
    for words in (
        log,
        ("--dir", proved.directory),
        ("--dir", proved.directory, "--member", "birs"),
    ):
        checked = treaty("audit", "check", file, *words, "--format", "json")
        assert checked.code == 0
        assert json.loads(checked.out) == {
            name: fraud[name] for name in ("author", "chunk", "entry", "result", "study")
        }
    text = treaty("audit", "show", *log)
    assert text.code == 3 and "coordinator published a false sum" in text.out
    assert f"{fraud['disputed_by']}, entry {fraud['disputed_in']}" in text.out
    # The same from a member's own copy of the log.
    own = treaty("audit", "show", "--dir", proved.directory, "--member", "emme", "--format", "json")
    assert own.code == 3 and json.loads(own.out)["frauds"] == said["frauds"]
    # A file is never replaced.
    again = treaty("audit", "show", *log, "--out", tmp_path / "proofs")
    assert again.code == 5


def test_a_proof_that_proves_nothing_is_refused(
    treaty: Command, proved: SmallFederation, tmp_path: Path
) -> None:
    bundle = exported(treaty, proved, tmp_path / "bundle", "attested")
    history = examine_bundle(read_bundle(bundle), proved.anchor).history
    (fraud,) = history.frauds
    data = read_bundle(bundle)[BLOBS + fraud.proof]
    proof = canonical.decode(data, FraudProof, limit=1 << 28)
    results = [
        sha256(entry)
        for entry in proved.coordinator.entries
        if isinstance(peek(entry)[1], RoundResult)
    ]
    name, pieces = next(iter(proof.pieces.items()))
    wrong = {
        "": data[:-1],
        "format": b"{}",
        "wrong-result": canonical.encode(msgspec.structs.replace(proof, result="0" * 64)),
        "no-such-chunk": canonical.encode(msgspec.structs.replace(proof, chunk=1)),
        "chunk-list-differs": canonical.encode(
            msgspec.structs.replace(proof, result=results[LIE - 1])
        ),
        "chunk-differs": canonical.encode(
            msgspec.structs.replace(proof, pieces={**proof.pieces, name: "AAAA" + pieces[4:]})
        ),
    }
    for code, spoilt in wrong.items():
        path = tmp_path / "spoilt.json"
        path.write_bytes(spoilt)
        for words in (("--bundle", bundle), ("--dir", proved.directory)):
            refused = treaty(
                "audit", "check", path, *words, "--anchor", proved.anchor, "--format", "json"
            )
            assert refused.code == 3, code
            assert json.loads(refused.out)["code"] == (code or "format")


@pytest.mark.parametrize(
    ("edition", "code"), [("full", "sum-mismatch"), ("attested", "missing-blob")]
)
def test_a_bundle_without_its_proof_shows_no_fraud(
    treaty: Command, proved: SmallFederation, tmp_path: Path, edition: str, code: str
) -> None:
    bundle = exported(treaty, proved, tmp_path / "bundle", edition)
    files = dict(read_bundle(bundle))
    history = examine_bundle(files, proved.anchor).history
    del files[BLOBS + history.frauds[0].proof]
    write_bundle(tmp_path / "altered", files)
    for words in (("verify",), ("audit", "show", "--bundle")):
        refused = treaty(
            *words, tmp_path / "altered", "--anchor", proved.anchor, "--format", "json"
        )
        assert refused.code == 3 and json.loads(refused.out)["code"] == code


def test_a_bundle_that_is_not_verified_shows_nothing(
    treaty: Command, proved: SmallFederation, tmp_path: Path
) -> None:
    bundle = exported(treaty, proved, tmp_path / "bundle", "full")
    write_bundle(tmp_path / "strange", dict(read_bundle(bundle)) | {"notes.txt": b"believe me"})
    refused = treaty("audit", "show", "--bundle", tmp_path / "strange", "--anchor", proved.anchor)
    assert refused.code == 3 and "notes.txt" in refused.err
    assert "false sum" not in refused.out


def test_a_fraud_that_the_log_keeps_silent_about_is_still_a_false_sum(
    treaty: Command, hidden: SmallFederation, tmp_path: Path
) -> None:
    """No bundle that adds sums up is made of it."""
    made = treaty(
        "bundle", "export", "--dir", hidden.directory, "--out", tmp_path / "b", "--format", "json"
    )
    assert made.code == 3 and json.loads(made.out)["code"] == "sum-mismatch"


def test_a_members_own_directory_has_the_proof_that_is_not_logged(
    treaty: Command, hidden: SmallFederation, tmp_path: Path
) -> None:
    (tmp_path / "proofs").mkdir()
    found: list[str] = []
    for name in SITES:
        words = ("--dir", hidden.directory, "--member", name)
        place = tmp_path / name
        place.mkdir()
        shown = treaty("audit", "show", *words, "--out", place, "--format", "json")
        said = json.loads(shown.out)
        assert shown.code == (3 if said["frauds"] else 0)
        for fraud in said["frauds"]:
            assert (fraud["disputed_by"], fraud["disputed_in"]) == (name, None)
            found += said["files"]
    assert len(found) >= 2
    # Anyone convicts the coordinator with it, by the coordinator's own log.
    checked = treaty("audit", "check", found[0], "--dir", hidden.directory, "--format", "json")
    assert checked.code == 0 and json.loads(checked.out)["author"] == COORDINATOR
    silent = treaty("audit", "show", "--dir", hidden.directory)
    assert silent.code == 0 and "false sum" not in silent.out


def test_a_log_has_to_be_named_once(treaty: Command, proved: SmallFederation) -> None:
    anchor = ("--anchor", proved.anchor)
    for words in (
        (),
        ("--bundle", "b", "--dir", "d", *anchor),
        ("--bundle", "b"),
        ("--bundle", "b", "--member", "birs", *anchor),
        ("--dir", proved.directory, "--anchor", "x"),
        ("--dir", proved.directory, "--member", "nobody"),
    ):
        assert treaty("audit", "show", *words).code == 2
    other = treaty("audit", "show", "--dir", proved.directory, "--anchor", "0" * 64)
    assert other.code == 3


def test_a_study_without_a_fraud_shows_its_audits(treaty: Command, tmp_path: Path) -> None:
    federation = found(tmp_path, capture=False)
    settings = AggregationSettings(
        max_persons_per_site=256, slots_per_epoch=16, support_rows=1, audited=True
    )
    study = federation.run_study(small_plan(federation, aggregation=settings), contract())
    federation.settle()
    files = federation.bundle()
    federation.close()
    assert verify_bundle(files, federation.anchor).history.frauds == ()
    shown = treaty("audit", "show", "--dir", tmp_path, "--format", "json")
    said = json.loads(shown.out)
    assert shown.code == 0 and said["frauds"] == [] and said["files"] == []
    assert said["studies"][0]["audited"] == study.audited == len(study.rounds)
    assert "added up again by members, 0 not" in treaty("audit", "show", "--dir", tmp_path).out


def test_a_dispute_alone_convicts_nobody(proved: SmallFederation) -> None:
    """The replay holds the proof against the round, whoever logged it."""
    entries = proved.coordinator.entries
    bodies = [peek(entry)[1] for entry in entries]
    (named,) = [body.proof for body in bodies if isinstance(body, SumDisputed)]
    with stored_log(proved.directory / "parties" / COORDINATOR) as log:

        def find(digest: Digest) -> bytes:
            data = log.find(digest)
            if digest != named:
                return data
            proof = canonical.decode(data, FraudProof, limit=1 << 28)
            return canonical.encode(msgspec.structs.replace(proof, chunk=9))

        for has, code in ((lambda _: False, "no-such-chunk"), (log.has, "sum-mismatch")):
            with pytest.raises(VerificationError) as refusal:
                replay(entries, proved.anchor, find, has)
            assert refusal.value.code == code
