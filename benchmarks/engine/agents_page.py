"""The page of `benchmarks.engine.agents`: what was measured, and what was not reached."""

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["agents_page"]

ASKED = 200
"""So many agents were asked for on one machine."""

HEADINGS = (
    "consortia x agents",
    "round, median s",
    "best s",
    "first sum after s",
    "processor s a round",
    "of it agents",
    "an agent, ms",
    "coordinator",
    "message server",
    "agent resident MiB",
    "its share MiB",
    "all together MiB",
)


def agents_page(found: Mapping[str, Any]) -> str:
    """Return the figures of a run as a page."""
    lines = [
        "# Agents on one machine",
        "",
        (
            f"{found['at']}, {found['cores']} processors, load before {found['load_before']}, "
            f"Python {found['python']}. Made by `python -m benchmarks.engine --memory --agents N "
            "... --consortia N ... --store`; see `benchmarks/README.md`."
        ),
        "",
    ]
    if found["growth"]:
        lines += [_row(HEADINGS), f"|{'---|' * len(HEADINGS)}"]
        lines += [_growth_row(one) for one in found["growth"]]
        lines += ["", *(_verdict(one, found["bar_s"]) for one in found["growth"]), ""]
    if any(one["consortia"] > 1 for one in found["growth"]):
        lines += [_of_several(found["growth"], found["bar_s"]), ""]
    if found["memory"]:
        lines += [
            "| four sites | when | agent: resident, share, anonymous MiB | worker beside it |",
            "|---|---|---|---|",
        ]
    for one in found["memory"]:
        sizes = [
            "-" if kind not in one else ", ".join(str(size) for size in one[kind].values())
            for kind in ("agent_mib", "worker_mib")
        ]
        where = "hosted by one program" if one["hosted"] else "by themselves"
        lines.append(f"| {where} | {one['when']} | {sizes[0]} | {sizes[1]} |")
    return "\n".join(lines) + "\n"


def _growth_row(one: Mapping[str, Any]) -> str:
    spent, kept = one.get("processor_s", {}), one.get("agent_mib", {})
    own = spent.get("agent")
    cells = (
        f"{one['consortia']} x {one['agents']}",
        one.get("median_s"),
        one.get("best_s"),
        one["reached_s"].get("first_sum"),
        one.get("processor_s_in_all"),
        own,
        None if own is None else round(1000 * own / one["agents"]),
        spent.get("coordinator"),
        spent.get("message server"),
        kept.get("resident"),
        kept.get("proportional"),
        one.get("all_mib"),
    )
    return _row("-" if cell is None else cell for cell in cells)


def _of_several(rows: Iterable[Mapping[str, Any]], bar_s: float) -> str:
    """Say what rows of several consortia do not say: how large one may be."""
    single = [one for one in rows if one["consortia"] == 1 and one.get("median_s") is not None]
    within = max((one["agents"] for one in single if one["median_s"] < bar_s), default=0)
    largest = max(single, key=lambda one: int(one["agents"]), default=None)
    reached = "holds here too" if within >= ASKED else "is not reached"
    known = (
        ""
        if largest is None
        else f"; of {largest['agents']} agents it takes {largest['median_s']:g} s"
    )
    return (
        "Several consortia share a machine, not a round: each adds its own work. In one consortium "
        "every member checks what every other says, and the work grows with the square of their "
        f"number. So a round of one consortium of {ASKED} agents is another figure, and under "
        f"{bar_s:g} s it {reached}{known}."
    )


def _verdict(one: Mapping[str, Any], bar_s: float) -> str:
    """Say of one row whether the bar holds, and what was not reached."""
    many = one["consortia"] > 1
    what = f"{one['consortia']} consortia of {one['agents']}" if many else f"{one['agents']} agents"
    if one.get("median_s") is None:
        last = ", ".join(f"{name} after {at:g} s" for name, at in one["reached_s"].items())
        return f"* {what}: no median ({one['cut_off'] or 'too few sums'}); {last or 'nothing'}."
    holds = "holds" if one["median_s"] < bar_s else "does not hold"
    ended = f" Ended early: {one['cut_off']}; {one['sums']} sums." if one["cut_off"] else ""
    slowest = f" (slowest consortium {one['slowest_median_s']} s)" if many else ""
    return f"* {what}: the bar of {bar_s:g} s {holds}{slowest}.{ended}"


def _row(cells: Iterable[object]) -> str:
    return f"| {' | '.join(map(str, cells))} |"
