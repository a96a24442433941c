"""A consortium of processes on loopback: a coordinator with its server, and sites, each by itself.

Everything is done by the commands that people use. Commands that end run in this process; those
that serve are children, started and ended here by their process ids.
"""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.nats_network import free_port
from tests.restartable_federation import ONCE, lost_secrets, subject_of
from tests.small_federation import SITES, contract, site_files
from tests.standstill import go_on, stand_still
from treaty.cli.main import run
from treaty.cli.network_files import party_standing
from treaty.contracts.schema import Contract, contract_bytes, contract_digest
from treaty.errors import TreatyError
from treaty.ids import Digest, MemberId
from treaty.models.specification import ModelSpecification
from treaty.privacy.terms import ExactSums, PrivacyTerms
from treaty.protocol.consortium import Consortium
from treaty.protocol.statements import peek
from treaty.simulation.federation import Federation
from treaty.studies.plan import AggregationSettings, Plan, SplitSettings, plan_bytes
from treaty.wiring import code_digest, stored_log

SOURCE = Path(__file__).parents[1] / "src"
HUB = "coordinator.example"
HOST = "host"
"""The child that hosts several sites, where there is one."""

POLICY = """format = "treaty.site-policy/v1"
site = "{site}"
studies = ["*"]
purposes = ["*"]
model_kinds = ["*"]
max_rounds_per_study = 1000
min_rows = 20
site_metrics = false

[auto_approve]
any_ratified = {automatic}
max_rounds = 1000
"""


def attempt(*words: str | Path) -> tuple[int, str]:
    """Run one command in this process; return its exit code, and what it printed or complained."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = run([str(word) for word in words])
    return found, out.getvalue() if found == 0 else out.getvalue() + err.getvalue()


def treaty(*words: str | Path, code: int = 0) -> str:
    """Run one command in this process; return what it printed, and see its exit code."""
    found, said = attempt(*words)
    assert found == code, f"treaty {' '.join(map(str, words))}: exit {found}\n{said}"
    return said


def asked(*words: str | Path) -> dict[str, object]:
    """Run one command with ``--format json``; return its answer."""
    answer = json.loads(treaty(*words, "--format", "json"))
    assert isinstance(answer, dict)
    return answer


@dataclass
class Child:
    """A process that serves, and where its words go."""

    process: subprocess.Popen[bytes]
    output: Path
    since: int = 0
    """Where its words begin: those of the party's earlier processes stand before them."""

    @property
    def said(self) -> str:
        """Everything that this process printed."""
        return self.output.read_bytes()[self.since :].decode(errors="replace")

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Signal it, wait for its end, and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)


def small_sites(names: Iterable[str] = SITES) -> dict[str, tuple[bytes, bytes]]:
    """Return the data file and the adapter of sites of the small federation."""
    return {name: (site_files(name).data, site_files(name).adapter) for name in names}


@dataclass
class Rig:
    """The directories and processes of one consortium."""

    root: Path
    sites: Mapping[str, tuple[bytes, bytes]] = field(default_factory=small_sites)
    """Each site's data file and adapter."""
    automatic: bool = True
    options: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """What a party's process is started with besides."""
    children: dict[str, Child] = field(default_factory=dict)
    anchor: str = ""
    port: int = field(default_factory=free_port)
    program: str = "treaty"
    """The module that serves; it takes the words of the commands."""
    watch: Callable[[], None] = field(default=lambda: None)
    """Called whenever the rig waits: for what happens meanwhile."""
    ballots: list[tuple[str, str]] = field(default_factory=list)
    """Who has signed a ballot on which proposal: its command said so."""
    _folded: dict[str, tuple[int, Consortium]] = field(default_factory=dict)

    def place(self, name: str) -> Path:
        """Return the directory of a party."""
        return self.root / name

    # --- enrolment ------------------------------------------------------------------------------

    def prepare(self, *options: str, charter: Path | None = None) -> str:
        """Prepare the coordinator and the sites up to the anchor; return the terms' digest.

        `charter` is a text of the charter, in place of the usual one.
        """
        members = [word for name in self.sites for word in ("--member", name)]
        if charter is not None:
            members = ["--charter", str(charter)]
        made = asked(
            *("coordinator", "init", "hearts.example", "--dir", self.place(HUB)),
            *("--port", str(self.port), *members, *options),
        )
        terms = str(made["terms"])
        treaty("coordinator", "invite", "--dir", self.place(HUB), "--out", self.root / "invites")
        for name in self.sites:
            self.join(name, terms)
        requests = [self.place(name) / "request.json" for name in self.sites]
        taken = asked("member", "accept", *requests, "--dir", self.place(HUB))
        self.anchor = str(taken["anchor"])
        return terms

    def join(self, name: str, terms: str) -> None:
        """Let one site join with its files."""
        own = self.root / "files" / name
        own.mkdir(parents=True)
        data, adapter = self.sites[name]
        (own / "data.csv").write_bytes(data)
        (own / "adapter.toml").write_bytes(adapter)
        policy = POLICY.format(site=name, automatic=str(self.automatic).lower())
        (own / "policy.toml").write_text(policy)
        treaty(
            *("site", "join", self.root / "invites" / f"invite-{name}.json"),
            *("--terms", terms, "--dir", self.place(name)),
            *("--data", own / "data.csv", "--adapter", own / "adapter.toml"),
            *("--policy", own / "policy.toml"),
        )

    def register(self, identity: str) -> None:
        """Let every site's officer register its rows, which noised sums are charged to."""
        for name in self.sites:
            place = self.place(name)
            treaty(
                *("budget", "register", f"{identity}-{name}", "--dir", place, "--member", name),
                *("--charter", self.place(HUB) / "charter.json"),
                *("--key", place / "keys" / "approval.key"),
            )

    # --- processes ------------------------------------------------------------------------------

    def start(self, name: str, **variables: str) -> Child:
        """Start a party's process."""
        is_site = name in self.sites
        words = ["site", "up", "--anchor", self.anchor] if is_site else ["coordinator", "up"]
        words += self.options.get(name, ())
        return self._start(name, words, (name,), variables)

    def start_hosted(self, names: Iterable[str], **variables: str) -> Child:
        """Start one program that hosts the sites `names`; it is the child `HOST`."""
        words = ["site", "up", "--anchor", self.anchor]
        return self._start(HOST, words, names, variables)

    def _start(
        self, name: str, words: list[str], places: Iterable[str], variables: Mapping[str, str]
    ) -> Child:
        output = self.output(name)
        where = [word for place in places for word in ("--dir", str(self.place(place)))]
        kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        with output.open("ab") as file:
            since = file.tell()
            process = subprocess.Popen(
                [sys.executable, "-m", self.program, *words, *where],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={
                    **kept,
                    "PYTHONPATH": f"{SOURCE}{os.pathsep}{SOURCE.parent}",
                    "TREATY_TRACEBACK": "1",
                    **variables,
                },
            )
        self.children[name] = Child(process, output, since)
        return self.children[name]

    @classmethod
    def founded_in(cls, root: Path) -> "Rig":
        """Return a founded consortium of the small federation, whose processes have ended."""
        made = cls(root)
        root.mkdir()
        made.found()
        return made

    def found(self) -> None:
        """Prepare everything, let the members found the consortium, and end all processes."""
        with self.serving():
            pass

    @contextlib.contextmanager
    def serving(self) -> Iterator["Rig"]:
        """Prepare and start everything, wait for the founding; end all processes at the end."""
        self.prepare()
        self.start_all()
        try:
            self.until(self.founded, "the consortium is not founded")
            yield self
        finally:
            self.stop()

    def copy(self, root: Path) -> "Rig":
        """Return a copy of this consortium, whose processes have ended, in another place."""
        shutil.copytree(self.root, root)
        made = Rig(root, self.sites, self.automatic, anchor=self.anchor, port=self.port)
        for name in (HUB, *self.sites):
            made.output(name).unlink(missing_ok=True)
        return made

    def output(self, name: str) -> Path:
        """Return the file of what a party prints."""
        return self.root / f"{name}.out"

    def start_all(self) -> None:
        """Start the coordinator and every site."""
        for name in (HUB, *self.sites):
            self.start(name)

    def stop(self) -> None:
        """End every process, the coordinator last, and the server with it."""
        for name in (*self.sites, HOST, HUB):
            child = self.children.get(name)
            if child is not None and child.process.poll() is None:
                try:
                    child.end()
                except subprocess.TimeoutExpired:
                    child.end(signal.SIGKILL)
        self.kill_server()

    def server_pid(self) -> int | None:
        """Return the process id of the message server, None when it does not run."""
        path = self.place(HUB) / "server" / "server.pid"
        try:
            pid = int(path.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return None
        return pid if str(self.place(HUB).resolve()).encode() in words else None

    def kill_server(self) -> bool:
        """Kill the message server; say whether there was one."""
        pid = self.server_pid()
        if pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return True

    # --- watching -------------------------------------------------------------------------------

    def size(self, name: str) -> int:
        """Return how many entries a party has stored; 0 before it has a store."""
        try:
            with stored_log(self.place(name)) as log:
                return len(log.entries)
        except TreatyError:
            # Its process has not begun, or has only begun to make the store.
            return 0

    def state(self, name: str) -> Consortium:
        """Return the log of a party, folded from what it has stored."""
        size = self.size(name)
        known = self._folded.get(name)
        if known is None or known[0] != size:
            known = self._folded[name] = (size, party_standing(self.place(name)).state)
        return known[1]

    def until(
        self, condition: Callable[[], bool], what: str, seconds: float = 100, pause: float = 0.1
    ) -> None:
        """Wait for `condition`; fail with what the parties said when it does not come."""
        end = time.monotonic() + seconds
        while not condition():
            self.watch()
            if time.monotonic() > end:
                raise AssertionError(f"{what}: not within {seconds} s\n{self.words()}")
            time.sleep(pause)

    def until_mirrored(self) -> None:
        """Wait until every site has the coordinator's whole log."""
        self.until(
            lambda: all(self.size(name) == self.size(HUB) for name in self.sites),
            "a mirror does not catch up",
        )

    def words(self) -> str:
        """Return the last words and journal lines of every party."""
        lines = []
        for name, child in self.children.items():
            journal = self.place(name) / "journal.jsonl"
            notes = journal.read_text().splitlines()[-6:] if journal.exists() else []
            code = child.process.poll()
            last = child.output.read_text(errors="replace").splitlines()[-12:]
            lines += [f"--- {name} (exit {code})", *last, *notes]
        return "\n".join(lines)

    def founded(self) -> bool:
        """Say whether every site holds the founding entry."""
        return all(self.size(name) for name in self.sites)

    # --- a study --------------------------------------------------------------------------------

    def plan(
        self,
        contract: Contract,
        model: ModelSpecification,
        *,
        study: str = "study",
        seed: int = 0,
        deadline_s: int = 60,
        privacy: PrivacyTerms | None = None,
        **aggregation: int,
    ) -> Plan:
        """Return a plan bound to this consortium; its sums are exact without `privacy`."""
        charter = self.state(HUB).charter
        return Plan(
            study=study,
            title=study,
            purpose="research",
            charter=self.anchor,
            contract=contract_digest(contract),
            code=code_digest(),
            model=model,
            split=SplitSettings(seed=seed),
            aggregation=AggregationSettings(support_rows=1, deadline_s=deadline_s, **aggregation),
            privacy=privacy or ExactSums(),
            data_use=tuple(term.code for term in charter.data_use.terms),
        )

    def decide(self, plan: Plan, contract: Contract, voters: tuple[str, ...] | None = None) -> str:
        """Propose `plan` at the first site, let `voters` (all) vote; return the plan's digest."""
        digest, proposals = self.propose(plan, contract)
        for proposal in proposals:
            self.ratify(proposal, voters)
        return digest

    def propose(self, plan: Plan, contract: Contract) -> tuple[str, list[str]]:
        """Propose `plan` at the first site; return its digest, and what is to be voted on."""
        (self.root / "plan.json").write_bytes(plan_bytes(plan))
        (self.root / "contract.json").write_bytes(contract_bytes(contract))
        first = next(iter(self.sites))
        made = asked(
            *("study", "propose", "--dir", self.place(first)),
            *("--plan", self.root / "plan.json", "--contract", self.root / "contract.json"),
        )
        asked_for = filter(None, (made["contract_proposal"], made["proposal"]))
        return str(made["plan"]), [str(one) for one in asked_for]

    def ratify(self, proposal: str, voters: tuple[str, ...] | None = None) -> None:
        """Let `voters`, by default every site, approve a proposal; wait until it is settled."""
        for name in voters or tuple(self.sites):
            self.until(
                lambda name=name: proposal in self.state(name).proposals,  # type: ignore[misc]  # bound now
                f"the proposal does not reach {name}",
            )
            code, said = attempt("proposal", "vote", proposal, "approve", "--dir", self.place(name))
            # Enough others may have voted meanwhile.
            assert code == 0 or "no vote counts now" in said, said
            if code == 0:
                self.ballots.append((name, proposal))
        self.until(
            lambda: self.state(HUB).proposals[proposal].proposal.settled,  # type: ignore[index]  # a digest
            "the vote does not end",
        )

    @contextlib.contextmanager
    def waiting_for(self, held: str, plan: Plan, contract: Contract) -> Iterator[str]:
        """Decide on `plan`, and let its study wait for `held` while the block lasts; the digest.

        What befalls a study before it ends must not depend on who is faster. The site stands still,
        so the others decide; the coordinator must be willing to wait for longer than the block.
        """
        child = self.children[held].process.pid
        digest, proposals = self.propose(plan, contract)
        # A coordinator that was started anew does nothing before it has heard of everybody.
        self.until(
            lambda: set(proposals) <= set(self.state(held).proposals),
            f"the proposals do not reach {held}",
        )
        stand_still(child)
        try:
            for proposal in proposals:
                self.ratify(proposal, tuple(name for name in self.sites if name != held))
            self.until(
                lambda: (
                    asked("study", "status", "--dir", self.place(HUB))["waits_for"]
                    == {"parties": [held], "what": "keys of the epoch"}
                ),
                f"the study does not wait for {held}",
            )
            yield digest
            assert not self.finished(digest)
        finally:
            go_on(child)

    def finished(self, plan: str) -> bool:
        """Say whether the study is over in the coordinator's log."""
        study = self.state(HUB).studies.get(plan)  # type: ignore[call-overload]  # a digest
        return study is not None and bool(study.finished)

    def export(self, out: Path, seconds: float = 100, hub: str = HUB) -> Path:
        """Write the bundle, once the whole log is cosigned, and verify it."""

        def whole() -> bool:
            path = self.place(hub) / "checkpoint"
            size = self.state(HUB).size
            return path.exists() and int(path.read_text().split("\n")[1]) == size

        self.until(whole, "the newest checkpoint is not cosigned", seconds)
        treaty("bundle", "export", "--dir", self.place(hub), "--out", out)
        answer = asked("verify", out, "--anchor", self.anchor)
        assert answer["verdict"] == "holds", answer
        return out


def assert_one_history(rig: Rig, *replicas: str) -> None:
    """All mirrors and `replicas` have the coordinator's log; nobody has said a thing twice."""
    with stored_log(rig.place(HUB)) as log:
        entries = log.entries
    for name in (*replicas, *rig.sites):
        with stored_log(rig.place(name)) as log:
            assert log.entries == entries, name
    assert len(set(entries)) == len(entries)
    said = Counter(
        (body.author, type(body).__name__, subject_of(body))
        for body in (peek(entry)[1] for entry in entries)
        if isinstance(body, ONCE)
    )
    assert [key for key, times in said.items() if times > 1] == []


def assert_nothing_lost(rig: Rig) -> None:
    """No secret was erased before it had served; a signed ballot is logged, or still to be sent.

    One that came too late is never logged: it stays in the outbox.
    """
    for name in rig.sites:
        journal = rig.place(name) / "journal.jsonl"
        lost = lost_secrets(journal.read_text() if journal.exists() else "")
        assert not lost, f"{name}: {lost}"
    for name, proposal in rig.ballots:
        given = rig.state(HUB).proposals[Digest(proposal)].proposal.ballots
        waiting = list((rig.place(name) / "outbox").glob("*.json"))
        assert name in given or waiting, f"{name} forgot its ballot on {proposal}"


def embedded_model(place: Path, model: ModelSpecification) -> str:
    """Return what the small federation's study of `model` ends with on the embedded engine."""
    Federation.found(
        place,
        {MemberId(name): site_files(name) for name in SITES},
        consortium="hearts.example",
        post_quantum=False,
    )
    federation = Federation(place)
    try:
        federation.establish()
        settings = AggregationSettings(support_rows=1)
        plan = federation.plan("study", contract(), model, aggregation=settings)
        return str(federation.run_study(plan, contract()).final_model)
    finally:
        federation.close()
