"""Processes: what each kind of process of a consortium uses, read from the kernel.

Resident counts every page, shared ones too; the proportional share divides a shared page among
those who have it; anonymous is what no file backs.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tests.network_rig import HOST, HUB, Rig

__all__ = ["memory_of", "processor_s", "total_mib"]

FIELDS = {"Rss": "resident", "Pss": "proportional", "Anonymous": "anonymous"}


def processor_s(rigs: Iterable[Rig]) -> dict[str, float]:
    """Return the processor seconds that each kind of process has used."""
    found: dict[str, float] = defaultdict(float)
    for pid, kind in _all(rigs).items():
        for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
            # Of a thread that has ended meanwhile nothing is read.
            try:
                found[kind] += int(task.read_text().split()[0]) / 1e9
            except (OSError, IndexError):
                continue
    return dict(found)


def memory_of(rigs: Iterable[Rig]) -> dict[str, dict[str, float]]:
    """Return the medians of agents, of workers and of coordinators, in MiB."""
    seen = _mapped_of(rigs)
    return {
        f"{kind}_mib": {
            name: round(statistics.median(one[name] for one in seen[kind]), 1)
            for name in FIELDS.values()
        }
        for kind in ("agent", "worker", "coordinator")
        if seen[kind]
    }


def total_mib(rigs: Iterable[Rig]) -> int:
    """Return the proportional shares of all processes together, in MiB."""
    return round(sum(one["proportional"] for kind in _mapped_of(rigs).values() for one in kind))


def _mapped_of(rigs: Iterable[Rig]) -> dict[str, list[dict[str, float]]]:
    seen: dict[str, list[dict[str, float]]] = defaultdict(list)
    for pid, kind in _all(rigs).items():
        if kind == "worker" and _children(pid):
            # Bubblewrap, which only waits; the worker is below it.
            continue
        try:
            seen[kind].append(_mapped(pid))
        except OSError:
            # It has ended meanwhile.
            continue
    return seen


def _all(rigs: Iterable[Rig]) -> dict[int, str]:
    """Return every process of the consortia, with its kind."""
    found: dict[int, str] = {}
    for rig in rigs:
        server = rig.server_pid()
        for name, child in rig.children.items():
            pid = child.process.pid
            if name == HUB:
                found[pid] = "coordinator"
                continue
            agents = [pid]
            if name == HOST:
                found[pid] = "host"
                agents = _children(pid)
            for agent in agents:
                found[agent] = "agent"
                found.update(dict.fromkeys(_below(agent), "worker"))
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


def _mapped(pid: int) -> dict[str, float]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.partition(":")[0]: int(line.split()[1]) / 1024 for line in lines}
    return {name: sizes[field] for field, name in FIELDS.items()}
