"""Measure the network engine: `python -m benchmarks.engine [--rounds N] [--megabytes M] [--peers]`.

With `--agents N`, `--consortia N` or `--memory` only what `benchmarks.engine.agents` measures:
rounds with many agents on this machine, in one consortium or in several of ten, and what an agent
holds in memory. A row that takes longer than `--limit-s` ends with what it has.

Rounds: a coordinator and four sites as processes over TLS on loopback train a small perceptron; the
time from one published sum to the next is read off the coordinator's store. It holds everything:
training, masks, signatures, durable commits, and the engine.

Objects: each of ten sites offers an object of the size of 40 million 32-bit words; the coordinator,
a process of its own, fetches one after another and adds them up. Its peak memory is that of the
process, beside what it had before the first object.

With `--peers` the deployments of other frameworks beside it (`benchmarks.engine.peers`).
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.engine.agents import growth, memory
from benchmarks.engine.agents_page import agents_page
from benchmarks.engine.course import CutOffError, told_to_end
from benchmarks.engine.peers import DEPLOYED, measure_peer
from tests.nats_network import NatsNetwork
from tests.network_rig import HUB, Rig
from tests.small_federation import contract
from treaty.crypto.canonical import sha256
from treaty.engines.chunks import CHUNK_BYTES
from treaty.ids import MemberId
from treaty.models.specification import MultilayerPerceptron
from treaty.protocol.secagg_messages import RoundResult
from treaty.protocol.statements import peek
from treaty.stores.sqlite import SqliteStore

BAR_MS = 50.0
AGENT_ROUNDS = 5
CONSORTIUM_AGENTS, CONSORTIUM_ROUNDS = 10, 25
LIMIT_S = 3600.0
LOOK_S = 0.002


def rounds(count: int) -> dict[str, object]:
    """Return the durations between published sums of a study of `count` training rounds, in ms."""
    with tempfile.TemporaryDirectory(prefix="treaty-engine-") as place:
        rig = Rig(Path(place) / "rig")
        rig.root.mkdir()
        seen: list[float] = []
        try:
            rig.prepare()
            rig.start_all()
            rig.until(rig.founded, "the consortium is not founded", 180)
            model = MultilayerPerceptron(hidden=(4,), rounds=count)
            plan = rig.plan(contract(), model, slots_per_epoch=32)
            store = SqliteStore(rig.place(HUB) / "store.db", read_only=True)
            digest = rig.decide(plan, contract())
            began = time.monotonic()
            spent: dict[str, float] = {}
            while time.monotonic() - began < 600:
                size = store.version("log")
                if not spent and size:
                    spent = _processor_s(rig)
                while len(seen) < size:
                    seen.append(time.monotonic())
                if size and isinstance(peek(store.read("log", size - 1)[0])[1], _ends()):
                    break
                time.sleep(LOOK_S)
            spent = {name: after - spent[name] for name, after in _processor_s(rig).items()}
            entries = store.read("log")
            store.close()
            finished = rig.finished(digest)
        finally:
            rig.stop()
    at = [seen[n] for n, entry in enumerate(entries) if isinstance(peek(entry)[1], RoundResult)]
    gaps = [1000 * (after - before) for before, after in pairwise(at)]
    # The first and last sums are statistics and evaluation; an epoch between two rounds is set up
    # once in 32 of them and counts too.
    training = gaps[3:-1]
    return {
        "finished": finished,
        "rounds": len(training),
        "median_ms": round(statistics.median(training), 1),
        "best_ms": round(min(training), 1),
        "p90_ms": round(statistics.quantiles(training, n=10)[8], 1),
        "bar_ms": BAR_MS,
        "processor_ms_per_sum": {
            name: round(1000 * seconds / len(at), 1) for name, seconds in spent.items()
        },
    }


def _processor_s(rig: Rig) -> dict[str, float]:
    """Return the processor seconds that each process of the consortium has used."""
    tick = os.sysconf("SC_CLK_TCK")
    pids = {name: child.process.pid for name, child in rig.children.items()}
    pids["nats-server"] = rig.server_pid() or 0
    found = {}
    for name, pid in pids.items():
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        found[name] = (int(fields[11]) + int(fields[12])) / tick
    return found


def _ends() -> tuple[type, ...]:
    from treaty.protocol.messages import StudyCompleted, StudyHalted

    return (StudyCompleted, StudyHalted)


def objects(sites: int, megabytes: int) -> dict[str, object]:
    """Return what fetching one object from each of `sites` takes, and the memory of the reader."""
    names = [MemberId(f"site-{number}") for number in range(sites)]
    hub = MemberId("hub")
    with tempfile.TemporaryDirectory(prefix="treaty-engine-") as place:
        network = NatsNetwork(Path(place), hub, names)
        try:
            first = network.open(hub)
            first.close()
            reader = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.engine", "--reader"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert reader.stdin is not None and reader.stdout is not None
            settings = {"port": network.port, "sites": sites, "pin": network.tls.public.keyid}
            reader.stdin.write(json.dumps(settings) + "\n")
            reader.stdin.flush()
            offered, fetched = [], []
            for number, name in enumerate(names):
                data = np.random.default_rng(number).bytes(megabytes * 1_000_000)
                end = network.open(name)
                began = time.monotonic()
                end.offer(sha256(data), data)
                offered.append(time.monotonic() - began)
                end.close()
                reader.stdin.write(sha256(data) + "\n")
                reader.stdin.flush()
                fetched.append(float(json.loads(reader.stdout.readline())["seconds"]))
            reader.stdin.close()
            last = json.loads(reader.stdout.readline())
            reader.wait(60)
        finally:
            network.close()
    return {
        "sites": sites,
        "object_megabytes": megabytes,
        "largest_message_bytes": CHUNK_BYTES,
        "offer_median_s": round(statistics.median(offered), 2),
        "fetch_median_s": round(statistics.median(fetched), 2),
        "reader_peak_megabytes_beside_start": last["peak_megabytes"],
        "peak_in_objects": round(last["peak_megabytes"] / megabytes, 2),
    }


def read() -> None:
    """Be the coordinator of `objects`: fetch what standard input names, and add it up."""
    from treaty.crypto.keys import SigningKey
    from treaty.engines.jetstream import JetStreamEngine, NatsParty
    from treaty.ids import Digest
    from treaty.ports import OBJECT_LIMIT_BYTES
    from treaty.stores.system import MemoryJournal

    settings = json.loads(sys.stdin.readline())
    names = tuple(MemberId(f"site-{number}") for number in range(settings["sites"]))
    hub = MemberId("hub")
    engine = JetStreamEngine(
        NatsParty(
            url=f"tls://127.0.0.1:{settings['port']}",
            pin=Digest(settings["pin"]),
            key=SigningKey(bytes([1]) * 32),
            name=hub,
            consortium="x.example",
            coordinator=hub,
            members=names,
        ),
        MemoryJournal(),
    )
    engine.connect(30)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    total = None
    for line in sys.stdin:
        began = time.monotonic()
        words = np.frombuffer(engine.fetch(Digest(line.strip()), OBJECT_LIMIT_BYTES), dtype="<u4")
        if total is None:
            total = words.copy()
        else:
            np.add(total, words, out=total)
        seconds = time.monotonic() - began
        del words
        print(json.dumps({"seconds": seconds}), flush=True)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"peak_megabytes": round((after - before) / 1000)}), flush=True)
    engine.close()


def table(found: dict[str, Any]) -> str:
    """Return the figures of a run as a page."""
    timed, bulk = found["rounds"], found.get("objects")
    lines = [
        "# Network engine",
        "",
        (
            f"{found['at']}, {found['cores']} processors, load before {found['load_before']}, "
            f"Python {found['python']}. Made by `python -m benchmarks.engine --peers --store`; see "
            "`benchmarks/README.md`."
        ),
        "",
        "| four sites as processes | rounds | median ms | best ms |",
        "|---|---|---|---|",
        (
            f"| treaty, TLS, secure sums, durable | {timed['rounds']} | {timed['median_ms']} "
            f"| {timed['best_ms']} |"
        ),
    ]
    for one in found.get("peers", ()):
        if "not_compared" in one:
            lines.append(f"| {one['peer']} | not compared: {one['not_compared']} | | |")
        else:
            lines.append(
                f"| {one['peer']} | {one['rounds']} | {one['median_ms']} | {one['best_ms']} |"
            )
    holds = "holds" if timed["median_ms"] < timed["bar_ms"] else "does not hold"
    lines += ["", f"The bar of {timed['bar_ms']:.0f} ms for the median {holds}."]
    if bulk is not None:
        lines += [
            "",
            (
                f"{bulk['sites']} objects of {bulk['object_megabytes']} MB, one from each site: "
                f"offered in {bulk['offer_median_s']} s, fetched in {bulk['fetch_median_s']} s "
                "(medians). "
                f"The largest piece has {bulk['largest_message_bytes']} bytes; the reader's memory "
                f"peaks {bulk['reader_peak_megabytes_beside_start']} MB above its start, "
                f"{bulk['peak_in_objects']} objects."
            ),
        ]
    return "\n".join(lines) + "\n"


AGENTS_BAR_S = 2.0
AGENT_BAR_MIB = 60.0
INTERRUPTED = 130


def measure_agents(
    counts: list[tuple[int, int]], limit_s: float, with_memory: bool, store: bool
) -> int:
    """Measure rows of (consortia, agents in each), print, store, and fail when a bar is missed.

    A row that is cut off at its limit is a row like the others; told to end, nothing is stored.
    """
    found: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "bar_s": AGENTS_BAR_S,
        "bar_mib": AGENT_BAR_MIB,
        "limit_s": limit_s,
        "growth": [],
        "memory": [],
    }
    with told_to_end() as told:
        for consortia, agents in counts:
            rounds = AGENT_ROUNDS if consortia == 1 else CONSORTIUM_ROUNDS
            found["growth"].append(growth(agents, rounds, limit_s, consortia))
            print(json.dumps(found["growth"][-1]), flush=True)
            if told():
                return INTERRUPTED
        if with_memory:
            try:
                found["memory"] = memory()
            except CutOffError as end:
                print(end, file=sys.stderr)
                return INTERRUPTED if told() else 1
            print(json.dumps(found["memory"]))
    if store:
        place = Path(__file__).parents[1] / "results"
        (place / "agents.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        (place / "agents.md").write_text(agents_page(found))
    slow = [one for one in found["growth"] if one.get("median_s", AGENTS_BAR_S) >= AGENTS_BAR_S]
    large = [one for one in found["memory"] if one["agent_mib"]["resident"] >= AGENT_BAR_MIB]
    early = [one for one in found["growth"] if one["cut_off"]]
    return 1 if slow or large or early else 0


def main() -> int:
    """Measure, print, store, and fail when the bar for rounds is missed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--megabytes", type=int, default=160)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--reader", action="store_true")
    parser.add_argument("--peers", action="store_true", help="also run other frameworks")
    parser.add_argument("--environments", type=Path, help="keep the peers' environments here")
    parser.add_argument("--store", action="store_true", help="keep the figures under results/")
    parser.add_argument("--agents", type=int, action="append", help="so many agents; repeat it")
    parser.add_argument(
        "--consortia",
        type=int,
        action="append",
        help=f"so many consortia of {CONSORTIUM_AGENTS} agents each, all at once; repeat it",
    )
    parser.add_argument(
        "--limit-s", type=float, default=LIMIT_S, help="how long a row of agents may take"
    )
    parser.add_argument("--memory", action="store_true", help="what an agent holds")
    given = parser.parse_args()
    if given.agents or given.consortia or given.memory:
        rows = [(1, agents) for agents in given.agents or ()]
        rows += [(count, CONSORTIUM_AGENTS) for count in given.consortia or ()]
        return measure_agents(rows, given.limit_s, given.memory, given.store)
    if given.reader:
        read()
        return 0
    found: dict[str, object] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
    }
    found["rounds"] = timed = rounds(given.rounds)
    print(json.dumps(timed))
    if given.megabytes:
        found["objects"] = objects(given.sites, given.megabytes)
        print(json.dumps(found["objects"]))
    if given.peers:
        with tempfile.TemporaryDirectory(prefix="treaty-engine-") as scratch:
            work = Path(scratch)
            folder = (given.environments or work / "peers").absolute()
            found["peers"] = [measure_peer(peer, folder, work) for peer in DEPLOYED]
        print(json.dumps(found["peers"]))
    if given.store:
        place = Path(__file__).parents[1] / "results"
        (place / "engine.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
        (place / "engine.md").write_text(table(found))
    return 0 if float(str(timed["median_ms"])) < BAR_MS else 1


if __name__ == "__main__":
    sys.exit(main())
