"""What the sources may be called, how long they may be, and what they may not mention.

Planted and caught: a module `utils.py`, a module of 501 lines, a module without a docstring, one
without `__all__`, a name added to an `__all__`, a home directory in a page, a host in the lock,
another version in one of the two places.
"""

import ast
import re
import tomllib

import pytest

from tests.architecture.sources import (
    PACKAGE,
    ROOT,
    SNAPSHOT,
    declared_names,
    modules,
    public_names,
    tracked_files,
)
from treaty.version import VERSION

MODULES = dict(modules())
BANNED_MODULES = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
LONGEST_MODULE = 500
# Put together from parts, so that this file does not mention them either.
HOSTS = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"))]
ABSOLUTE = re.compile(r"(?<![\w.$}~*-])/(?:home|root|work|Users|opt)/\w")


def _is_empty(name: str) -> bool:
    return not ast.parse(MODULES[name].read_text(encoding="utf-8")).body


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_named_after_what_it_holds(name: str) -> None:
    """No drawer for odds and ends, and packages are one level deep."""
    parts = name.split(".")
    assert not BANNED_MODULES & set(parts)
    assert len(parts) <= 3


@pytest.mark.parametrize("name", MODULES)
def test_a_module_fits_in_one_reading(name: str) -> None:
    """Past the limit there is a seam to find."""
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("name", [name for name in MODULES if not _is_empty(name)])
def test_a_module_says_what_it_is_and_what_it_offers(name: str) -> None:
    """It has a docstring, and lists its public names once each."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    is_package = MODULES[name].name == "__init__.py"
    names = declared_names(MODULES[name])
    assert names is not None or is_package or name == "treaty.__main__"
    assert len(set(names or ())) == len(names or ())


def test_the_public_names_are_those_of_the_snapshot() -> None:
    """A change to what others may call is seen in review; `make names` writes it down."""
    assert public_names().splitlines() == SNAPSHOT.read_text(encoding="utf-8").splitlines()


def test_no_tracked_file_mentions_one_machine_or_one_registry() -> None:
    """The repository works wherever it is cloned and whichever index serves the packages."""
    found = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError):
            continue
        hits = ABSOLUTE.findall(text) + [host for host in HOSTS if host in text]
        if hits:
            found.append((str(path.relative_to(ROOT)), sorted(set(hits))))
    assert found == []


def test_every_locked_package_has_a_hash_and_no_index_is_named() -> None:
    """`pip install --require-hashes` can use the lock with any index."""
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-z0-9])", "\n" + text)[1:]
    assert len(blocks) > 20
    for block in blocks:
        assert re.match(r"[a-z0-9._-]+==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", block), block[:60]
    assert "://" not in text and "--index" not in text and "--find-links" not in text


def test_the_version_is_the_same_in_both_places() -> None:
    """Plans bind the version that the code states; the package index shows the other."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["version"] == VERSION


def test_the_package_declares_the_locked_requirements() -> None:
    """pyproject.toml and requirements.in name the same packages and bounds."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = (ROOT / "requirements.in").read_text(encoding="utf-8").splitlines()
    for line in wanted:
        assert line.startswith("#") or f'"{line}"' in project
    assert PACKAGE.joinpath("py.typed").exists()
