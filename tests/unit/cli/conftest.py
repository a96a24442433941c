"""What the tests of the commands share: a folder with a charter, a contract, a plan, a site."""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.contracts.example import CONTRACT, UNITS, clean_columns
from tests.unit.governance.consortia import coordinator, founding, key, member_keys
from treaty.cli.main import run
from treaty.crypto.keys import encode_key_file
from treaty.governance.charter import charter_to_toml
from treaty.governance.template import CharterOptions
from treaty.ids import Timestamp

FAR = Timestamp(32_503_593_600_000)
SMALL = CONTRACT.replace('  { code = "2", meaning = "paced", sites = ["alpha"] },\n', "")
PLAN = """
study = "first"
title = "First study"
purpose = "see whether it works"
data_use = ["DUO:0000006"]
model = { kind = "logistic-regression", max_rounds = 5 }
privacy = { kind = "exact" }
"""
ADAPTER = 'format = "treaty.adapter/v1"\ncontract = "example"\nsite = "alpha"\n[units]\n' + "".join(
    f'{name} = "{unit}"\n' for name, unit in UNITS.items()
)

__all__ = ["ADAPTER", "FAR", "PLAN", "SMALL", "Command", "Result", "write_key"]


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture
def treaty(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run one command line in this process."""

    def call(*words: object) -> Result:
        code = run([str(word) for word in words])
        shown = capsys.readouterr()
        return Result(code, shown.out, shown.err)

    return call


def write_key(path: Path, role: str, label: str) -> Path:
    """Write the key file that `consortia.key` makes of `label`."""
    path.write_bytes(encode_key_file(role, key(label)))
    path.chmod(0o600)
    return path


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """A folder with the files of a consortium of four, all of which hold."""
    charter = founding(4, CharterOptions(expires=FAR))
    (tmp_path / "charter.toml").write_text(charter_to_toml(charter))
    (tmp_path / "contract.toml").write_text(SMALL)
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "adapter.toml").write_text(ADAPTER)
    columns = clean_columns()
    columns["ecg"] = ["0" if code == "2" else code for code in columns["ecg"]]
    with (tmp_path / "site.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    for name in charter.members:
        for role in ("approval", "runner", "witness"):
            assert getattr(member_keys(name), role)
            write_key(tmp_path / f"{name}.{role}.key", role, f"{name} {role} 1")
    assert coordinator().runner == key("coordinator runner").public.hex
    write_key(tmp_path / "coordinator.key", "coordinator", "coordinator runner")
    write_key(tmp_path / "log.key", "log", "coordinator log")
    return tmp_path
