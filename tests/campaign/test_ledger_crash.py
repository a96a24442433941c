"""A site's ledger is cut off at every byte of every step, killed for real, and put back.

A script takes a ledger from its opening over two private plans, exact releases, a closed plan, a
new cap, new content and a re-base to its last charge. A model of the site releases a vector only
when the ledger has answered. In each trial one write of the ledger is cut off: before it, after any
number of its bytes, the rest missing or read as zeros, or after it and before the answer. Then the
site starts anew over what is left and goes on to the script's end, its store remembering what it
had stored. Whatever was released must be counted: charge for charge, and no answered entry may be
missing.

Beside it the same script runs in processes that end by SIGKILL at named persist points and at drawn
moments; and every older copy of the file is put back against every head that was shown.

``ci`` takes 500 seeded cuts, 60 kills and all older copies; ``full`` takes 10,000 cuts or more
(every byte once, every second one with a hole), 400 kills, and stores a table.

The files lie in memory where the machine has a file system there: what a disk confirms is not asked
here, and ten thousand real confirmations take an hour.
"""

import json
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import pytest

from tests.unit.node.test_budget import DATASET, SITE, caps, claim, counting, named, release
from treaty.errors import PolicyError
from treaty.ids import Digest
from treaty.node.budget import BudgetKeeper
from treaty.node.dataset import new_ledger
from treaty.privacy.accountant import total_signal_to_noise
from treaty.privacy.ledger import replay
from treaty.privacy.ledger_entries import TRAINING, LedgerHead
from treaty.protocol.ledger_trail import LedgerTrail
from treaty.protocol.messages import LedgerRebased
from treaty.protocol.secagg_messages import LedgerMark, MaskedInput
from treaty.protocol.statements import Verified
from treaty.stores.kill_points import KILL_VARIABLE
from treaty.stores.ledger_file import LEDGER_HEADER, LedgerFile, parse_ledger

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
RESULTS = Path(__file__).parent / "results"
SEED = 20_261_129
CUTS = 10_000 if FULL else 500
KILLS = 400 if FULL else 60

_table: dict[str, object] = {}


@dataclass
class Site:
    """What a site has durably beside its ledger: stored vectors, what left it, the log's trail."""

    stored: dict[str, str] = field(default_factory=dict)
    released: list[tuple[str, str]] = field(default_factory=list)
    disclosed: set[tuple[str, str]] = field(default_factory=set)
    trail: LedgerTrail = field(default_factory=LedgerTrail)
    draws: int = 0

    def copy(self) -> "Site":
        return Site(
            dict(self.stored), list(self.released), set(self.disclosed), self.trail, self.draws
        )


Step = Callable[[BudgetKeeper, Site], None]


def shown(head: LedgerHead) -> MaskedInput:
    return MaskedInput(
        charter=named("charter"),
        author=SITE,
        context=named("context"),
        length=1,
        root=named("root"),
        blob=named("blob"),
        ledger=LedgerMark(ledger=head.ledger, head=head.head),
        ledger_count=head.count,
    )


def answer(plan: str, query: str, cohort: str = "all", envelope: str = TRAINING) -> Step:
    """Noise, charge, store, send: the order of a member's round."""

    def step(keeper: BudgetKeeper, site: Site) -> None:
        slot = f"{plan}/{query}/{cohort}"
        payload = site.stored.get(slot)
        if payload is None:
            site.draws += 1
            payload = f"{slot}/{site.draws}"
        head = keeper.charge(
            plan=named(plan),
            partition=TRAINING,
            envelope=envelope,
            query=named(query),
            model=named("model"),
            cohort=named(cohort),
            payload=named(payload),
            event=release() if envelope == TRAINING else release(permyriad=10),
        )
        site.stored[slot] = payload
        site.released.append((envelope, payload))
        site.trail = site.trail.with_head(shown(head))
        keeper.sent(named(plan), named(payload))

    return step


def disclose(plan: str, name: str) -> Step:
    def step(keeper: BudgetKeeper, site: Site) -> None:
        keeper.disclose(named(plan), (TRAINING,), name)
        site.disclosed.add((plan, name))

    return step


def rebase(keeper: BudgetKeeper, site: Site) -> None:
    """An officer gives up the head shown last; what was released so far counts as all spent."""
    ledger = keeper.state.heads[0]
    if ledger in site.trail.heads:
        lost = site.trail.heads[ledger]
        body = LedgerRebased(
            charter=named("charter"),
            author=SITE,
            lost=LedgerMark(ledger=lost.ledger, head=lost.head),
            lost_count=lost.count,
            successor=lost.ledger,
        )
        site.trail = site.trail.rebased(Verified(body, named("rebase"), frozenset()))
    keeper.confirm(site.trail)


SCRIPT: tuple[Step, ...] = (
    lambda keeper, site: keeper.cap(named("charter"), caps()),
    lambda keeper, site: keeper.register_content() and None,
    lambda keeper, site: keeper.name_persons("rows", by_place=True),
    lambda keeper, site: keeper.reserve(named("a"), [claim(6), counting(1)]),
    answer("a", "count", envelope="statistics"),
    answer("a", "1"),
    answer("a", "2"),
    answer("a", "2"),
    answer("a", "2", "fewer"),
    disclose("b", "statistics-sum"),
    lambda keeper, site: keeper.close(named("a")),
    lambda keeper, site: keeper.reserve(named("c"), [claim(4)]),
    answer("c", "1"),
    rebase,
    lambda keeper, site: keeper.cap(named("charter"), caps(9_000_000)),
    lambda keeper, site: keeper.reserve(named("d"), [claim(5)]),
    answer("d", "1"),
    answer("d", "2"),
)


def counted(path: Path) -> tuple[Counter[str], Fraction]:
    """Return what the file counts, by an own reading of its entries: payloads, and mu squared."""
    records, _ = parse_ledger(path.read_bytes(), first=True, name="file")
    payloads: Counter[str] = Counter()
    total = Fraction(0)
    for record in records:
        action = json.loads(record)["action"]
        if action["kind"] == "charged":
            payloads[action["payload"]] += 1
            event = action["event"]
            total += Fraction(event["sensitivity"] ** 2, int(event["variance"], 16))
    return payloads, total


def check(path: Path, site: Site) -> None:
    """Every release is counted, entry by entry and in sum, and every disclosure is listed."""
    payloads, total = counted(path)
    left = {payload for _, payload in site.released}
    missing = [payload for payload in left if not payloads[named(payload)]]
    assert not missing, f"released and not counted: {missing}"
    ones = {payload: envelope for envelope, payload in site.released}
    real = sum(
        total_signal_to_noise([release() if kind == TRAINING else release(permyriad=10)])
        for kind in ones.values()
    )
    state = replay(parse_ledger(path.read_bytes(), first=True, name="file")[0])
    assert real <= total <= total_signal_to_noise(state.events(TRAINING))
    for plan, name in site.disclosed:
        assert (named(plan), TRAINING, name) in state.disclosed


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory, else on disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        yield Path(name)


def keeper_of(path: Path) -> BudgetKeeper:
    ledger = LedgerFile(path)
    if not ledger.read():
        new_ledger(ledger, DATASET, bytes(32))
    return BudgetKeeper(ledger, DATASET, content=lambda: b"rows")


@dataclass(frozen=True)
class Written:
    """One step of the clean run: the file before it, what it wrote, the site before it."""

    number: int
    before: bytes
    wrote: bytes
    site: Site


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> list[Written]:
    path = tmp_path_factory.mktemp("clean") / "home" / "a.ledger"
    keeper, site, found = keeper_of(path), Site(), []
    for number, step in enumerate(SCRIPT):
        before, held = path.read_bytes(), site.copy()
        step(keeper, site)
        found.append(Written(number, before, path.read_bytes()[len(before) :], held))
    check(path, site)
    assert sum(bool(one.wrote) for one in found) >= len(SCRIPT) - 2
    return found


@pytest.fixture(scope="module", autouse=True)
def results() -> Iterator[None]:
    yield
    if FULL and _table:
        at = datetime.now(UTC)
        _table.update(
            {"campaign": "ledger-crash", "at": at.isoformat(timespec="seconds"), "seed": SEED}
        )
        text = json.dumps(_table, indent=1, sort_keys=True) + "\n"
        (RESULTS / f"ledger-crash-{at:%Y-%m-%d}.json").write_text(text)


def cuts(clean: list[Written]) -> list[tuple[Written, int, bool]]:
    """Return (step, bytes that reached the disk, hole): all of them, or a seeded draw."""
    every = [
        (one, count, hole)
        for one in clean
        for count in range(len(one.wrote) + 1)
        for hole in ((False, True) if count % 2 == 0 and count < len(one.wrote) else (False,))
    ]
    if FULL:
        assert len(every) >= CUTS, len(every)
        return every
    return random.Random(SEED).sample(every, CUTS)


def go_on(path: Path, site: Site, number: int) -> None:
    """Start the site anew over what is left, repeat the step that was cut off, go on to the end."""
    keeper = keeper_of(path)
    keeper.confirm(site.trail)
    for step in SCRIPT[number:]:
        step(keeper, site)
    keeper.release()


def test_a_write_cut_off_anywhere_counts_every_release(
    clean: list[Written], quick_path: Path
) -> None:
    path = quick_path / "home" / "a.ledger"
    path.parent.mkdir(mode=0o700)
    began, failures, steps = time.monotonic(), [], Counter[int]()
    chosen = cuts(clean)
    for one, count, hole in chosen:
        torn = one.before + one.wrote[:count] + (bytes(len(one.wrote) - count) if hole else b"")
        path.write_bytes(torn)
        path.chmod(0o600)
        site = one.site.copy()
        try:
            go_on(path, site, one.number)
            check(path, site)
            assert path.read_bytes().startswith(one.before), "an answered entry is gone"
        except (AssertionError, PolicyError) as error:
            failures.append(f"step {one.number}, byte {count}, hole {hole}: {error}")
        steps[one.number] += 1
    _table["cuts"] = {
        "trials": len(chosen),
        "under-counted": len(failures),
        "by step": {str(number): times for number, times in sorted(steps.items())},
        "seconds": round(time.monotonic() - began, 1),
    }
    assert not failures, failures[:5]
    assert set(steps) >= {one.number for one in clean if one.wrote}


def test_a_killed_process_counts_every_release(clean: list[Written], quick_path: Path) -> None:
    """The child says on a pipe what it released, after it released it; then it is killed."""
    draw = random.Random(SEED)
    steps = "open cap content naming reserve charge disclose close rebase recover"
    labels = [f"ledger-{step}" for step in steps.split()]
    once = {"ledger-open", "ledger-recover"}
    orders = [
        f"{label}:{n}:{m}"
        for label in labels
        for n in (1, 2)
        if n == 1 or label not in once
        for m in ("before", "after")
    ]
    orders += [f"ledger-charge:{n}:{m}" for n in range(3, 9) for m in ("before", "after")]
    died: Counter[str] = Counter()
    for trial in range(KILLS):
        path = quick_path / f"{trial}" / "a.ledger"
        order = orders[trial % len(orders)] if trial % 2 == 0 else ""
        before: list[bytes] = []
        if "recover" in order:
            # A life before this one was cut off in its last write.
            torn = clean[-1].before + clean[-1].wrote[:-9]
            before, _ = parse_ledger(torn, first=True, name="file")
            path.parent.mkdir(mode=0o700)
            path.write_bytes(torn)
            path.chmod(0o600)
        said, ended = _child(path, order, draw.uniform(0.0, 0.03))
        died[order.split(":")[0] or "drawn moment"] += ended == -signal.SIGKILL
        if not path.exists():
            assert not said
            continue
        keeper_of(path).release()
        payloads, _ = counted(path)
        assert all(payloads[named(one)] for one in said), (order, said)
        kept, _ = parse_ledger(path.read_bytes(), first=True, name="file")
        assert kept[: len(before)] == before, order
    _table["kills"] = {"trials": KILLS, "under-counted": 0, "killed": dict(sorted(died.items()))}
    assert sum(died.values()) > KILLS // 3, died


def _child(path: Path, order: str, delay_s: float) -> tuple[list[str], int]:
    """Run the script in a forked process; kill it by `order`, or after a while."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            if order:
                os.environ[KILL_VARIABLE] = order
            site = Site()
            keeper = keeper_of(path)
            for step in SCRIPT:
                before = len(site.released)
                step(keeper, site)
                for _, payload in site.released[before:]:
                    os.write(writer, payload.encode() + b"\n")
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    if not order:
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read().decode().split("\n")
    _, status = os.waitpid(child, 0)
    ended = os.waitstatus_to_exitcode(status)
    assert ended in (0, -signal.SIGKILL), ended
    return said[:-1], ended


def test_every_older_copy_is_detected(clean: list[Written], quick_path: Path) -> None:
    """Each copy of the file, from its opening on, is put back against each later head shown."""
    last = clean[-1]
    records, _ = parse_ledger(last.before + last.wrote, first=True, name="file")
    lines = (last.before + last.wrote)[len(LEDGER_HEADER) :].split(b"\n")[:-1]
    path = quick_path / "home" / "a.ledger"
    path.parent.mkdir(mode=0o700)
    state = replay(records)
    tried = 0
    for kept in range(1, len(records)):
        path.write_bytes(LEDGER_HEADER + b"\n".join(lines[:kept]) + b"\n")
        path.chmod(0o600)
        for count in range(kept + 1, len(records) + 1):
            head = LedgerHead(ledger=state.heads[0], count=count, head=state.heads[count - 1])
            keeper = BudgetKeeper(LedgerFile(path), DATASET)
            keeper.confirm(LedgerTrail().with_head(shown(head)))
            assert keeper.lock == "ledger-behind", (kept, count)
            with pytest.raises(PolicyError):
                keeper.disclose(Digest(named("x")), (TRAINING,), "statistics-sum")
            keeper.release()
            tried += 1
    _table["older copies"] = {"trials": tried, "undetected": 0}
    assert tried == len(records) * (len(records) - 1) // 2
