"""Frames, statements and site data that do not hold: each row one input, its error, and no effect.

Posts go to a coordinator in the middle of a round, feeds to a member; afterwards the log, the
stores, the mirror and the round are what they were. Site data go through a whole study: the site
declines with a closed code, its journal says why, and the others go on.

Planted faults that these tests caught: a frame's sender not compared with its author; a statement
of the coordinator's taken from a member; a statement logged twice; a checkpoint that nobody checks;
a site that stops when its data file is missing.
"""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from tests.restartable_federation import (
    Story,
    in_round,
    opened,
    sums,
    whole_study,
)
from tests.small_federation import SITES, found, small_plan
from tests.small_federation import contract as small_contract
from treaty.aggregation.tensors import NamedTensors
from treaty.crypto.canonical import sha256
from treaty.errors import PeerError, PolicyError, UsageError, code_of
from treaty.models.task import TrainingTask
from treaty.node.log_keeper import LogKeeper
from treaty.protocol.frames import MAX_FRAME_BYTES, Feed, Post, encode_frame
from treaty.protocol.messages import BallotCast, SiteReported, StudyHalted, TimeStated
from treaty.protocol.secagg_messages import EpochReady, MaskedInput, Reveal
from treaty.protocol.statements import MAX_ENTRY_BYTES, Body, peek, seal_statement
from treaty.protocol.study import Phase
from treaty.simulation.federation import COORDINATOR, Federation
from treaty.wiring import LocalTrainer, load_key

A, B, C, D = SITES


class Scene:
    """A federation stopped in the middle of its third secure sum, before anybody's answer."""

    def __init__(self, directory: Path) -> None:
        self.federation = opened(directory)
        story = Story(self.federation, (in_round(2), self._stop))
        with pytest.raises(_Stopped):
            whole_study(self.federation, story=story)

    def _stop(self) -> None:
        raise _Stopped

    def sealed(self, body: Body, name: str = B, role: str = "runner") -> bytes:
        """Return `body` signed with a key of `name`."""
        key = load_key(self.federation.directory / "parties" / name, role)
        return seal_statement(body, key)

    def logged(self, kind: type, author: str) -> bytes:
        """Return the newest entry of `kind` by `author`."""
        found_entries = [
            entry
            for entry in self.federation.coordinator.entries
            if isinstance(body := peek(entry)[1], kind) and body.author == author
        ]
        return found_entries[-1]

    def post(self, *statements: bytes, **fields: object) -> bytes:
        """Return a post of B."""
        size = self.federation.coordinator.size
        values: dict[str, object] = {"member": B, "size": size, "cosignature": "", "blobs": {}}
        return encode_frame(Post(statements=statements, **(values | fields)))  # type: ignore[arg-type]  # rows are wrong on purpose

    def feed(self, *entries: bytes, note: str | None = None, first: int | None = None) -> bytes:
        """Return a feed for B that adds `entries`, under the checkpoint they would have."""
        node = self.federation.participants[B]
        start = node.size if first is None else first
        if note is None:
            log = LogKeeper().extended((*self.federation.coordinator.entries[:start], *entries))
            key = load_key(self.federation.directory / "parties" / COORDINATOR, "log")
            note = log.note(node.state.members, key)
        return encode_frame(Feed(start, entries, note, {}))

    @property
    def charter(self) -> str:
        """The digest of the charter in force."""
        return self.federation.coordinator.state.members.directory.charter

    def time(self, **changes: object) -> bytes:
        """Return a genuine statement of the coordinator's clock, with `changes`."""
        body = TimeStated(
            charter=self.charter,
            author=COORDINATOR,
            at=self.federation.coordinator.state.at + 1,
        )
        return self.sealed(msgspec.structs.replace(body, **changes), COORDINATOR, "coordinator")


class _Stopped(Exception):  # noqa: N818 - it ends a run, it is no error
    pass


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("scene") / "federation")


def rewritten(frame: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """Return `frame` with its header changed, its length prefix right."""
    size = int.from_bytes(frame[:4], "big")
    head = edit(frame[4 : 4 + size])
    return len(head).to_bytes(4, "big") + head + frame[4 + size :]


Frame = Callable[[Scene], bytes]
HEADERS: dict[str, Callable[[bytes], bytes]] = {
    "no-frame": lambda frame: b"",
    "three-bytes": lambda frame: frame[:3],
    "cut-short": lambda frame: frame[:-1],
    "with-more-behind": lambda frame: frame + b"x",
    "header-beyond-the-frame": lambda frame: b"\xff\xff\xff\xff" + frame[4:],
    "header-not-json": lambda frame: rewritten(frame, lambda head: b"\x00" * len(head)),
    "header-not-canonical": lambda frame: rewritten(frame, lambda h: h.replace(b":", b": ", 1)),
    "header-with-a-key-twice": lambda frame: rewritten(
        frame, lambda head: b'{"blobs":[],' + head[1:]
    ),
    "header-with-an-unknown-field": lambda frame: rewritten(
        frame, lambda head: head[:-1] + b',"zz":1}'
    ),
    "of-another-version": lambda frame: frame.replace(b"/v1", b"/v2", 1),
    "larger-than-allowed": lambda frame: frame + bytes(MAX_FRAME_BYTES),
}


@pytest.mark.parametrize("kind", ["post", "feed"])
@pytest.mark.parametrize("name", HEADERS)
def test_a_malformed_frame_is_a_format_error(scene: Scene, kind: str, name: str) -> None:
    """It is refused as a whole, before anything in it is looked at."""
    edit = HEADERS[name]
    if kind == "post":
        check_post(scene, lambda one: edit(one.post()), "format")
    else:
        check_feed(scene, lambda one: edit(one.feed(one.time())), "format")


POSTS: dict[str, tuple[Frame, str]] = {
    "a-feed-instead": (lambda s: s.feed(s.time()), "format"),
    "of-another-member": (lambda s: s.post(member=C), "wrong-author"),
    "of-nobody": (lambda s: s.post(member="rhine"), "wrong-author"),
    "claiming-a-longer-log": (lambda s: s.post(size=10**6), "restored-backup"),
    "cosigned-in-nonsense": (lambda s: s.post(cosignature="nonsense"), "format"),
    "cosigned-with-anothers-line": (
        lambda s: s.post(
            cosignature=s.federation.participants[C]._mirror.cosignature(
                load_key(s.federation.directory / "parties" / C, "witness"), C
            )
        ),
        "unknown-key",
    ),
    "blob-under-another-digest": (
        lambda s: s.post(blobs={sha256(b"a"): b"b"}),
        "format",
    ),
    "statement-not-json": (lambda s: s.post(b"statement"), "format"),
    "statement-not-canonical": (
        lambda s: s.post(s.logged(MaskedInput, B).replace(b":", b": ", 1)),
        "format",
    ),
    "statement-of-unknown-type": (
        lambda s: s.post(json.dumps({"payload": "", "payloadType": "x"}).encode()),
        "format",
    ),
    "statement-too-large": (lambda s: s.post(b"{" + b" " * MAX_ENTRY_BYTES), "format"),
    "signed-by-another-member": (
        lambda s: s.post(s.sealed(peek(s.logged(EpochReady, B))[1], C)),
        "wrong-author",
    ),
    "signed-with-the-wrong-role": (
        lambda s: s.post(
            s.sealed(
                BallotCast(charter=s.charter, author=B, proposal=sha256(b"p"), choice="approve")
            )
        ),
        "wrong-key-kind",
    ),
    "under-another-charter": (
        lambda s: s.post(
            s.sealed(
                BallotCast(
                    charter=sha256(b"charter"), author=B, proposal=sha256(b"p"), choice="approve"
                ),
                role="approval",
            )
        ),
        "wrong-charter",
    ),
    "about-no-proposal": (
        lambda s: s.post(
            s.sealed(
                BallotCast(charter=s.charter, author=B, proposal=sha256(b"p"), choice="approve"),
                role="approval",
            )
        ),
        "no-proposal",
    ),
    "what-only-the-coordinator-says": (lambda s: s.post(s.time()), "wrong-author"),
    "the-coordinators-halt-from-a-member": (
        lambda s: s.post(
            s.sealed(
                StudyHalted(
                    charter=s.charter,
                    author=COORDINATOR,
                    plan=s.federation.coordinator.state.running.identity,  # type: ignore[union-attr]  # one runs
                    code="decided",  # type: ignore[arg-type]  # an enum's value
                ),
                COORDINATOR,
                "coordinator",
            )
        ),
        "wrong-author",
    ),
    "an-input-of-an-earlier-round": (lambda s: s.post(s.logged(MaskedInput, B)), "input-missing"),
    "an-answer-of-an-earlier-round": (lambda s: s.post(s.logged(Reveal, B)), "replayed"),
    "a-report-before-the-end": (
        lambda s: s.post(
            s.sealed(
                SiteReported(
                    charter=s.charter,
                    author=B,
                    plan=s.federation.coordinator.state.running.identity,  # type: ignore[union-attr]  # one runs
                    model=sha256(b"model"),
                    federated={"accuracy": 1, "auc": None, "brier": 1},  # type: ignore[arg-type]  # encodes alike
                    alone={"accuracy": 1, "auc": None, "brier": 1},  # type: ignore[arg-type]  # encodes alike
                )
            )
        ),
        "wrong-model",
    ),
    "a-ballot-again": (lambda s: s.post(s.logged(BallotCast, A)), "replayed"),
}


@pytest.mark.parametrize("name", POSTS)
def test_a_post_that_does_not_hold_is_refused(scene: Scene, name: str) -> None:
    """The code stands in the coordinator's journal; log, store and round are untouched."""
    make, code = POSTS[name]
    check_post(scene, make, code)


FEEDS: dict[str, tuple[Frame, str]] = {
    "a-post-instead": (lambda s: s.post(), "format"),
    "without-a-checkpoint": (lambda s: s.feed(s.time(), note=""), "format"),
    "checkpoint-not-signed": (
        lambda s: s.feed(s.time(), note=s.federation.coordinator.checkpoint().split("\n\n")[0]),
        "format",
    ),
    "checkpoint-of-another-size": (
        lambda s: s.feed(s.time(), note=s.federation.coordinator.checkpoint()),
        "split-view",
    ),
    "checkpoint-of-another-key": (
        lambda s: s.feed(
            s.time(),
            note=LogKeeper()
            .extended((*s.federation.coordinator.entries, s.time()))
            .note(
                s.federation.participants[B].state.members,
                load_key(s.federation.directory / "parties" / C, "runner"),
            ),
        ),
        "unsigned",
    ),
    "another-entry-than-before": (
        lambda s: s.feed(s.time(), first=s.federation.participants[B].size - 1),
        "split-view",
    ),
    "entry-not-json": (lambda s: s.feed(b"entry"), "format"),
    "entry-signed-by-a-member": (
        lambda s: s.feed(s.sealed(TimeStated(charter=s.charter, author=COORDINATOR, at=10**13), B)),
        "wrong-key-kind",
    ),
    "entry-of-another-charter": (lambda s: s.feed(s.time(charter=sha256(b"c"))), "wrong-charter"),
    "clock-going-back": (lambda s: s.feed(s.time(at=0)), "clock-back"),
    "clock-days-ahead": (
        lambda s: s.feed(s.time(at=s.federation.coordinator.state.at + 3 * 86_400_000)),
        "clock-skew",
    ),
    "the-founding-again": (
        lambda s: s.feed(s.federation.coordinator.entries[0]),
        "study-runs",
    ),
    "one-good-entry-and-one-bad": (lambda s: s.feed(s.time(), s.time(at=0)), "clock-back"),
}


@pytest.mark.parametrize("name", FEEDS)
def test_a_feed_that_does_not_hold_is_refused(scene: Scene, name: str) -> None:
    """The member keeps what it has, stores nothing, sends nothing."""
    make, code = FEEDS[name]
    check_feed(scene, make, code)


def check_post(scene: Scene, make: Frame, code: str) -> None:
    coordinator = scene.federation.coordinator
    frame = make(scene)
    store = scene.federation.kept[COORDINATOR].store
    before = (coordinator.size, coordinator.state, store.version("log"), coordinator.checkpoint())
    before_study = coordinator.state.running
    lines = len(scene.federation.journal_of(COORDINATOR).splitlines())
    try:
        coordinator.handle(B, frame)
        assert not coordinator.flush()
        # Cosignatures are verified when somebody asks for them.
        coordinator.witnesses()
        journal = scene.federation.journal_of(COORDINATOR).splitlines()[lines:]
        found_code = (
            json.loads(journal[-1])["event"].removeprefix("statement-").removeprefix("refused.")
        )
    except (PeerError, PolicyError) as refusal:
        found_code = code_of(refusal)
    after = (coordinator.size, coordinator.state, store.version("log"), coordinator.checkpoint())
    assert after == before and coordinator.state.running == before_study
    assert found_code == code


def check_feed(scene: Scene, make: Frame, code: str) -> None:
    node = scene.federation.participants[B]
    frame = make(scene)
    store = scene.federation.kept[B].store
    before = (node.size, node.state, store.version("log"), len(scene.federation.network.egress))
    with pytest.raises((PeerError, PolicyError)) as caught:
        node.handle(COORDINATOR, frame)
    found_code = code_of(caught.value)
    assert (
        node.size,
        node.state,
        store.version("log"),
        len(scene.federation.network.egress),
    ) == before
    assert found_code == code


# --- site data --------------------------------------------------------------------------------


def column(text: str, name: str, edit: Callable[[str], str]) -> str:
    """Return CSV `text` with every value of a column changed."""
    head, *lines = text.splitlines()
    place = head.split(",").index(name)
    rows = [line.split(",") for line in lines]
    for row in rows:
        row[place] = edit(row[place])
    return "\n".join([head, *map(",".join, rows)]) + "\n"


DATA: dict[str, tuple[Callable[[str], str | None], str]] = {
    "no-file": (lambda text: None, "study-refused.data"),
    "empty-file": (lambda text: "", "study-refused.data"),
    "header-only": (lambda text: text.splitlines()[0] + "\n", "study-refused"),
    "missing-column": (lambda text: text.replace("pressure", "pulse", 1), "study-refused.data"),
    "unknown-level": (lambda text: column(text, "sex", lambda _: "x"), "study-refused"),
    "not-a-number": (lambda text: column(text, "age", lambda _: "old"), "study-refused"),
    "nan": (lambda text: column(text, "age", lambda _: "nan"), "study-refused"),
    "out-of-range": (lambda text: column(text, "pressure", lambda _: "1e9"), "study-refused"),
    "other-label": (lambda text: column(text, "died", lambda _: "7"), "study-refused"),
    "too-few-rows": (
        lambda text: "\n".join(text.splitlines()[:11]) + "\n",
        "study-refused.site-rows",
    ),
    "single-class": (lambda text: column(text, "died", lambda _: "1"), ""),
    "zero-variance": (lambda text: column(text, "age", lambda _: "60"), ""),
}


@pytest.mark.parametrize("name", DATA)
def test_a_site_with_bad_data_stays_out_and_the_others_go_on(tmp_path: Path, name: str) -> None:
    """Odd but sound data take part; unsound data keep the site out, with the cause at the site."""
    edit, event = DATA[name]

    def damage(directory: Path) -> None:
        path = directory / "parties" / B / "data.csv"
        text = edit(path.read_text())
        if text is None:
            path.unlink()
        else:
            path.write_text(text)

    federation = found(tmp_path / "federation", edit=damage, in_memory=True)
    study = federation.run_study(small_plan(federation), small_contract())
    assert study.phase is Phase.COMPLETED
    if event:
        assert sums(study) == [3] * 6 and B not in study.reports
        assert f'"{event}' in federation.journal_of(B)
    else:
        assert sums(study) == [4] * 6, federation.journal_of(B)
        assert np.all(np.isfinite(study.progress.model.flat()))


class _Scaled(LocalTrainer):
    """A trainer whose updates are multiplied by something."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self._factor = factor

    def compute(self, task: TrainingTask) -> NamedTensors:
        tensors = super().compute(task)
        with np.errstate(all="ignore"):
            flat = tensors.flat() * self._factor
        return NamedTensors.from_flat(tensors.manifest, flat)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), -float("inf"), 1e30, -1e300])
def test_an_update_that_does_not_fit_is_declined(tmp_path: Path, factor: float) -> None:
    """Neither a number that is none nor one beyond its bound is ever masked."""
    federation = found(tmp_path / "federation", trainers={B: _Scaled(factor)}, in_memory=True)
    study = federation.run_study(small_plan(federation), small_contract())
    assert study.phase is Phase.COMPLETED
    assert sums(study) == [4, 4, 3, 3, 3, 4]
    assert '"declined.' in federation.journal_of(B)
    assert np.all(np.isfinite(study.progress.model.flat()))


def test_two_sites_are_too_few_to_found_anything(tmp_path: Path) -> None:
    """Nothing is written for a consortium that could hide nothing."""
    with pytest.raises(UsageError, match="at least 3 sites"):
        Federation.found(tmp_path / "two", {}, consortium="two.example")
    assert not (tmp_path / "two").exists()
