"""Start-up is light: help and a site agent load nothing that only some work needs.

Planted and caught: `import scipy.stats` at the top of a module that the command line imports; a
serving party that imports the parser of command lines, certificates or the coordinator; a confined
worker that imports what only the agent needs; a loading that hides nothing, that leaves what it hid
hidden, or a stand-in in its place, that fails where a library needs what is hidden; a letting go of
pages that the loader has relocated, and of pages that are written to.
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

SERVING = """
import sys
from treaty.deployment.loading import let_go, load
load(("treaty.deployment.agent",))
"""

HIDDEN = """
from treaty.deployment.loading import ABSENT, STAND_INS
left = [name for name in (*ABSENT, *STAND_INS) if name in sys.modules]
assert not left, left
import bz2, lzma, importlib.metadata, nats.js.client, nats.js.manager
assert nats.js.client.JetStreamContext.__module__ == "nats.js.client"
"""

NEEDED = """
import sys
from treaty.deployment.loading import load
load(("tarfile",), absent=("struct", "nowhere"), stand_ins={"copy": ()})
import copy, struct, tarfile
assert tarfile.open and copy.deepcopy([1]) == [1] and struct.calcsize("<I") == 4
assert "nowhere" not in sys.modules
"""

LET_GO = """
def resident():
    with open("/proc/self/status") as status:
        return sum(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))

before = resident()
said = let_go()
assert said > 8000, said
assert before - resident() > 8000, (before, resident())

# What had been mapped, relocated or written to is as it was.
import hashlib, sqlite3, ssl
import numpy as np
from treaty.crypto.key_agreement import EncapsulationKey
from treaty.crypto.keys import SigningKey
key = SigningKey.generate(bytes(32))
key.public.verify(key.sign(b"words"), b"words")
EncapsulationKey.generate(bytes(64))
assert np.linalg.solve(np.eye(3), np.arange(3.0)).sum() == 3
assert sqlite3.connect(":memory:").execute("SELECT 1 + 1").fetchone() == (2,)
assert hashlib.sha256(b"").hexdigest().startswith("e3b0c442")
ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
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


def test_a_serving_site_loads_nothing_that_its_libraries_load_for_others() -> None:
    """What they can do without is hidden from them, and from nobody afterwards."""
    pytest.importorskip("nats", reason="nats: nats-py is not installed")
    usual, _ = _after("import treaty.deployment.loading, treaty.deployment.agent")
    loaded, _ = _after(SERVING)
    spared = usual - loaded
    assert {
        "importlib.metadata",
        "zipfile",
        "email.parser",
        "lzma",
        "nats.js.object_store",
    } <= spared
    assert {name for name in spared if name.startswith("treaty.")} == set()
    _after(SERVING + HIDDEN)


def test_a_library_that_needs_what_is_hidden_is_loaded_as_usual() -> None:
    """Another version of a library may not do without; then nothing is spared."""
    _after(NEEDED)


@pytest.mark.skipif(sys.platform != "linux", reason="pages are let go on Linux only")
def test_pages_that_are_let_go_lose_nothing() -> None:
    """They are mapped again when they are touched, and relocated ones are left alone."""
    pytest.importorskip("nats", reason="nats: nats-py is not installed")
    _after(SERVING + LET_GO)


def test_a_confined_worker_loads_what_training_needs_and_little_else() -> None:
    """There is one for each site, beside its agent."""
    loaded, resident_kib = _after(WORKER)
    tops = {name.partition(".")[0] for name in loaded}
    assert tops & {"cryptography", "asyncio", "sqlite3", "nats", "typer"} == set()
    assert resident_kib < CONFINED_WORKER_KIB
