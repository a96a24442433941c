"""Where the published vectors and data sets lie, and the rule for a need that is absent.

They are read where they are, never copied: ``TREATY_DATA`` and ``TREATY_VECTORS`` name the
folders, else ``../shared/data`` and ``../shared/vectors`` beside the project. A test whose need
is absent skips with a reason, or fails when ``TREATY_REQUIRE`` (a comma list) names the need.
"""

import os
from pathlib import Path
from typing import NoReturn

import pytest

__all__ = ["PROJECT_ROOT", "data_root", "skip_or_fail", "vectors_root"]

PROJECT_ROOT = Path(__file__).resolve().parent.parent


def data_root() -> Path:
    """Return the folder of the data sets."""
    return _root("TREATY_DATA", "data")


def vectors_root() -> Path:
    """Return the folder of the published vectors."""
    return _root("TREATY_VECTORS", "vectors")


def skip_or_fail(name: str, reason: str) -> NoReturn:
    """Skip the test for want of `name`, or fail it where `name` is required."""
    if name in os.environ.get("TREATY_REQUIRE", "").split(","):
        pytest.fail(f"{name} is required: {reason}")
    pytest.skip(f"needs {name}: {reason}")


def _root(variable: str, name: str) -> Path:
    folder = Path(os.environ.get(variable) or PROJECT_ROOT.parent / "shared" / name)
    if not folder.is_dir():
        skip_or_fail(name, f"{variable} names no folder and none lies beside the project")
    return folder
