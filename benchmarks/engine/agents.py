"""Agents: what one holds in memory, and how a round grows with their number.

`memory` runs a consortium of four sites, each a process, and one whose sites are hosted by one
program, and reads each agent and its worker from the kernel, idle and after rounds of a small
model.

`growth` runs rounds of one small model with more and more agents on this machine, in one consortium
or in several, each agent a process with its own directory, keys, connection and store. It reads the
wall time between two published sums of a consortium, and the processor time that each kind of
process spent on one. Where the time is up before, it returns what there is until then, and why.
"""

import statistics
import time
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import pairwise

from benchmarks.engine.consortium import MemberRig, StudyLog, consortia, start_studies, wait_for
from benchmarks.engine.course import Course, CutOffError
from benchmarks.engine.processes import memory_of, processor_s, total_mib
from tests.network_rig import HUB
from treaty.ids import Digest
from treaty.models.specification import LogisticRegression, MultilayerPerceptron

__all__ = ["growth", "memory"]

ROUNDS = 20
LOOK_S = 0.005
MEMORY_S = 1200.0
SETTLING = 3


def memory(rounds: int = ROUNDS) -> list[dict[str, object]]:
    """Return the memory of agents and workers, in MiB: medians over the sites."""
    found: list[dict[str, object]] = []
    for hosted in (False, True):
        course = Course("memory", MEMORY_S)
        with consortia(1, 4, course, hosted=hosted) as rigs:
            time.sleep(2)
            found.append({"hosted": hosted, "when": "idle", **memory_of(rigs)})
            model = MultilayerPerceptron(hidden=(4,), rounds=rounds)
            [digest] = start_studies(rigs, course, model, 32)
            wait_for(rigs, course, lambda rig: rig.finished(digest), lambda _: "rounds", 0.5)  # noqa: B023 - called now
            time.sleep(1)
            found.append({"hosted": hosted, "when": f"after {rounds} rounds", **memory_of(rigs)})
    return found


def growth(agents: int, rounds: int, limit_s: float, consortia_count: int = 1) -> dict[str, object]:
    """Return what a round takes with `agents` in each of so many consortia, and what is spent.

    Times of sums are those while all the consortia ran rounds. Raises nothing when `limit_s` is
    over or it is told to end: the row says so, and holds what was measured until then.
    """
    course = Course(f"{consortia_count} x {agents} agents", limit_s)
    row: dict[str, object] = {"consortia": consortia_count, "agents": agents, "cut_off": ""}
    with ExitStack() as stack:
        try:
            rigs = stack.enter_context(consortia(consortia_count, agents, course))
            _run(rigs, rounds, course, row)
        except (CutOffError, AssertionError) as end:
            # What a party said stands behind the first line.
            row["cut_off"] = str(end).splitlines()[0]
            course.say(str(end))
        row["reached_s"] = dict(course.marks)
    return row


def _run(rigs: Sequence[MemberRig], rounds: int, course: Course, row: dict[str, object]) -> None:
    """Run a study in every rig; put what was measured into `row`, whatever ends it."""
    if len(rigs) == 1:
        model: LogisticRegression | MultilayerPerceptron = LogisticRegression(max_rounds=rounds)
    else:
        # A number of rounds that is fixed: while one consortium ended early, others had more room.
        model = MultilayerPerceptron(hidden=(4,), rounds=rounds)
    digests = start_studies(rigs, course, model, rounds + 4, deadline_s=600)
    spent: list[tuple[float, dict[str, float]]] = []
    with ExitStack() as stack:
        logs = [StudyLog(rig) for rig in rigs]
        for log in logs:
            stack.callback(log.close)
        course.awaits(lambda: f"{sum(bool(log.ended) for log in logs)} ended; {logs[0].standing()}")
        try:
            while not all(log.ended for log in logs):
                # Every one of them looks.
                if sum(log.look(course) for log in logs):
                    spent.append((time.monotonic(), processor_s(rigs)))
                for rig in rigs:
                    rig.require_running()
                course.check()
                time.sleep(LOOK_S)
        finally:
            row.update(_figures([log.sums for log in logs], [log.ended for log in logs], spent))
            row.update(memory_of(rigs))
            row["all_mib"] = total_mib(rigs)
    states = [rig.state(HUB) for rig in rigs]
    studies = [one.studies[Digest(digest)] for one, digest in zip(states, digests, strict=True)]
    row["finished"] = all(study.final_model is not None for study in studies)
    row["least_members_in_a_sum"] = min(
        len(one.members_in) for study in studies for one in study.rounds
    )


def _figures(
    sums: Sequence[Sequence[float]],
    ended: Sequence[float],
    spent: Sequence[tuple[float, dict[str, float]]],
) -> dict[str, object]:
    """Return the medians over the sums that were published while all consortia ran rounds.

    Those in which support and statistics are summed and the workers start are left out, where there
    are others. What is spent on a sum is a mean.
    """
    found: dict[str, object] = {"sums": sum(map(len, sums))}
    if not all(sums):
        return found
    skipped = SETTLING if min(map(len, sums)) > SETTLING + 1 else 0
    begin = max(one[skipped] for one in sums)
    end = min(last or one[-1] for one, last in zip(sums, ended, strict=True))
    inside = [[at for at in one if begin <= at <= end] for one in sums]
    gaps = [[after - before for before, after in pairwise(one)] for one in inside]
    together = [at for one in inside for at in one]
    looks = [one for one in spent if begin <= one[0] <= end]
    if not all(gaps) or len(looks) < 2:
        return found
    medians = [statistics.median(one) for one in gaps]
    (_, before), (_, after) = looks[0], looks[-1]
    # The look at which the first of these sums was seen is where spending begins to count.
    paid = len(together) - sum(at <= looks[0][0] for at in together)
    each = {kind: round((after[kind] - before.get(kind, 0.0)) / max(paid, 1), 2) for kind in after}
    if len(sums) == 1:
        # Of several logs two sums may be seen at one look, which lies about the least.
        found["best_s"] = round(min(min(one) for one in gaps), 2)
    return found | {
        "sums_together": len(together),
        "median_s": round(statistics.median(medians), 2),
        "slowest_median_s": round(max(medians), 2),
        "processor_s": each,
        "processor_s_in_all": round(sum(each.values()), 2),
    }
