"""Start-up is light: help and a site agent load nothing that only some work needs.

Planted and caught: `import scipy.stats` at the top of a module that the command line imports; a
serving party that imports the parser of command lines, certificates or the coordinator; a confined
worker that imports what only the agent needs.
"""

import json
import subprocess
import sys

import pytest

HEAVY = {"scipy", "sklearn", "torch", "dp_accounting", "joblib", "sympy", "pandas"}

HELP = """
import sys
sys.argv = ["treaty", "--help"]
from treaty.cli.main import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
"""

AGENT = """
import importlib, pkgutil
import treaty.node
import treaty.wiring
for module in pkgutil.iter_modules(treaty.node.__path__):
    importlib.import_module(f"treaty.node.{module.name}")
"""

SITE = """
import treaty.cli.serving
import treaty.deployment.agent
import treaty.deployment.monitor
"""

WORKER = """
import treaty.sandbox.worker
import treaty.trainers.local_trainer
"""

REPORT = """
import json, sys
print()
with open("/proc/self/status") as status:
    [peak] = [line.split()[1] for line in status if line.startswith("VmHWM:")]
print(json.dumps({
    "modules": sorted(sys.modules),
    "resident_kib": int(peak),
}))
"""

SITE_AGENT_KIB = 60 * 1024
CONFINED_WORKER_KIB = 40 * 1024


def _after(program: str) -> tuple[set[str], int]:
    """The modules loaded and the peak memory after running `program`.

    The peak is that of the child's own address space: `ru_maxrss` begins with what its parent
    held at the fork.
    """
    run = subprocess.run(
        [sys.executable, "-c", program + REPORT], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout.splitlines()[-1])
    return set(report["modules"]), report["resident_kib"]


@pytest.mark.parametrize("program", [HELP, AGENT], ids=["help", "site agent"])
def test_start_up_loads_no_heavy_library(program: str) -> None:
    """Numerical libraries beside numpy are loaded at first need."""
    loaded, _ = _after(program)
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()
    assert "treaty" in loaded


def test_an_idle_site_agent_stays_under_sixty_mebibytes() -> None:
    """What a site agent imports leaves room on the smallest machines."""
    _, resident_kib = _after(AGENT)
    assert resident_kib < SITE_AGENT_KIB


def test_a_serving_site_loads_no_parser_of_commands_and_nothing_of_the_coordinator() -> None:
    """For weeks it does without; `python -m benchmarks.engine --memory` measures live ones."""
    pytest.importorskip("nats", reason="nats: nats-py is not installed")
    loaded, resident_kib = _after(SITE)
    tops = {name.partition(".")[0] for name in loaded}
    assert tops & (HEAVY | {"typer", "click", "rich", "jinja2", "pydantic", "aiohttp"}) == set()
    unneeded = {"cryptography.x509", "numpy.random", "treaty.node.coordinator"}
    assert loaded & (unneeded | {"treaty.assessment.findings", "treaty.reports.render"}) == set()
    assert {"treaty.node.participant", "treaty.engines.jetstream"} <= loaded
    assert resident_kib < SITE_AGENT_KIB


def test_a_confined_worker_loads_what_training_needs_and_little_else() -> None:
    """There is one for each site, beside its agent."""
    loaded, resident_kib = _after(WORKER)
    tops = {name.partition(".")[0] for name in loaded}
    assert tops & {"cryptography", "asyncio", "sqlite3", "nats", "typer"} == set()
    assert resident_kib < CONFINED_WORKER_KIB
