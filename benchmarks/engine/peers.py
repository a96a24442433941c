"""The peers' deployments, four sites as processes: time of a round.

The same Newton rounds on the heart data as in `benchmarks.rounds`, without secure aggregation,
signatures or durable state. A peer that does not install, or gives no result, is "not compared".
"""

import json
import statistics
import time
from itertools import pairwise
from pathlib import Path

from benchmarks.rounds.measure import run_bounded
from benchmarks.rounds.peers import Peer, install
from benchmarks.rounds.sites import dealt, write_arrays

__all__ = ["DEPLOYED", "measure_peer"]

SITES = 4
LIMIT_SECONDS = 280.0
DEPLOYED = (
    Peer("nvflare", ("nvflare==2.9.0",), "nvflare_poc.py", rounds=10),
    Peer(
        "flwr",
        ("flwr==1.41.0",),
        "flwr_deployment.py",
        rounds=8,
        environment={"FLWR_TELEMETRY_ENABLED": "0"},
    ),
)


def measure_peer(peer: Peer, folder: Path, work: Path) -> dict[str, object]:
    """Return what a round of `peer` takes, in seconds, or why it is not compared."""
    python, note = install(peer, folder)
    if python is None:
        return {"peer": peer.name, "not_compared": note}
    data, out = work / "heart.npz", work / f"{peer.name}.json"
    write_arrays(dealt(SITES), data)
    place = work / peer.name
    place.mkdir()
    workspace = place / "workspace"
    workspace.mkdir()
    script = Path(__file__).resolve().parents[1] / "peers" / peer.script
    arguments = (data, SITES, peer.rounds, out, time.time(), workspace)
    ran = run_bounded(
        [str(python), str(script), *map(str, arguments)],
        directory=place,
        limit_seconds=LIMIT_SECONDS,
        environment=peer.environment,
    )
    if not out.exists():
        return {"peer": note, "not_compared": ran.failure or "it wrote no result"}
    ends = json.loads(out.read_text())["ends"]
    gaps = [after - before for before, after in pairwise(ends)]
    return {
        "peer": note,
        "rounds": len(gaps),
        "median_ms": round(1000 * statistics.median(gaps), 1),
        "best_ms": round(1000 * min(gaps), 1),
    }
