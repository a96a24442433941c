"""Disable the checks of the protocol one at a time, and see whether a test notices.

A mutant is one check of a module that guards secrets or judges statements: an `if` that raises or
that returns an error, with its condition replaced by ``False``, or a call that checks and returns
nothing, replaced by ``None``. Where a condition is a row of alternatives, each of them is a check,
and is taken out by itself, but for the modules in `WHOLE`. Sources and tests are copied; only the
copy is changed, and the tests of the copy run against it. A mutant is *killed* when a test fails,
and *survives* otherwise. A survivor is either a missing test or a check that another one makes
superfluous; the latter are in `REDUNDANT` (tools/mutation_tables.py), each with its reason.

    python -m tools.mutate_checks                  # all of them, one after another
    python -m tools.mutate_checks --sample 12      # a seeded choice
    python -m tools.mutate_checks --list
"""

import argparse
import ast
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from tools.mutation_tables import FIRST, MODULES, REDUNDANT, TESTS, TESTS_OF, WHOLE

__all__ = [
    "FIRST",
    "MODULES",
    "REDUNDANT",
    "STORED",
    "Mutant",
    "Outcome",
    "Workshop",
    "campaign",
    "mutants",
    "noticed_by",
    "path_of",
    "report",
    "sample",
    "tests_of",
    "today",
]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = Path("src/treaty")
STORED = ROOT / "tests" / "campaign" / "results" / "check_mutations.json"

CHECKING = ("check", "_check", "_move", "_names", "_of_roster", "_among", "_shape", "_enough")
CHECKING += ("_same_survivors", "_survivor", "expect", "require", "_require", "open_cosigned")
"""Functions that are called only to raise: by name, or by how their names begin."""

TIMEOUT_S = 400
MEMORY_BYTES = 3 << 30


@dataclass(frozen=True)
class Mutant:
    """One check: the module, the function, the refusal's code, and where its condition stands.

    For a call that checks, `code` is the name of what is called, and the condition is the call.
    `part` counts the alternatives of a condition from 1, and is 0 where there is but one.
    """

    module: str
    function: str
    code: str
    ordinal: int
    start: int
    end: int
    condition: str
    instead: str
    part: int = 0

    @property
    def name(self) -> str:
        """A name that lasts while other lines move: module, function, code, and which of them."""
        which = f"#{self.ordinal}" if self.ordinal else ""
        which += f"|{self.part}" if self.part else ""
        return f"{self.module}.{self.function}[{self.code}]{which}"


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant. `by` is the test that failed, or empty."""

    mutant: str
    condition: str
    killed: bool
    by: str
    seconds: float


def mutants(root: Path = ROOT, modules: Iterable[str] = MODULES) -> tuple[Mutant, ...]:
    """Return every check, in order of module and line."""
    return tuple(one for module in modules for one in _of_module(root, module))


def sample(found: Iterable[Mutant], count: int, seed: int) -> tuple[Mutant, ...]:
    """Return a seeded choice of `count` mutants."""
    return tuple(Random(seed).sample(list(found), count))


def path_of(module: str) -> Path:
    """Return where the source of one of `MODULES` lies, from the root of the repository."""
    return PACKAGES / (f"{module}.py" if "/" in module else f"protocol/{module}.py")


def tests_of(module: str) -> tuple[str, ...]:
    """Return what is asked about a module, in this order."""
    package, _, inner = module.partition("/")
    return TESTS_OF.get(module) or (TESTS_OF[package] if inner else TESTS)


def _of_module(root: Path, module: str) -> Iterator[Mutant]:
    # In bytes, as the columns of a syntax tree are.
    source = (root / path_of(module)).read_bytes()
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    seen: dict[tuple[str, str], int] = {}
    for function in _functions(ast.parse(source)):
        for node in _own(function):
            found = _check_in(node)
            if found is None:
                continue
            place, code, instead = found
            key = (function.name, code)
            seen[key] = seen.get(key, -1) + 1
            each = [] if module in WHOLE else _alternatives(place)
            rows = list(enumerate(each, start=1)) or [(0, (place, instead))]
            for part, (piece, other) in rows:
                assert piece.end_lineno is not None and piece.end_col_offset is not None
                start = lines[piece.lineno - 1] + piece.col_offset
                end = lines[piece.end_lineno - 1] + piece.end_col_offset
                condition = " ".join(source[start:end].decode().split())
                yield Mutant(
                    module, function.name, code, seen[key], start, end, condition, other, part
                )


def _check_in(node: ast.AST) -> tuple[ast.expr, str, str] | None:
    """Return what to replace, the check's code, and the replacement, if `node` is a check."""
    if isinstance(node, ast.If):
        last = node.body[-1]
        if isinstance(last, ast.Raise):
            return node.test, _code(last.exc), "False"
        returned = last.value if isinstance(last, ast.Return) else None
        if isinstance(returned, ast.Call) and ast.unparse(returned.func).endswith("Error"):
            return node.test, _code(returned), "False"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        name = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
        if name.startswith(CHECKING):
            return node.value, name, "None"
    return None


def _alternatives(condition: ast.expr) -> list[tuple[ast.expr, str]]:
    """Return the alternatives of `a or b` and of `not (a and b)`, with what takes each out.

    A row that asks of several things only whether they are there at all is one check.
    """
    found: list[tuple[ast.expr, str]] = []
    if isinstance(condition, ast.BoolOp) and isinstance(condition.op, ast.Or):
        found = [(one, "False") for one in condition.values]
    elif isinstance(condition, ast.UnaryOp) and isinstance(condition.op, ast.Not):
        inner = condition.operand
        if isinstance(inner, ast.BoolOp) and isinstance(inner.op, ast.And):
            found = [(one, "True") for one in inner.values]
    return [] if all(_asks_presence(one) for one, _ in found) else found


def _asks_presence(condition: ast.expr) -> bool:
    return isinstance(condition, ast.Compare) and isinstance(condition.ops[0], ast.Is)


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def _own(function: ast.FunctionDef) -> Iterator[ast.AST]:
    """Yield what stands in a function, and not in one that is defined inside it."""
    waiting: deque[ast.AST] = deque([function])
    while waiting:
        node = waiting.popleft()
        yield node
        inner = (one for one in ast.iter_child_nodes(node) if not isinstance(one, ast.FunctionDef))
        waiting.extend(inner)


def _code(raised: ast.expr | None) -> str:
    """Return the code of a refusal, or the name of an error that has none."""
    if not isinstance(raised, ast.Call):
        return "raise"
    for keyword in raised.keywords:
        if keyword.arg == "code":
            value = keyword.value
            if isinstance(value, ast.Constant):
                return str(value.value)
            if isinstance(value, ast.JoinedStr):
                return "".join(str(getattr(part, "value", "*")) for part in value.values[:1])
            return ast.unparse(value)
    return ast.unparse(raised.func)


class Workshop:
    """A copy of sources and tests in which one module at a time is changed."""

    def __init__(self, directory: Path, root: Path = ROOT) -> None:
        self._place = directory
        skip = shutil.ignore_patterns("__pycache__", "*.pyc", "results")
        for part in ("src", "tests", "docs", "tools"):
            shutil.copytree(root / part, directory / part, ignore=skip)
        shutil.copy(root / "pyproject.toml", directory)
        self._env = {
            **os.environ,
            "PYTHONPATH": f"{directory / 'src'}{os.pathsep}{directory}",
            # Compiling everything anew would take longer than most judgements.
            "PYTHONDONTWRITEBYTECODE": "",
        }

    def verify(self, tests: Iterable[str]) -> None:
        """Raise `RuntimeError` unless the copy is what tests import, and those of `tests` pass."""
        shown = subprocess.run(
            [sys.executable, "-c", "import treaty; print(treaty.__file__)"],
            cwd=self._place,
            env=self._env,
            capture_output=True,
            text=True,
            check=True,
        )
        if not Path(shown.stdout.strip()).is_relative_to(self._place.resolve()):
            raise RuntimeError(f"the copy is not imported, but {shown.stdout.strip()}")
        files = dict.fromkeys(test.partition("::")[0] for test in tests)
        there = tuple(file for file in files if (self._place / file).exists())
        failed, by = self._ask(there) if there else (False, "")
        if failed:
            raise RuntimeError(f"the tests fail without a mutant: {by}")

    def judge(self, mutant: Mutant, first: str = "") -> Outcome:
        """Disable one check, ask the tests, and put the module back.

        `first` is the test that noticed it before, by default `FIRST`: it is asked alone, and all
        others only where it does not fail. Raises `RuntimeError` when what fails, other than
        `first`, fails without the mutant too.
        """
        path = self._place / path_of(mutant.module)
        source = path.read_bytes()
        changed = source[: mutant.start] + mutant.instead.encode() + source[mutant.end :]
        ast.parse(changed)
        _exchange(path, changed)
        begun = time.monotonic()
        try:
            likely = (first,) if first else FIRST.get(mutant.module, ())
            killed, by = self._ask(likely) if likely else (False, "")
            if not killed:
                killed, by = self._ask(tests_of(mutant.module))
        finally:
            _exchange(path, source)
        seconds = round(time.monotonic() - begun, 1)
        if by and by != first and self._ask((by,))[0]:
            raise RuntimeError(f"{by} fails without a mutant")
        return Outcome(mutant.name, mutant.condition, killed, by, seconds)

    def _ask(self, tests: tuple[str, ...]) -> tuple[bool, str]:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no"]
        command += ["-p", "no:cacheprovider", "-p", "no:randomly", *tests]
        try:
            done = subprocess.run(
                command,
                cwd=self._place,
                env=self._env,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
                preexec_fn=_bound_memory,
            )
        except subprocess.TimeoutExpired:
            return True, "timeout"
        if done.returncode in (4, 5) and len(tests) == 1:
            # The test that noticed it before is gone, or has another name.
            return False, ""
        if done.returncode not in (0, 1):
            raise RuntimeError(f"the tests did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
        by = failed[0].removeprefix("FAILED ").split(" - ")[0] if failed else ""
        return done.returncode == 1, by


def _bound_memory() -> None:
    """Let a mutant that loops for ever fail, before it takes the memory of the machine."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _exchange(path: Path, source: bytes) -> None:
    """Write a module, and let nothing of what was compiled of it before be taken for it."""
    path.write_bytes(source)
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def campaign(
    chosen: Iterable[Mutant],
    root: Path = ROOT,
    tell: Callable[[Outcome], None] = lambda _: None,
    before: Mapping[str, str] | None = None,
) -> tuple[Outcome, ...]:
    """Judge `chosen`, in a copy that is removed afterwards; `tell` hears of each at once.

    `before` names the tests that noticed the mutants in an earlier campaign (`noticed_by`): they
    are asked first, and all of them have to pass before the first mutant is made.
    """
    chosen, outcomes, known = tuple(chosen), [], before or {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        workshop = Workshop(Path(directory), root)
        workshop.verify(known[one.name] for one in chosen if one.name in known)
        for one in chosen:
            outcomes.append(workshop.judge(one, known.get(one.name, "")))
            tell(outcomes[-1])
    return tuple(outcomes)


def today() -> str:
    """Return the day, as in 2026-01-31 (UTC)."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def noticed_by(stored: Path) -> dict[str, str]:
    """Return the test that noticed each mutant of a stored report; of none where there is none."""
    if not stored.exists():
        return {}
    rows = json.loads(stored.read_text(encoding="utf-8"))["outcomes"]
    return {row["mutant"]: row["by"] for row in rows if row["by"] and "::" in row["by"]}


def report(
    outcomes: Iterable[Outcome], made: str, root: Path = ROOT, merged: Path | None = None
) -> str:
    """Return the outcomes as JSON, with the day they were `made` and no other times.

    `of` is the beginning of the SHA-256 of the module that was judged. Rows of an earlier report
    `merged` stand in for mutants that still exist and were not judged now; one without `of` was
    made when reports did not say it.
    """
    found: dict[str, dict[str, object]] = {}
    if merged is not None and merged.exists():
        earlier = json.loads(merged.read_text(encoding="utf-8"))["outcomes"]
        names = {one.name for one in mutants(root)}
        found = {row["mutant"]: row for row in earlier if row["mutant"] in names}
    for outcome in outcomes:
        row = asdict(outcome)
        del row["seconds"]
        module = outcome.mutant.partition(".")[0]
        row["of"] = hashlib.sha256((root / path_of(module)).read_bytes()).hexdigest()[:12]
        if outcome.mutant in REDUNDANT:
            row["redundant"] = REDUNDANT[outcome.mutant]
        found[outcome.mutant] = row
    rows = [found[name] for name in sorted(found)]
    killed = sum(1 for row in rows if row["killed"])
    summary = {"made": made, "mutants": len(rows), "killed": killed, "survived": len(rows) - killed}
    return json.dumps({**summary, "outcomes": rows}, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Run from the command line; the exit code is 1 when an unexplained mutant survives."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--list", action="store_true", help="print the mutants and stop")
    parser.add_argument("--sample", type=int, help="how many, instead of all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--module", action="append", choices=MODULES)
    parser.add_argument("--only", action="append", help="a mutant by name")
    parser.add_argument("--out", type=Path, help="write the outcomes here")
    parser.add_argument(
        "--merge", action="store_true", help="write them into the stored outcomes of all"
    )
    options = parser.parse_args()
    chosen = mutants(modules=options.module or MODULES)
    if options.only:
        chosen = tuple(one for one in chosen if one.name in options.only)
    if options.sample:
        chosen = sample(chosen, min(options.sample, len(chosen)), options.seed)
    if options.list:
        for one in chosen:
            print(f"{one.name}: {one.condition}")
        return 0

    def tell(outcome: Outcome) -> None:
        word = "killed  " if outcome.killed else "SURVIVED"
        print(f"{word} {outcome.mutant} {outcome.by}", flush=True)

    outcomes = campaign(chosen, tell=tell, before=noticed_by(STORED))
    if options.merge:
        STORED.write_text(report(outcomes, today(), merged=STORED), encoding="utf-8")
    if options.out is not None:
        options.out.parent.mkdir(exist_ok=True)
        options.out.write_text(report(outcomes, today()), encoding="utf-8")
    return int(any(not one.killed and one.mutant not in REDUNDANT for one in outcomes))


if __name__ == "__main__":
    raise SystemExit(main())
