"""Where the sources are and what they are, for the tests of this folder and for `tools/`."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "treaty"
SNAPSHOT = Path(__file__).with_name("public_names.txt")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package: its dotted name and its file, in order of name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


def declared_names(path: Path) -> list[str] | None:
    """The strings of the module's `__all__`; None where it has none.

    Read from the syntax tree, so that adapters of extras that are not installed count too.
    """
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            names: list[str] = list(ast.literal_eval(node.value))
            return names
    return None


def public_names() -> str:
    """The snapshot: one public name a line, with its module."""
    lines = (
        f"{module}.{name}" for module, path in modules() for name in declared_names(path) or ()
    )
    return "".join(f"{line}\n" for line in sorted(lines))


def tracked_files() -> list[Path]:
    """What the repository holds; without git, every file that is not a tool's leavings."""
    git = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False
    )
    if git.returncode == 0:
        return [ROOT / name for name in git.stdout.decode().split("\0") if name]
    folders = ("src", "tests", "docs", "tools", "benchmarks", ".ci")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    found += ROOT.iterdir()
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]
