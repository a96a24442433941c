"""Every import contract is shown to bite: a violation planted in a copy of the sources is named.

The contracts hold for the sources themselves by `make check`. Planted here, one per rule: an
upward import, an import between neighbours, a package without a layer, each module that the pure
layers may not know, cryptography and PyNaCl outside crypto, an adapter named outside wiring and
simulation, each extra outside its adapter, scipy outside the accountant, and pickle.

Faults planted in the contracts themselves, each caught: `exhaustive` off, `os` dropped from the
list, `treaty.studies` dropped from the pure sources, `allow_indirect_imports` on the layers,
`treaty.stores` dropped from the protected packages.
"""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.sources import PACKAGE, ROOT

IMPURE = [
    "asyncio",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "sqlite3",
    "subprocess",
    "threading",
    "time",
    "urllib",
]

# contract, planted module, its text, what the report must say
PLANTS: list[tuple[str, str, str, str]] = [
    ("layers", "crypto/planted.py", "import treaty.protocol", "crypto.planted -> treaty.protocol"),
    ("layers", "tlog/planted.py", "import treaty.privacy", "tlog.planted -> treaty.privacy"),
    ("layers", "node/planted.py", "import treaty.stores", "node.planted -> treaty.stores"),
    ("layers", "aggregation/planted.py", "import treaty.models", "aggregation.planted -> treaty.m"),
    ("layers", "ports.py", "import treaty.node", "treaty.ports -> treaty.node"),
    ("layers", "extra/__init__.py", "", "- treaty.extra"),
    *(
        (
            "pure",
            f"studies/use_{name}.py",
            f"import {name}",
            f"studies.use_{name} -> {name}",
        )
        for name in IMPURE
    ),
    ("pure", "protocol/planted.py", "def f():\n    import time", "protocol.planted -> time"),
    ("cryptography", "node/planted.py", "import cryptography", "node.planted -> cryptography"),
    ("cryptography", "node/planted.py", "import nacl.bindings", "node.planted -> nacl"),
    ("adapters", "api.py", "import treaty.stores", "treaty.api -> treaty.stores"),
    ("adapters", "reports/planted.py", "import treaty.engines", "reports.planted -> treaty.engin"),
    ("adapters", "cli/planted.py", "import treaty.trainers", "cli.planted -> treaty.trainers"),
    ("adapters", "cli/planted.py", "import treaty.datasets", "cli.planted -> treaty.datasets"),
    ("torch", "trainers/planted.py", "import torch", "trainers.planted -> torch"),
    ("sklearn", "simulation/planted.py", "import sklearn.svm", "simulation.planted -> sklearn"),
    ("joblib", "evaluation/planted.py", "import joblib", "evaluation.planted -> joblib"),
    ("nats", "engines/planted.py", "import nats.aio.client", "engines.planted -> nats"),
    ("nats", "deployment/planted.py", "import aiohttp", "deployment.planted -> aiohttp"),
    ("psycopg", "stores/planted.py", "import psycopg", "stores.planted -> psycopg"),
    ("accountant", "privacy/planted.py", "import scipy.stats", "privacy.planted -> scipy"),
    ("accountant", "privacy/planted.py", "import dp_accounting", "privacy.planted -> dp_account"),
    ("pickle", "stores/planted.py", "import pickle", "stores.planted -> pickle"),
]


def _lint(root: Path, contract: str) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [str(program), "--no-cache", "--no-logo", "--contract", contract],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root / "src"), "COLUMNS": "400"},
        capture_output=True,
        text=True,
        check=False,
    )


def _contracts() -> dict[str, dict[str, Any]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {entry["id"]: entry for entry in project["tool"]["importlinter"]["contracts"]}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sources and of the contracts."""
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "src" / "treaty", ignore=skip)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


@pytest.mark.parametrize(("contract", "module", "text", "report"), PLANTS)
def test_a_planted_violation_is_named(
    copy: Path, contract: str, module: str, text: str, report: str
) -> None:
    """The contract breaks, and says which module did it."""
    planted = copy / "src" / "treaty" / module
    planted.parent.mkdir(exist_ok=True)
    before = planted.read_text(encoding="utf-8") if planted.exists() else ""
    planted.write_text(f"{before}\n{text}\n", encoding="utf-8")
    run = _lint(copy, contract)
    assert run.returncode == 1
    assert report in run.stdout


def test_every_contract_has_a_planted_violation() -> None:
    """A contract that nothing was seen to break proves nothing."""
    assert {contract for contract, *_ in PLANTS} == set(_contracts())


def test_the_sources_keep_every_contract(copy: Path) -> None:
    """The control: without a plant each contract is kept."""
    for contract in _contracts():
        run = _lint(copy, contract)
        assert run.returncode == 0, run.stdout + run.stderr


def _layers() -> list[list[str]]:
    return [
        [name.strip(" ()") for name in line.split("|")] for line in _contracts()["layers"]["layers"]
    ]


def test_every_layer_up_to_ports_is_pure() -> None:
    """The list of pure packages is the lower part of the list of layers."""
    layers = _layers()
    lowest = layers[layers.index(["ports"]) :]
    expected = {f"treaty.{name}" for layer in lowest for name in layer}
    expected.discard("treaty.monitoring")  # no such package yet
    if (PACKAGE / "monitoring").exists():
        expected.add("treaty.monitoring")
    assert set(_contracts()["pure"]["source_modules"]) == expected


def test_every_adapter_package_is_protected() -> None:
    """The layer of the adapters, but for the node that sees ports only, is the protected list."""
    layer = next(layer for layer in _layers() if "stores" in layer)
    present = {f"treaty.{name}" for name in layer if (PACKAGE / name).exists()}
    assert set(_contracts()["adapters"]["protected_modules"]) == present - {"treaty.node"}
