"""Agents: what one holds in memory, and how a round grows with their number.

`memory` runs a consortium of four sites, each a process, and one whose sites are hosted by one
program, and reads each agent and its worker from the kernel, idle and after rounds of a small
model. Resident counts every page, shared ones too; the proportional share divides a shared page
among those who have it; anonymous is what no file backs.

`growth` runs rounds of one small model with more and more agents on this machine, each a process
with its own directory, keys, connection and store, hosted by one program. It reads the wall time
between two published sums, and the processor time that each kind of process spent on one.
"""

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.network_rig import HOST, HUB, Rig, small_sites
from tests.small_federation import contract
from treaty.cli.network_files import propose_study
from treaty.contracts.schema import contract_bytes
from treaty.deployment.desk import Desk
from treaty.ids import Digest
from treaty.models.specification import LogisticRegression, MultilayerPerceptron
from treaty.protocol.messages import StudyCompleted, StudyHalted
from treaty.protocol.secagg_messages import RoundResult
from treaty.protocol.statements import peek
from treaty.stores.sqlite import SqliteStore
from treaty.studies.plan import plan_bytes

__all__ = ["agents_page", "growth", "memory"]

ROUNDS = 20
LOOK_S = 0.005
HEADINGS = (
    "agents",
    "round, median s",
    "best s",
    "processor s a round",
    "of it agents",
    "an agent, ms",
    "coordinator",
    "message server",
    "agent resident MiB",
    "its share MiB",
)
FIELDS = {"Rss": "resident", "Pss": "proportional", "Anonymous": "anonymous"}


def memory(rounds: int = ROUNDS) -> list[dict[str, object]]:
    """Return the memory of agents and workers, in MiB: medians over the sites."""
    found = []
    for hosted in (False, True):
        with consortium(4, hosted=hosted) as rig:
            time.sleep(2)
            found.append({"hosted": hosted, "when": "idle", **_memory(rig)})
            digest = _start(rig, MultilayerPerceptron(hidden=(4,), rounds=rounds), 32)
            rig.until(lambda: rig.finished(digest), "the study does not end", 600)  # noqa: B023 - called now
            time.sleep(1)
            found.append({"hosted": hosted, "when": f"after {rounds} rounds", **_memory(rig)})
    return found


def growth(count: int, rounds: int) -> dict[str, object]:
    """Return what a round takes with `count` agents, and what each kind of process spends."""
    began = time.monotonic()
    with consortium(count, hosted=True) as rig:
        founded = time.monotonic() - began
        digest = _start(rig, LogisticRegression(max_rounds=rounds), rounds + 4, deadline_s=600)
        store = SqliteStore(rig.place(HUB) / "store.db", read_only=True)
        at: list[float] = []
        spent: list[dict[str, float]] = []
        size = 0
        while True:
            now = store.version("log")
            bodies = [peek(entry)[1] for entry in store.read("log", size)] if now > size else []
            size = max(size, now)
            if any(isinstance(body, RoundResult) for body in bodies):
                at.append(time.monotonic())
                spent.append(_processor_s(rig))
            if any(isinstance(body, StudyCompleted | StudyHalted) for body in bodies):
                break
            if time.monotonic() - began > 3600:
                raise AssertionError(f"the study does not end\n{rig.words()[-4000:]}")
            time.sleep(LOOK_S)
        store.close()
        kept = _memory(rig)
        finished = rig.finished(digest)
        study = rig.state(HUB).studies[Digest(digest)]
        inside = [len(one.members_in) for one in study.rounds]
    gaps = [after - before for before, after in pairwise(at)]
    each = [
        {kind: after[kind] - before.get(kind, 0.0) for kind in after}
        for before, after in pairwise(spent)
    ]
    middle = {
        kind: round(statistics.median(one.get(kind, 0.0) for one in each), 2) for kind in each[-1]
    }
    return {
        "agents": count,
        "sums": len(at),
        "finished": finished,
        "least_members_in_a_sum": min(inside),
        "founded_s": round(founded, 1),
        "median_s": round(statistics.median(gaps), 2),
        "best_s": round(min(gaps), 2),
        "processor_s": middle,
        "processor_s_in_all": round(sum(middle.values()), 2),
        **kept,
    }


def agents_page(found: dict[str, Any]) -> str:
    """Return the figures of a run as a page."""
    lines = [
        "# Agents on one machine",
        "",
        (
            f"{found['at']}, {found['cores']} processors, load before {found['load_before']}, "
            f"Python {found['python']}. Made by `python -m benchmarks.engine --memory --agents N "
            "... --store`; see `benchmarks/README.md`."
        ),
        "",
    ]
    if found["growth"]:
        lines += [
            _row(HEADINGS),
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
    for one in found["growth"]:
        spent, kept = one["processor_s"], one["agent_mib"]
        cells = (
            one["agents"], one["median_s"], one["best_s"], one["processor_s_in_all"],
            spent["agent"], round(1000 * spent["agent"] / one["agents"]),
            spent["coordinator"], spent["message server"], kept["resident"], kept["proportional"],
        )  # fmt: skip
        lines.append(_row(cells))
    if found["growth"]:
        most = found["growth"][-1]
        holds = "holds" if most["median_s"] < found["bar_s"] else "does not hold"
        lines += ["", f"The bar of {found['bar_s']:g} s with {most['agents']} agents {holds}.", ""]
    if found["memory"]:
        lines += [
            "| four sites | when | agent: resident, share, anonymous MiB | worker beside it |",
            "|---|---|---|---|",
        ]
    for one in found["memory"]:
        sizes = [
            "-" if kind not in one else ", ".join(str(size) for size in one[kind].values())
            for kind in ("agent_mib", "worker_mib")
        ]
        where = "hosted by one program" if one["hosted"] else "by themselves"
        lines.append(f"| {where} | {one['when']} | {sizes[0]} | {sizes[1]} |")
    return "\n".join(lines) + "\n"


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


@contextmanager
def consortium(count: int, *, hosted: bool) -> Iterator[Rig]:
    """Yield a founded consortium of `count` sites whose processes run."""
    names = [f"site-{number:03}" for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="treaty-agents-") as place:
        rig = Rig(Path(place) / "rig", small_sites(names))
        rig.root.mkdir()
        try:
            rig.prepare()
            rig.start(HUB)
            if hosted:
                rig.start_hosted(names)
            else:
                for name in names:
                    rig.start(name)
            rig.until(lambda: bool(rig.size(HUB)), "the consortium is not founded", 1200)
            rig.until(rig.founded, "the consortium is not founded", 600, pause=1)
            yield rig
        finally:
            rig.stop()


def _start(
    rig: Rig, model: LogisticRegression | MultilayerPerceptron, slots: int, deadline_s: int = 60
) -> str:
    """Propose a study and let as many vote as are enough; return the plan's digest."""
    plan = rig.plan(contract(), model, slots_per_epoch=slots, deadline_s=deadline_s)
    files = (rig.root / "plan.json", rig.root / "contract.json")
    for path, data in zip(files, (plan_bytes(plan), contract_bytes(contract())), strict=True):
        path.write_bytes(data)
    first = next(iter(rig.sites))
    made = propose_study(rig.place(first), *files, None)
    for proposal in filter(None, (made.contract_proposal, made.proposal)):

        def arrived(number: Digest = proposal) -> bool:
            return number in rig.state(HUB).proposals

        def settled(number: Digest = proposal) -> bool:
            return rig.state(HUB).proposals[number].proposal.settled

        rig.until(arrived, "the proposal does not arrive", 120)
        # The coordinator's log stands in for each member's own, which has the same entries.
        state = rig.state(HUB)
        for name in rig.sites:
            Desk(rig.place(name), state).vote(proposal, "approve")
        rig.until(settled, "the vote does not end", 600, pause=0.5)
    return str(made.plan)


def _processes(rig: Rig) -> dict[int, str]:
    """Return every process of the consortium, with its kind."""
    server = rig.server_pid()
    found = {rig.children[HUB].process.pid: "coordinator"}
    for name, child in rig.children.items():
        if name == HUB:
            continue
        agents = [child.process.pid]
        if name == HOST:
            found[child.process.pid] = "host"
            agents = _children(child.process.pid)
        for agent in agents:
            found[agent] = "agent"
            for worker in _below(agent):
                found[worker] = "worker"
    if server is not None:
        found[server] = "message server"
    return found


def _children(pid: int) -> list[int]:
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(one) for task in tasks for one in (task / "children").read_text().split()]
    except OSError:
        return []


def _below(pid: int) -> list[int]:
    found = _children(pid)
    return found + [below for one in found for below in _below(one)]


def _processor_s(rig: Rig) -> dict[str, float]:
    """Return the processor seconds that each kind of process has used."""
    found: dict[str, float] = defaultdict(float)
    for pid, kind in _processes(rig).items():
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            # Of a thread that has ended meanwhile nothing is read.
            try:
                found[kind] += int(task.read_text().split()[0]) / 1e9
            except (OSError, IndexError):
                continue
    return dict(found)


def _memory(rig: Rig) -> dict[str, object]:
    """Return the medians of agents and of workers, in MiB."""
    seen: dict[str, list[dict[str, float]]] = defaultdict(list)
    for pid, kind in _processes(rig).items():
        if kind == "worker" and _children(pid):
            # Bubblewrap, which only waits; the worker is below it.
            continue
        seen[kind].append(_mapped(pid))
    return {
        f"{kind}_mib": {
            name: round(statistics.median(one[name] for one in seen[kind]), 1)
            for name in FIELDS.values()
        }
        for kind in ("agent", "worker", "coordinator")
        if seen[kind]
    }


def _mapped(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.partition(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return {name: sizes[field] for field, name in FIELDS.items()}
