"""The page of results: a function of what was stored."""

from collections.abc import Iterator
from typing import Any

__all__ = ["page"]

_MB = 1.048576


def page(stored: dict[str, Any]) -> str:
    """Return the Markdown of a run."""
    machine = stored["machine"]
    lines = [
        "# Secure aggregation: our kernel beside peers and the machine's limit",
        "",
        "Written by `python -m benchmarks.secagg`; the README says what is compared.",
        "",
        f"{machine['processors']} processors, {machine['kind']}. Seconds are of processor time,",
        "the least of several; MB are what the call held at its peak beside its inputs. *Limit* is",
        "the AES-256-CTR keystream of all masks alone, with roots also their SHA-256.",
        "",
        "| setting | ring | lost | part | s | limit, s | ours / limit | MB |",
        "|---|---|---|---|---|---|---|---|",
        *_own(stored["rows"]),
        "",
        "Wall-clock seconds of the same, one thread and two:",
        "",
        "| setting | ring | lost | part | one | two |",
        "|---|---|---|---|---|---|",
        *_threads(stored["rows"]),
        "",
        "Beside the peers, ours with rounding and roots, theirs with rounding:",
        "",
        (
            "| setting | lost | peer | client, s | ours | peer / ours | server, s | ours "
            "| peer / ours | client MB | ours | server MB | ours | upload MB | ours |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
        *_peers(stored["rows"]),
        "",
        *_round(stored["round"]),
        "",
        "| gate | asked | found | holds |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {gate['gate']} | <= {gate['asked']} | {gate['found']} "
        f"| {'yes' if gate['holds'] else 'NO'} |"
        for gate in stored["gates"]
    ]
    return "\n".join(lines) + "\n"


def masks(setting: dict[str, Any], case: str) -> int:
    """Return how many masks a part of a setting makes."""
    members, lost = setting["members"], setting["lost"]
    if case == "client":
        return members
    if case == "streamed":
        survivors = 1000 - lost
        return survivors + lost * (members - 1) * survivors // 1000
    return (members - lost) * (1 + lost)


def _bound(row: dict[str, Any], case: str, figure: str) -> float:
    setting, limit = row["setting"], row["limit"]
    seconds: float = masks(setting, case) * limit["keystream"]["seconds"]
    if "root" in figure or "verified" in figure:
        digests = 1 if case == "client" else setting["members"] - setting["lost"]
        seconds += digests * limit["digest"]["seconds"]
    return seconds


def _own(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        setting = row["setting"]
        for case, figures in row["own"].items():
            for name, figure in figures.items():
                if "threads" in name:
                    continue
                bound = _bound(row, case, name)
                yield (
                    f"| {setting['name']} | {setting['bits']} | {setting['lost']} "
                    f"| {'server' if case == 'streamed' else case}, {name} "
                    f"| {figure['seconds']:.3f} | {bound:.3f} | {figure['seconds'] / bound:.2f} "
                    f"| {figure['mebibytes'] * _MB:.1f} |"
                )


def _threads(rows: list[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        setting = row["setting"]
        for case, figures in row["own"].items():
            for name, figure in figures.items():
                if "threads" in name:
                    alone = figures[name.removesuffix(", two threads")]
                    yield (
                        f"| {setting['name']} | {setting['bits']} | {setting['lost']} "
                        f"| {case}, {name.removesuffix(', two threads')} "
                        f"| {alone['wall']:.3f} | {figure['wall']:.3f} |"
                    )


def _peers(rows: list[dict[str, Any]]) -> Iterator[str]:
    clients = {
        (row["setting"]["name"], row["setting"]["bits"]): row["own"]["client"]["with root"]
        for row in rows
        if "client" in row["own"]
    }
    for row in rows:
        setting = row["setting"]
        for name, told in row["peers"].items():
            start = f"| {setting['name']} | {setting['lost']} | {name} "
            if "failure" in told:
                yield f"{start}| not compared: {told['failure']} |" + " |" * 11
                continue
            client = clients[setting["name"], setting["bits"]]
            server = row["own"]["server"]["with roots"]
            cells = []
            for key, own in (("client_seconds", client), ("server_seconds", server)):
                cells += [f"{told[key]:.3f}", f"{own['seconds']:.3f}"]
                cells.append(f"{told[key] / own['seconds']:.1f}")
            for key, own in (("client_mebibytes", client), ("server_mebibytes", server)):
                cells += [f"{told[key] * _MB:.0f}", f"{own['mebibytes'] * _MB:.0f}"]
            cells += [f"{told['upload'] / 1e6:.1f}", f"{setting['words'] * 4 / 1e6:.1f}"]
            yield f"{start}| {' | '.join(cells)} |"


def _round(told: dict[str, Any]) -> Iterator[str]:
    least, mean = 1000 * told["least"], 1000 * told["with_epochs"]
    yield (
        f"A round through the real nodes, 10 members, {told['length']:,} words: a member spends "
        f"{told['milliseconds']:.1f} ms"
    )
    yield (
        f"of processor time (median over members and {told['rounds']} rounds; {least:.1f} at "
        f"least, {mean:.1f} in the mean with the"
    )
    yield (
        f"epochs' keys), {told['commits']} durable transactions at most, and uploads 4 bytes a "
        f"word and {told['beyond']} bytes."
    )
    yield "Where a member's time goes, by the function that spends it (a profiler adds its own):"
    yield ""
    yield "| function | share |"
    yield "|---|---|"
    for name, share in told["profile"]:
        yield f"| `{name}` | {share:.1%} |"
