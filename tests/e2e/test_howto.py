"""The pages for coordinator, site, auditor, lead, steward, newcomer are executed as they stand.

Everybody has a fresh directory.

A block ``console NAME`` of a page is a transcript; the order of the names, and who plays which, is
the story below. ``&`` at the end of a command starts a process whose first lines are those that
follow. The coordinator is ready after three commands and each site after two.
"""

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT
from tests.e2e.transcript import Step, Transcript, matches, parse, play
from tests.small_federation import CONTRACT, site_files

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.nats_network import free_port
from tests.network_rig import POLICY
from tests.network_rig import treaty as run_treaty

pytestmark = [pytest.mark.nats, pytest.mark.timeout(300)]

SITES = ("north.example", "east.example", "south.example")
NEWCOMER = "west.example"
BLOCK = re.compile(r"^```console (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PROGRAM = re.compile(r"^```python (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLAN = """study = "rivers"
title = "Rivers"
purpose = "research"
data_use = ["DUO:0000006"]
[model]
kind = "logistic-regression"
[privacy]
kind = "exact"
[aggregation]
support_rows = 1
deadline_s = 60
"""
START_S = 60
STATUS = "$ treaty study status --dir treaty-coordinator\n...\n"


def blocks(page: str) -> dict[str, list[str]]:
    """Return the transcripts of a page by name, in order."""
    found: dict[str, list[str]] = {}
    text = (ROOT / "docs" / "howto" / f"{page}.md").read_text(encoding="utf-8")
    for name, body in BLOCK.findall(text):
        found.setdefault(name, []).append(body)
    return found


def program(page: str) -> tuple[str, str]:
    """Return name and text of the one program of a page."""
    text = (ROOT / "docs" / "howto" / f"{page}.md").read_text(encoding="utf-8")
    [found] = PROGRAM.findall(text)
    return found[0], found[1]


@dataclass
class Stage:
    """The directories of the players, what they have learnt, and what they have started."""

    root: Path
    port: int
    known: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    instead: dict[str, str] = field(default_factory=dict)
    """What stands here for words of a page, such as names of machines."""

    def place(self, who: str) -> Path:
        place = self.root / who
        place.mkdir(exist_ok=True)
        return place

    def end(self) -> None:
        """End every process that was started, and see that it ends well."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            assert process.wait(60) == 0
        self.processes.clear()

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds."""
        end = time.monotonic() + START_S
        while not condition():
            assert time.monotonic() < end, what
            time.sleep(0.1)

    def furnish(self, name: str) -> None:
        """Give a site its own files."""
        files = site_files(name)
        place = self.place(name)
        (place / "data.csv").write_bytes(files.data)
        (place / "adapter.toml").write_bytes(files.adapter)
        (place / "policy.toml").write_text(POLICY.format(site=name, automatic="true"))
        if name == SITES[0]:
            (place / "plan.toml").write_text(PLAN)
            (place / "contract.toml").write_text(CONTRACT)

    def perform(self, who: str, bodies: list[str], name: str = "north.example") -> None:
        """Play `bodies` in the directory of `who`, whom the page calls north.example."""
        for body in bodies:
            text = body.replace("4222", str(self.port)).replace("north.example", name)
            for word, here in self.instead.items():
                text = text.replace(word, here)
            for step in parse(text).steps:
                if step.command.endswith(" &"):
                    self._start(who, step)
                else:
                    play(Transcript((step,)), self.place(who), self.known)

    def _start(self, who: str, step: Step) -> None:
        command = step.command.removesuffix(" &")
        for word, value in self.known.items():
            command = command.replace(f"<{word}>", value)
        output = self.root / f"{who}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", *command.split()],
                cwd=self.place(who),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self.processes.append(process)
        end = time.monotonic() + START_S
        while not matches([*step.expected, "..."], output.read_text().splitlines(), self.known):
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < end, f"line {step.line}: {output.read_text()}"
            time.sleep(0.1)

    def run_program(self, who: str, body: str, meanwhile: str, other: str) -> None:
        """Play a block of one program, ``python FILE``, while `other` plays `meanwhile`."""
        [step] = parse(body).steps
        name = step.command.removeprefix("python ")
        output = self.root / f"{who}-{name}.out"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-u", name],
                cwd=self.place(who),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            self.until(other, meanwhile)
            assert process.wait(90) == 0, output.read_text()
        finally:
            process.kill()
            process.wait(20)
        printed = output.read_text().splitlines()
        assert matches(list(step.expected), printed, self.known), "\n".join(printed)

    def export(self, bodies: list[str], bundle: str) -> None:
        """Play the coordinator's export to a new directory until the newest entries are in it."""
        end = time.monotonic() + START_S
        while True:
            shutil.rmtree(self.place("coordinator") / bundle, ignore_errors=True)
            try:
                self.perform("coordinator", bodies)
            except AssertionError:
                # The newest checkpoint is cosigned a moment later.
                if time.monotonic() > end:
                    raise
                time.sleep(0.3)
            else:
                return

    def until(self, who: str, body: str, seconds: float = 90) -> None:
        """Play `body` again and again until it prints what it should."""
        end = time.monotonic() + seconds
        while True:
            try:
                play(parse(body), self.place(who), self.known)
            except AssertionError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.3)
            else:
                return


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    """Directories for everybody; sites have their files and no more."""
    made = Stage(tmp_path, free_port())
    for name in SITES:
        made.furnish(name)
    yield made
    made.end()


def test_the_pages_play_as_they_stand(stage: Stage) -> None:
    """From nothing to an audited bundle."""
    hub, site, auditor = blocks("coordinator"), blocks("site"), blocks("auditor")
    commands = [step for body in hub["coordinator-1"] for step in parse(body).steps]
    assert len(commands) == 3
    assert sum(len(parse(body).steps) for key in ("site-1", "site-2") for body in site[key]) == 2
    played = {"coordinator-1", "coordinator-2", "coordinator-3", "coordinator-4"}
    assert set(hub) == played
    assert set(site) == {"site-1", "site-2", "site-3", "propose", "vote"}
    assert set(auditor) == {"auditor-1"}

    stage.perform("coordinator", hub["coordinator-1"])
    for name in SITES:
        invite = f"invite-{name}.json"
        sent = stage.place("coordinator") / "invites" / invite
        (stage.place(name) / invite).write_bytes(sent.read_bytes())
        stage.perform(name, site["site-1"], name)
        request = (stage.place(name) / "treaty-site" / "request.json").read_bytes()
        (stage.place("coordinator") / f"request-{name}.json").write_bytes(request)
    stage.perform("coordinator", hub["coordinator-2"])
    for name in SITES:
        stage.perform(name, site["site-2"], name)
    # It holds the founding charter: an empty log has nothing to vote on either.
    stage.until(SITES[0], "$ treaty member list --dir treaty-site\nmember [..]\n...\n")
    stage.perform(SITES[0], site["propose"])
    # Two of three decide; a third vote would come too late for the contract.
    for name in SITES[:2]:
        for word in ("contract", "proposal"):
            there = f"$ treaty proposal show <{word}> --dir treaty-site\nproposal  [..]\n...\n"
            stage.until(name, there.replace("proposal  [..]", "proposal[..]"))
        stage.perform(name, site["vote"], name)
    done = "$ treaty study status --dir treaty-coordinator\n...\nstudy rivers: completed\n...\n"
    stage.until("coordinator", done)
    stage.perform("coordinator", hub["coordinator-3"])
    stage.until(SITES[0], "".join(site["site-3"]))
    stage.until("coordinator", "".join(hub["coordinator-4"]))
    bundle = stage.place("coordinator") / "bundle"
    bundle.rename(stage.place("auditor") / "bundle")
    stage.perform("auditor", auditor["auditor-1"])
    assert (stage.place("auditor") / "report.html").stat().st_size > 10_000

    # The study lead's page, in the same consortium.
    lead = blocks("study-lead")
    assert set(lead) == {"lead"}
    name, text = program("study-lead")
    (stage.place(SITES[0]) / name).write_text(text)
    vote = "$ treaty proposal list --dir treaty-site\n...\n<asked>[..]open[..]survival\n"
    vote += "$ treaty proposal vote <asked> approve --dir treaty-site\napprove: [..]\n"
    stage.run_program(SITES[0], "".join(lead["lead"]), vote, SITES[1])
    place = stage.place(SITES[0])
    assert (place / "report.html").stat().st_size > 10_000
    said = run_treaty("verify", place / "bundle", "--anchor", stage.known["anchor"])
    assert "attested" in said

    # The stewards' page: they release the study, and take it back.
    release = blocks("release")
    assert tuple(release) == (
        *("status", "first", "answer", "released", "bundle"),
        *("withdraw", "withdrawn", "taken-back"),
    )
    stage.until(SITES[0], "".join(release["status"]))
    stage.perform(SITES[0], release["first"])
    stage.until(SITES[1], "".join(release["answer"]))
    for name in SITES:
        stage.until(name, "".join(release["released"]))
    stage.export(release["bundle"], "released")
    stage.perform(SITES[2], release["withdraw"], "north.example")
    for name in SITES:
        stage.until(name, "".join(release["withdrawn"]))
    stage.until("coordinator", f"{STATUS}  released   withdrawn by its stewards\n...\n")
    stage.export(release["taken-back"], "taken-back")

    # The page for whoever joins later, too.
    later = blocks("join-later")
    assert set(later) == {"invite", "join", "up", "propose", "vote", "members"}
    assert sum(len(parse(body).steps) for key in ("join", "up") for body in later[key]) == 2
    stage.furnish(NEWCOMER)
    stage.perform("coordinator", later["invite"])
    invite = f"invite-{NEWCOMER}-2.json"
    sent = stage.place("coordinator") / "invites" / invite
    (stage.place(NEWCOMER) / invite).write_bytes(sent.read_bytes())
    stage.perform(NEWCOMER, later["join"])
    stage.perform(NEWCOMER, later["up"])
    request = (stage.place(NEWCOMER) / "treaty-site" / "request.json").read_bytes()
    (stage.place(SITES[0]) / f"request-{NEWCOMER}.json").write_bytes(request)
    stage.perform(SITES[0], later["propose"])
    for name in SITES[:2]:
        there = "$ treaty proposal show <newcomer> --dir treaty-site\n...\n"
        stage.until(name, there + "action     member.accept\n...\n")
        stage.perform(name, later["vote"])
    for name in (*SITES, NEWCOMER):
        stage.until(name, "".join(later["members"]))

    # A member exchanges two of its keys; now the members are four.
    keys = blocks("rotate-keys")
    assert tuple(keys) == ("rotate", "agree", "after")
    stage.perform(SITES[0], keys["rotate"])
    for name in SITES[1:]:
        there = "$ treaty proposal show <rotation> --dir treaty-site\n...\n"
        stage.until(name, there + "in force   [..]\n...\n")
        stage.perform(name, keys["agree"], "north.example")
    stage.until(SITES[0], "".join(keys["after"]))
