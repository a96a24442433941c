"""Disable the checks of the protocol one at a time, and see whether a test notices.

A mutant is one check of a module that guards secrets or judges statements: an `if` that raises,
with its condition replaced by ``False``, or a call that checks and returns nothing, replaced by
``None``. Sources and tests are copied; only the copy is changed, and the tests of the copy run
against it. A mutant is *killed* when a test fails, and *survives* otherwise. A survivor is either a
missing test or a check that another one makes superfluous; the latter are in `REDUNDANT`, each with
its reason.

    python tools/mutate_checks.py                  # all of them, one after another
    python tools/mutate_checks.py --sample 12      # a seeded choice
    python tools/mutate_checks.py --list
"""

import argparse
import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

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

MODULES = (
    "accession",
    "consortium",
    "differencing",
    "gate",
    "ledger_trail",
    "membership",
    "model_release",
    "proposal",
    "releases",
    "secagg_audit",
    "secagg_claims",
    "secagg_coordinator",
    "secagg_enrolment",
    "secagg_epoch",
    "secagg_expected",
    "secagg_graph",
    "secagg_keys",
    "secagg_member",
    "secagg_opening",
    "secagg_pairs",
    "secagg_roster",
    "secure_round",
    "study",
    "study_checks",
    "surplus",
    "governance/accession",
    "governance/amendment",
    "governance/quorum",
    "tlog/checkpoint",
    "tlog/merkle",
    "tlog/notes",
    "tlog/policy",
    "tlog/proof",
    "tlog/witness",
)
"""Modules of `treaty.protocol`, and of other packages with the package's name before them."""

TESTS = (
    "tests/adversarial/test_secagg_moves.py",
    "tests/unit/protocol/test_secagg_member.py",
    "tests/unit/protocol/test_secagg_rounds.py",
    "tests/unit/protocol/test_secure_round.py",
    "tests/unit/protocol/test_secagg_graph.py",
    "tests/unit/protocol/test_secagg_audit.py",
    "tests/unit/protocol/test_surplus.py",
    "tests/unit/protocol/test_secagg_pairs.py",
    "tests/unit/protocol/test_secagg_claims.py",
    "tests/stateful/test_resumed_questions.py",
    "tests/adversarial/test_two_faced.py",
    "tests/unit/protocol/test_study.py",
    "tests/unit/protocol/test_consortium.py",
    "tests/unit/protocol/test_ledger_trail.py",
    "tests/unit/protocol/test_membership.py",
    "tests/unit/protocol/test_model_release.py",
    "tests/unit/protocol/test_gathered_charters.py",
    "tests/unit/protocol/test_accession.py",
    "tests/unit/protocol/test_secagg_keys.py",
    "tests/unit/protocol/test_gate.py",
    "tests/stateful/test_proposal.py",
    "tests/adversarial/test_fresh_releases.py",
    "tests/adversarial/test_hostile_releases.py",
    "tests/adversarial/test_private_studies.py",
    "tests/adversarial/test_forged_logs.py",
    "tests/adversarial/test_sketched_rounds.py",
)
"""What is asked about the protocol, in this order; the first failure ends a run."""

TESTS_OF: dict[str, tuple[str, ...]] = {
    "governance": (
        "tests/unit/governance",
        "tests/property/test_governance_laws.py",
        "tests/unit/protocol/test_accession.py",
        "tests/unit/protocol/test_membership.py",
    ),
    "tlog": ("tests/unit/tlog", "tests/property/test_log_laws.py"),
}
"""What is asked about the modules of other packages."""

FIRST: dict[str, tuple[str, ...]] = {
    "accession": ("tests/unit/protocol/test_accession.py",),
    "consortium": ("tests/unit/protocol/test_consortium.py", "tests/unit/protocol/test_study.py"),
    "gate": ("tests/unit/protocol/test_gate.py",),
    "ledger_trail": ("tests/unit/protocol/test_ledger_trail.py",),
    "membership": (
        "tests/unit/protocol/test_membership.py",
        "tests/unit/protocol/test_gathered_charters.py",
    ),
    "model_release": ("tests/unit/protocol/test_model_release.py",),
    "proposal": ("tests/stateful/test_proposal.py",),
    "releases": (
        "tests/adversarial/test_hostile_releases.py",
        "tests/adversarial/test_fresh_releases.py",
        "tests/adversarial/test_private_studies.py",
    ),
    "study": ("tests/unit/protocol/test_study.py", "tests/unit/protocol/test_secagg_audit.py"),
    "study_checks": ("tests/unit/protocol/test_study.py",),
}
"""By module, what is asked before all others where no test is known to notice."""

CHECKING = ("check", "_check", "_move", "_names", "_of_roster", "_among", "_shape", "_enough")
CHECKING += ("_same_survivors", "_survivor", "expect")
"""Functions that are called only to raise: by name, or by how their names begin."""

TIMEOUT_S = 400

REDUNDANT: dict[str, str] = {
    "secagg_audit.plan[UsageError]": (
        "cases are made of published sums alone, whose epoch and survivors are sealed; the check "
        "tells the types so"
    ),
    "secagg_audit.result[UsageError]": (
        "cases are made of published sums alone; the check tells the types so"
    ),
    "secagg_coordinator.graph[UsageError]": (
        "rounds are opened in epochs whose dealing is over; the check tells the types so"
    ),
    "secagg_enrolment._on_roster[wrong-epoch]": (
        "the coordinator logs keys of its own epoch alone, and `check_roster` refuses a roster "
        "that differs from its entries, with the same code; it stands so that neither depends on "
        "the other"
    ),
    "study._on_audited[not-a-member]": (
        "members alone may say it, the group of a running study is that of all members who are not "
        "suspended, and no charter changes meanwhile; it stands so that an audit rests on neither"
    ),
    "study._on_epoch[out-of-order]#1": (
        "an epoch is not closed while a round is open, and what ends an epoch otherwise, a "
        "suspension or a halt, cuts the round off with it; it stands so that neither is relied on"
    ),
    "study._on_round[out-of-order]#2": (
        "`use_slot` refuses a round before the dealing is sealed, and the graph comes with the "
        "seal; the check tells the types so"
    ),
    "secagg_member._on_survivors[UsageError]": (
        "a round has a lock from its input on, and the table admits survivors only after it; the "
        "check tells the types so"
    ),
    "study_checks.check_report[not-a-member]": (
        "who sent a histogram was asked as a member of the study, and nothing that a member signs "
        "is taken once it is suspended; it stands so that a report rests on neither"
    ),
}
"""Mutants that no test can kill, by name, and why the check stands all the same."""


@dataclass(frozen=True)
class Mutant:
    """One check: the module, the function, the refusal's code, and where its condition stands.

    For a call that checks, `code` is the name of what is called, and the condition is the call.
    """

    module: str
    function: str
    code: str
    ordinal: int
    start: int
    end: int
    condition: str
    instead: str

    @property
    def name(self) -> str:
        """A name that lasts while other lines move: module, function, code, and which of them."""
        which = f"#{self.ordinal}" if self.ordinal else ""
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
    """Return every `if` that raises, in order of module and line."""
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
    return TESTS_OF[package] if inner else TESTS


def _of_module(root: Path, module: str) -> Iterator[Mutant]:
    source = (root / path_of(module)).read_text(encoding="utf-8")
    lines = [0]
    for line in source.splitlines(keepends=True):
        lines.append(lines[-1] + len(line))
    seen: dict[tuple[str, str], int] = {}
    for function in _functions(ast.parse(source)):
        for node in ast.walk(function):
            found = _check_in(node)
            if found is None:
                continue
            place, code, instead = found
            key = (function.name, code)
            seen[key] = seen.get(key, -1) + 1
            assert place.end_lineno is not None and place.end_col_offset is not None
            start = lines[place.lineno - 1] + place.col_offset
            end = lines[place.end_lineno - 1] + place.end_col_offset
            condition = " ".join(source[start:end].split())
            yield Mutant(module, function.name, code, seen[key], start, end, condition, instead)


def _check_in(node: ast.AST) -> tuple[ast.expr, str, str] | None:
    """Return what to replace, the check's code, and the replacement, if `node` is a check."""
    if isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise):
        return node.test, _code(node.body[-1]), "False"
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        called = node.value.func
        name = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
        if name.startswith(CHECKING):
            return node.value, name, "None"
    return None


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            yield node


def _code(raised: ast.Raise) -> str:
    """Return the code of a refusal, or the name of an error that has none."""
    call = raised.exc
    if not isinstance(call, ast.Call):
        return "raise"
    for keyword in call.keywords:
        if keyword.arg == "code":
            value = keyword.value
            if isinstance(value, ast.Constant):
                return str(value.value)
            if isinstance(value, ast.JoinedStr):
                return "".join(str(getattr(part, "value", "*")) for part in value.values[:1])
            return ast.unparse(value)
    return ast.unparse(call.func)


class Workshop:
    """A copy of sources and tests in which one module at a time is changed."""

    def __init__(self, directory: Path, root: Path = ROOT) -> None:
        self._place = directory
        skip = shutil.ignore_patterns("__pycache__", "*.pyc", "results")
        for part in ("src", "tests", "docs"):
            shutil.copytree(root / part, directory / part, ignore=skip)
        shutil.copy(root / "pyproject.toml", directory)
        self._env = {
            **os.environ,
            "PYTHONPATH": f"{directory / 'src'}{os.pathsep}{directory}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def verify(self, modules: Iterable[str] = MODULES) -> None:
        """Raise `RuntimeError` unless the copy is what the tests of `modules` import, and pass."""
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
        failed, by = self._ask(tuple(dict.fromkeys(t for m in modules for t in tests_of(m))))
        if failed:
            raise RuntimeError(f"the tests fail without a mutant: {by}")

    def judge(self, mutant: Mutant, first: str = "") -> Outcome:
        """Disable one check, ask the tests, and put the module back.

        `first` is the test that noticed it before, by default `FIRST`: it is asked alone, and all
        others only where it does not fail.
        """
        path = self._place / path_of(mutant.module)
        source = path.read_text(encoding="utf-8")
        path.write_text(
            source[: mutant.start] + mutant.instead + source[mutant.end :], encoding="utf-8"
        )
        begun = time.monotonic()
        try:
            likely = (first,) if first else FIRST.get(mutant.module, ())
            killed, by = self._ask(likely) if likely else (False, "")
            if not killed:
                killed, by = self._ask(tests_of(mutant.module))
        finally:
            path.write_text(source, encoding="utf-8")
        seconds = round(time.monotonic() - begun, 1)
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


def campaign(
    chosen: Iterable[Mutant],
    root: Path = ROOT,
    tell: Callable[[Outcome], None] = lambda _: None,
    before: Mapping[str, str] | None = None,
) -> tuple[Outcome, ...]:
    """Judge `chosen`, in a copy that is removed afterwards; `tell` hears of each at once.

    `before` names the tests that noticed the mutants in an earlier campaign (`noticed_by`).
    """
    chosen, outcomes = tuple(chosen), []
    with tempfile.TemporaryDirectory(prefix="mutants-") as directory:
        workshop = Workshop(Path(directory), root)
        workshop.verify({one.module for one in chosen})
        for one in chosen:
            outcomes.append(workshop.judge(one, (before or {}).get(one.name, "")))
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
