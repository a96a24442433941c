"""The peers: each installed by pip into an environment of its own, then run within a time limit.

A peer that does not install, or gives no result in two attempts, is "not compared", with the
reason.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copytree

from benchmarks.rounds.measure import run_bounded

__all__ = ["PEERS", "Peer", "install"]

_SCRIPTS = Path(__file__).resolve().parent.parent / "peers"
_INSTALL_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Peer:
    """A framework: what to install, first choice first, and how to run it.

    `script` gets data, sites, rounds, output, start time and a workspace as arguments.
    """

    name: str
    requirements: tuple[str, ...]
    script: str
    rounds: int
    environment: Mapping[str, str] = field(default_factory=dict)


PEERS = (
    Peer("nvflare", ("nvflare==2.9.0",), "nvflare_job.py", rounds=12),
    Peer(
        "flwr",
        ("flwr[simulation]==1.42.0", "flwr[simulation]==1.41.0"),
        "flwr_app.py",
        rounds=60,
        # No reports to the vendors: a run must not depend on the network.
        environment={"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"},
    ),
)


def install(peer: Peer, folder: Path) -> tuple[Path | None, str]:
    """Return (interpreter, what was installed) or (None, why not); an environment is reused."""
    place = folder / peer.name
    installed = place / "installed.txt"
    python = place / "environment" / "bin" / "python"
    if installed.exists():
        return python, installed.read_text()
    place.mkdir(parents=True, exist_ok=True)
    made = run_bounded(
        [sys.executable, "-m", "venv", str(python.parent.parent)],
        directory=place,
        limit_seconds=_INSTALL_SECONDS,
    )
    if made.failure is not None:
        return None, f"no environment: {made.failure}"
    reasons: list[str] = []
    for requirement in peer.requirements:
        ran = run_bounded(
            [str(python), "-m", "pip", "install", "--quiet", requirement],
            directory=place,
            limit_seconds=_INSTALL_SECONDS,
        )
        if ran.failure is None:
            copytree(_SCRIPTS, place / "scripts", dirs_exist_ok=True)
            text = requirement if not reasons else f"{requirement} ({'; '.join(reasons)})"
            installed.write_text(text)
            return python, text
        reasons.append(f"{requirement} does not install: {ran.failure}")
    return None, "; ".join(reasons)
