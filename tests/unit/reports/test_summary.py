"""The report's data: what the log says, no more, and the same bytes everywhere.

One real federation of four small sites: a log without a study, then a study that halts for want
of support, then one that completes while a site declines every round.

Planted faults that these tests caught: the margin rounded down; the federated figures in the place
of those alone; rows taken from the last word; a step rounded; survivors counted from participants;
a halted study preferred to a completed one; freshness copied from the verdict; entries or a
checkpoint of another bundle accepted; a silent site told twice; an absent site told every round;
the setbacks of the next study added; round numbers off by one; a class without a row left out;
empty fields counted; sums called independent of data; a model digest of a halted study; zeros for
an absent plan; every witness shown as present; every member shown as taking part; a gap a
thousand times too large; the trace shifted by a round; an attested bundle called proved; release
names in the order of a set.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import pytest

from tests.forgery import genuine_of, suspended_history
from tests.small_federation import SITES, SmallFederation, contract, site_files
from treaty.crypto.canonical import sha256
from treaty.errors import UsageError
from treaty.governance.exposure import FORMS, Artefact, ExposureMatrix
from treaty.ids import Digest, Timestamp
from treaty.models.specification import (
    LinearRegression,
    LogisticRegression,
    ModelSpecification,
    MultilayerPerceptron,
    PoissonRegression,
    TorchModule,
)
from treaty.protocol.messages import MemberSuspended, StudyOpened
from treaty.protocol.secagg_messages import (
    CloseCode,
    DeclineCode,
    EpochClosed,
    InputDeclined,
    MaskedInput,
    RoundAbandoned,
    RoundCode,
    RoundOpened,
    ShareComplaint,
    SurvivorsSealed,
)
from treaty.protocol.statements import Body
from treaty.protocol.study import Phase, Study
from treaty.provenance.bundle import CHECKPOINT, export
from treaty.provenance.verify import Verdict, verify_bundle
from treaty.reports import MAX_REPORT_BYTES, render_report, report_bytes
from treaty.reports.document import Coverage, ReportData
from treaty.reports.findings import headline
from treaty.reports.learned import exposure_lines
from treaty.reports.setbacks import study_refusals
from treaty.reports.statements import Logged
from treaty.reports.summary import NO_STUDY, report_data, report_html
from treaty.reports.vocabulary import lane_of
from treaty.reports.wording import decimal_of, model_in_words
from treaty.simulation.federation import COORDINATOR, Federation
from treaty.simulation.pooled import compare_with_pooled
from treaty.studies.plan import AggregationSettings, EvaluationSettings, Plan
from treaty.wiring import write_bundle

ROOT = Path(__file__).parents[3]
DECLINER = SITES[-1]
CONTRIBUTORS = SITES[:-1]

D = "1" * 64

Files = dict[str, bytes]


@dataclass(frozen=True)
class Story:
    """The bundles of one consortium as its log grew."""

    anchor: Digest
    federation: Federation
    governance: Files
    halted: Files
    completed: Files
    attested: Files

    def verdict(self, files: Files) -> Verdict:
        return verify_bundle(files, self.anchor)

    def report(self, files: Files) -> ReportData:
        return report_data(self.verdict(files), files)


def plan_of(federation: Federation, study: str, support_rows: int) -> Plan:
    return federation.plan(
        study,
        contract(),
        LogisticRegression(max_rounds=3),
        title=f"The study {study}",
        evaluation=EvaluationSettings(bins=8, site_figures=True),
        aggregation=AggregationSettings(max_persons_per_site=256, support_rows=support_rows),
    )


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    place = tmp_path_factory.mktemp("rivers")
    Federation.found(
        place,
        # More rows than the plan allows for: this site declines whatever it is asked.
        {name: site_files(name, 600 if name == DECLINER else 60) for name in SITES},
        consortium="rivers.example",
        titles={"aare": "Hospital on the Aare"},
        site_figures=True,
        post_quantum=False,
    )
    federation = Federation(place, in_memory=True)
    federation.establish()
    federation.settle()
    governance = federation.bundle()
    federation.run_study(plan_of(federation, "first", 1000), contract())
    halted = federation.bundle()
    study = federation.run_study(plan_of(federation, "second", 1), contract())
    sites = {name: federation.participants[name].local_study(study) for name in CONTRIBUTORS}
    charter = federation.coordinator.state.members.directory.charter
    body = compare_with_pooled(study, sites, COORDINATOR, charter)
    federation.coordinator.submit(federation.coordinator.sign(body))
    federation.run(lambda state: bool(state.comparisons))
    federation.release(study)
    yield Story(
        federation.anchor,
        federation,
        governance,
        halted,
        federation.bundle(),
        federation.bundle("attested"),
    )
    federation.close()


def completed_study(story: Story) -> Study:
    return list(story.federation.coordinator.state.studies.values())[-1]


# --- a completed study ---------------------------------------------------------------------------


def test_the_evaluation_is_the_outcome_that_the_log_gives(story: Story) -> None:
    outcome = completed_study(story).progress.evaluation
    found = story.report(story.completed).evaluation
    assert outcome is not None and found is not None
    assert outcome.federated != outcome.alone
    for shown, record in ((found.federated, outcome.federated), (found.alone, outcome.alone)):
        assert (shown.rows, shown.positives) == (record.rows, record.positives)
        assert (shown.accuracy, shown.brier, shown.auc) == (
            record.accuracy,
            record.brier,
            record.auc,
        )
        assert shown.auc_half_width == record.auc_half_width
        assert record.auc_error is not None and shown.auc_margin is not None
        assert 0 <= shown.auc_margin * 1000 - record.auc_error * 1960 < 1000
    assert (found.auc_difference, found.auc_margin) == (outcome.auc_difference, outcome.auc_margin)
    assert (found.verdict.value, found.sites) == (outcome.verdict, 3)
    assert sum(line.rows for line in story.report(story.completed).calibration) == (
        outcome.federated.rows
    )


def test_rounds_are_the_opened_sums_with_exact_steps_and_losses(story: Story) -> None:
    progress = completed_study(story).progress
    rounds = story.report(story.completed).rounds
    fitted = len(progress.trace)
    assert [line.number for line in rounds] == list(range(1, fitted + 4))
    assert [line.kind for line in rounds] == [
        "support of the columns",
        "counts, sums and squares",
        *["gradient and Hessian"] * fitted,
        "evaluation histograms",
    ]
    assert {line.survivors for line in rounds} == {3}
    assert {line.lost for line in rounds} == {(DECLINER,)}
    outcome = progress.evaluation
    assert outcome is not None
    rows = progress.trace[0].rows
    assert [line.rows for line in rounds] == [
        None,
        rows,
        *[None] * fitted,
        outcome.federated.rows,
    ]
    for line, trace in zip(rounds[2:-1], progress.trace, strict=True):
        assert line.step is not None and line.loss is not None
        assert (float(line.step), float(line.loss)) == (trace.step, trace.loss)
    assert all(line.step is None and line.loss is None for line in (*rounds[:2], rounds[-1]))


def test_sites_and_the_pooled_comparison_are_those_that_were_published(story: Story) -> None:
    study = completed_study(story)
    data = story.report(story.completed)
    assert [line.site for line in data.sites] == sorted(CONTRIBUTORS)
    for line in data.sites:
        report = study.reports[next(name for name in CONTRIBUTORS if name == line.site)]
        for shown, told in ((line.federated, report.federated), (line.alone, report.alone)):
            assert (shown.accuracy, shown.auc, shown.brier) == (told.accuracy, told.auc, told.brier)
    [body] = story.federation.coordinator.state.comparisons.values()
    assert data.comparison is not None
    assert float(data.comparison.largest_gap) == body.max_probability_gap_e12 / 1e12
    assert data.comparison.pooled.auc == body.pooled.auc
    assert [name for name, _ in data.comparison.alone_everywhere] == sorted(CONTRIBUTORS)
    assert data.simulation


def test_members_say_who_is_in_the_sums(story: Story) -> None:
    data = story.report(story.completed)
    assert {line.name: line.took_part for line in data.members} == {
        name: name != DECLINER for name in SITES
    }
    assert data.members[0].title == "Hospital on the Aare"


def test_each_decline_is_told_once_with_its_round(story: Story) -> None:
    data = story.report(story.completed)
    declines = [line for line in data.refusals if line.round is not None]
    assert [(line.who, line.code, line.round) for line in declines] == [
        (DECLINER, "site-declined", line.number) for line in data.rounds
    ]


def test_what_was_learned_is_counted_from_the_log(story: Story) -> None:
    data = story.report(story.completed)
    counts = {line.kind: line.count for line in data.counts}
    times = {(line.artefact, line.form): line.times for line in data.exposure}
    fitted = len(completed_study(story).progress.trace)
    assert times["An institution's contribution to a sum", "masked"] == counts["masked-input/v1"]
    # The halted study has opened a sum too.
    assert times["How many institutions have enough data for each column", "exact"] == 2
    assert times["Sums of counts, values and squares of the data columns", "exact"] == 1
    assert times["Sums of the quantities that fit a model", "exact"] == fitted
    assert times["Sums of changes to a model", "exact"] == 0
    assert times["Summed histograms of a model's scores on test data", "exact"] == 1
    assert times["The model", "exact"] == fitted
    assert times["Figures of one institution alone", "exact"] == 3
    assert times["Comparisons with pooled data, in a simulation only", "exact"] == 1
    assert times["Votes", "code"] == counts["ballot/v1"]
    # Fields that are empty, as those of the post-quantum suite are here, do not count.
    assert times["Salted commitments", "digest"] == (
        counts["epoch-keys/v1"] + counts["masked-input/v1"]
    )
    assert times["Shares that take masks off a sum", "plain"] == (
        counts["reveal/v1"] + counts["round-result/v1"]
    )
    assert times["Data contracts", "text"] == 1
    assert times["Study plans", "text"] == 2
    assert times["Positions in the log", "plain"] == data.log_size + counts["masked-input/v1"]
    assert times["Signatures", "plain"] > data.log_size


def test_the_timeline_is_the_log_in_the_words_of_the_page(story: Story) -> None:
    verdict = story.verdict(story.completed)
    data = report_data(verdict, story.completed)
    assert len(data.timeline) == data.log_size == verdict.record.size
    assert sum(line.count for line in data.counts) == data.log_size
    for line, entry in zip(data.timeline, verdict.history.entries, strict=True):
        assert (line.index, line.author) == (entry.index, entry.author)
        assert entry.digest.startswith(line.digest)
    assert {line.kind for line in data.timeline if lane_of(line.kind) == "other"} == {"time/v1"}


def test_terms_name_the_release_and_the_other_study(story: Story) -> None:
    data = story.report(story.completed)
    terms = {term.label: term.value for term in data.terms}
    assert terms["Release"].startswith(f"entry {data.log_size - 1}, approved by aare, ")
    assert terms["Another study in this log"] == "The study first: halted (least-support)"
    assert terms["To approve a study"] == "at least 3 of 4 members"
    assert (data.study, terms["Name of the study"]) == ("The study second", "second")


# --- other logs ----------------------------------------------------------------------------------


def test_a_halted_study_has_its_code_and_no_model(story: Story) -> None:
    data = story.report(story.halted)
    assert data.halted == "least-support"
    assert headline(data) == "The study stopped before its end."
    assert (data.model_digest, data.evaluation, data.sites, data.calibration) == (
        None,
        None,
        (),
        (),
    )
    assert [line.kind for line in data.rounds] == ["support of the columns"]
    assert data.refusals[-1].code == "least-support"
    assert "sites support age" in data.refusals[-1].sentence


def test_a_log_without_a_study_is_reported_without_its_digests(story: Story) -> None:
    data = story.report(story.governance)
    assert data.study == NO_STUDY
    assert headline(data) == "No study has been run."
    assert (data.plan_digest, data.model_digest, data.halted) == (None, None, None)
    assert not (data.rounds or data.refusals or data.columns or data.privacy)
    assert not any(line.took_part for line in data.members)
    page = render_report(data)
    assert "No study was run" in page
    assert "<dd>no study</dd>" in page and "<dd>no model</dd>" in page


def test_no_digest_stands_for_something_absent(story: Story) -> None:
    for files in (story.governance, story.halted, story.completed):
        assert b"0" * 64 not in report_bytes(story.report(files))


def test_the_attested_edition_differs_in_what_was_recomputed_only(story: Story) -> None:
    full, attested = story.report(story.completed), story.report(story.attested)
    assert full.verification.status is Coverage.PROVED
    assert attested.verification.status is Coverage.ATTESTED
    assert "0 of " in attested.verification.sentence
    sums = [line.status for line in attested.guarantees if line.name == "Sums"]
    assert sums == [Coverage.ATTESTED]
    same = replace(
        attested,
        bundle_edition=full.bundle_edition,
        verification=full.verification,
        guarantees=full.guarantees,
    )
    assert same == full


def test_a_witness_that_did_not_cosign_is_shown_absent(story: Story) -> None:
    node = story.federation.coordinator
    lines = node.checkpoint().encode().splitlines(keepends=True)
    note = b"".join(line for line in lines if b"birs/witness" not in line)
    storage = story.federation._storages[0]
    files = export(node.entries, note, story.anchor, storage.blobs.get, storage.blobs.has)
    data = story.report(files)
    assert {line.witness: line.cosigned for line in data.witnesses} == {
        name: name != "birs" for name in SITES
    }
    assert data.cosignatures == data.witness_quorum == 3


# --- pure ----------------------------------------------------------------------------------------


def test_when_the_verifier_looked_leaves_no_trace(story: Story) -> None:
    plain = story.report(story.completed)
    for now in (10**13, 2 * 10**13):
        verdict = verify_bundle(
            story.completed, story.anchor, max_age_ms=10**14, now=Timestamp(now)
        )
        assert report_data(verdict, story.completed) == plain


def test_the_report_is_the_same_in_another_locale_directory_and_hash_seed(
    story: Story, tmp_path: Path
) -> None:
    write_bundle(tmp_path / "bundle", story.completed)
    program = (
        "import json, sys, locale\n"
        "from pathlib import Path\n"
        "from treaty.crypto.canonical import sha256\n"
        "from treaty.provenance.verify import verify_bundle\n"
        "from treaty.reports import report_bytes\n"
        "from treaty.reports.summary import report_data, report_html\n"
        "from treaty.wiring import read_bundle\n"
        "try:\n"
        "    locale.setlocale(locale.LC_ALL, '')\n"
        "except locale.Error:\n"
        "    pass\n"
        "files = read_bundle(Path(sys.argv[1]))\n"
        "files = dict(sorted(files.items(), reverse=True))\n"
        "verdict = verify_bundle(files, sys.argv[2])\n"
        "page = report_html(verdict, files).encode()\n"
        "print(json.dumps([sha256(report_bytes(report_data(verdict, files))), sha256(page)]))\n"
    )
    verdict = story.verdict(story.completed)
    expected = [
        sha256(report_bytes(report_data(verdict, story.completed))),
        sha256(report_html(verdict, story.completed).encode()),
    ]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for seed, name, zone in (("7", "de_DE.UTF-8", "Asia/Kolkata"), ("99", "C", "UTC")):
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "PYTHONPATH": str(ROOT / "src"),
            "PYTHONHASHSEED": seed,
            "LC_ALL": name,
            "TZ": zone,
        }
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "bundle"), story.anchor],
            cwd=elsewhere,
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == expected


def test_the_page_is_small_and_has_the_simulation_banner(story: Story) -> None:
    page = report_html(story.verdict(story.completed), story.completed)
    assert len(page.encode()) <= MAX_REPORT_BYTES
    assert "Simulation only" in page


def test_a_verdict_on_another_bundle_is_refused(story: Story) -> None:
    verdict = story.verdict(story.completed)
    for files in (
        story.halted,
        story.attested,
        story.completed | {CHECKPOINT: story.completed[CHECKPOINT] + b" "},
    ):
        with pytest.raises(UsageError, match="another bundle"):
            report_data(verdict, files)
    entries = verdict.history.entries
    other = replace(verdict, history=replace(verdict.history, entries=(entries[1], *entries[1:])))
    with pytest.raises(UsageError, match="another bundle"):
        report_data(other, story.completed)
    bundles = [path for path in story.completed if path.startswith("log/tile/entries/")]
    data = story.completed[bundles[0]]
    with pytest.raises(UsageError, match=f"expected {bundles[0]}"):
        report_data(verdict, {key: one for key, one in story.completed.items() if one is not data})


# --- setbacks ------------------------------------------------------------------------------------


def logged(study: Study, *bodies: Body) -> tuple[Logged, ...]:
    opening = StudyOpened(charter=D, author="hub", plan=study.identity, proposal=D)
    return tuple(
        Logged(index, Digest(D), "kind", body, ()) for index, body in enumerate((opening, *bodies))
    )


def opened(number: int, participants: tuple[str, ...] = SITES) -> RoundOpened:
    return RoundOpened(
        charter=D,
        author="hub",
        epoch_hash=D,
        slot=number,
        round=number,
        attempt=0,
        participants=participants,
        plan=D,
        query=D,
        code=D,
        model=D,
        length=1,
        ring_bits=64,
        previous=D,
    )


def sent(name: str) -> MaskedInput:
    return MaskedInput(charter=D, author=name, context=D, length=1, root=D, blob=D)


def told(study: Study, *bodies: Body) -> list[tuple[str, str, int | None]]:
    return [
        (line.who, line.code, line.round) for line in study_refusals(logged(study, *bodies), study)
    ]


def test_a_silent_site_is_lost_once_and_a_decliner_is_not_silent(story: Story) -> None:
    study = completed_study(story)
    no = InputDeclined(charter=D, author="birs", context=D, code=DeclineCode.SITE_DECLINED)
    sealed = SurvivorsSealed(charter=D, author="hub", context=D, survivors=())
    stop = RoundAbandoned(charter=D, author="hub", context=D, code=RoundCode.TOO_FEW_REVEALS)
    inputs = (sent("aare"), no, sent("emme"))
    expected = [("birs", "site-declined", 4), ("reuss", "lost", 4)]
    assert told(study, opened(3), *inputs, sealed) == expected
    assert told(study, opened(3), *inputs, sealed, stop) == [
        *expected,
        ("hub", "too-few-reveals", 4),
    ]
    assert told(study, opened(3), *inputs, stop)[1] == ("reuss", "lost", 4)


def test_a_site_without_keys_is_absent_once_for_each_time_that_it_goes(story: Story) -> None:
    study = completed_study(story)
    some = tuple(SITES[:3])
    assert told(study, opened(0, some), opened(1, some), opened(2), opened(3, some)) == [
        ("reuss", "absent", 1),
        ("reuss", "absent", 4),
    ]


def test_what_happens_outside_rounds_is_told_too(story: Story) -> None:
    study = completed_study(story)
    complaint = ShareComplaint(
        charter=D, author="aare", epoch_hash=D, dealer="birs", slot=0, key="2" * 64
    )
    closed = EpochClosed(charter=D, author="hub", epoch=1, code=CloseCode.TOO_FEW_MEMBERS)
    ended = EpochClosed(charter=D, author="hub", epoch=2, code=CloseCode.FINISHED)
    suspended = MemberSuspended(charter=D, author="hub", proposal=D, target="emme")
    assert told(study, complaint, closed, ended, suspended) == [
        ("aare", "share-complaint", None),
        ("hub", "too-few-members", None),
        ("emme", "member-suspended", None),
    ]
    silent = msgspec.structs.replace(study, phase=Phase.HALTED)
    assert told(silent) == [("consortium", "too-few-members", None)]


def test_another_study_s_setbacks_are_not_told(story: Story) -> None:
    study = completed_study(story)
    other = StudyOpened(charter=D, author="hub", plan="3" * 64, proposal=D)
    stop = RoundAbandoned(charter=D, author="hub", context=D, code=RoundCode.TOO_FEW_INPUTS)
    assert told(study, other, opened(0), stop) == []


# --- words ---------------------------------------------------------------------------------------


def test_every_class_can_be_told_and_none_without_a_row_is_left_out() -> None:
    times = {(artefact, form): 1 for artefact in Artefact for form in FORMS[artefact]}
    lines = exposure_lines(ExposureMatrix(), times)
    assert len(lines) == len(times)
    assert {line.how_often for line in lines} == {"not listed"}
    assert sum(line.data_dependent for line in lines) == 23


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            LogisticRegression(ridge_milli=1500),
            "Logistic regression over 4 design columns, with site intercepts that stay at home",
        ),
        (LinearRegression(site_intercepts=False), "Linear regression over 4 design columns, with"),
        (PoissonRegression(), "Poisson regression"),
        (
            MultilayerPerceptron(hidden=(16, 8), learning_rate_micro=50_000),
            "Perceptron with 16 and 8 hidden units over 4 design columns, by 40 rounds of",
        ),
        (TorchModule(module="tabular", manifest=()), "tabular with 16 hidden units"),
    ],
)
def test_models_are_told_in_words(spec: ModelSpecification, words: str) -> None:
    told_in_words = model_in_words(spec, 4)
    assert told_in_words.startswith(words)
    assert told_in_words.endswith((" Newton rounds", ", updates cut to norm 1"))


def test_decimals_are_exact() -> None:
    assert [decimal_of(*one) for one in ((0, 3), (5, 3), (1000, 3), (340, 1), (20, 1))] == [
        "0",
        "0.005",
        "1",
        "34",
        "2",
    ]


# --- too few members for a sum -------------------------------------------------------------------


def test_a_log_without_a_study_is_reported_however_few_members_are_left(tmp_path: Path) -> None:
    """Three members that suspend one have no secure sum any more, and their log goes on."""
    members = SITES[:3]
    Federation.found(
        tmp_path / "few",
        {name: site_files(name, 60) for name in members},
        consortium="rivers.example",
        post_quantum=False,
    )
    federation = SmallFederation(tmp_path / "few", in_memory=True)
    federation.establish()
    federation.settle()
    whole = genuine_of(federation)
    federation.close()
    for history in (whole, suspended_history(whole, members[-1])):
        files = history.files
        shown = report_data(verify_bundle(files, history.forge.anchor), files)
        assert shown.study == NO_STUDY
        assert (shown.max_colluders, shown.min_survivors) == (1, 3)
