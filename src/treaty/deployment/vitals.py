"""Vitals: how a running party stands, as metrics and as an answer about its health.

`read_standing` takes from the folded log what all who hold it may know: counts of rounds, sites and
studies, who is waited for. Nothing here sees a row, a vector or a journal's words. Metrics carry
no name of a site; who is waited for by name stands in the answer about health alone
(docs/spec/operate.md).

This module does no input or output and reads no clock.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from treaty.deployment.metrics import Family, Kind, Sample, word
from treaty.ids import MemberId, Timestamp
from treaty.protocol.closed_round import ClosedRound
from treaty.protocol.consortium import Consortium
from treaty.protocol.secure_round import RoundPhase
from treaty.protocol.study import Phase, Study
from treaty.protocol.waiting import awaited

__all__ = [
    "STALLED_MS",
    "Budget",
    "RoundMembers",
    "Standing",
    "Vitals",
    "alive",
    "families",
    "read_standing",
    "ready",
]

STALLED_MS = 60_000
"""A loop that has not turned for so long is computing or stuck: no longer called ready."""


@dataclass(frozen=True, slots=True)
class RoundMembers:
    """The sites of the open round, or of the last one where none is open.

    `inside` have sent their input, `late` have not answered while the round collects, `declined`
    said that they will not, `lost` are left out of the sum.
    """

    inside: int = 0
    late: int = 0
    declined: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class Budget:
    """Epsilon of one partition of the site's data, from its own ledger.

    `spent` is rounded up, infinite with an exact release; `cap` is None where the charter has none.
    """

    partition: str
    spent: float
    cap: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """What the folded log says, by counts; `awaited` is what is waited for and of whom."""

    founded: bool = False
    size: int = 0
    members: int = 0
    quorum: int = 0
    studies: Mapping[Phase, int] = field(default_factory=lambda: MappingProxyType({}))
    published: int = 0
    abandoned: int = 0
    members_lost: int = 0
    round: RoundMembers = RoundMembers()
    what: str = ""
    awaited: tuple[MemberId, ...] = ()


@dataclass(frozen=True, slots=True)
class Vitals:
    """One look at a running party. Times are milliseconds of a clock that never goes back.

    `turned_ms` is when its loop last turned, `progressed_ms` when its log last grew or, before
    that, when the process began, `waits_since_ms` since when it waits for what it waits for.
    """

    party: MemberId
    is_hub: bool
    standing: Standing
    connected: bool
    began_ms: int
    turned_ms: int
    progressed_ms: int
    waits_since_ms: int
    cosignatures: int | None = None
    budgets: tuple[Budget, ...] = ()
    refusals: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    declined: int = 0
    log_lines_lost: int = 0


def read_standing(state: Consortium, size: int) -> Standing:
    """Return what the log of `size` entries that folds to `state` says."""
    waits = awaited(state)
    what, parties = ("", ()) if waits is None else (waits.what, waits.parties)
    if state.membership is None:
        return Standing(size=size, what=what, awaited=parties)
    closed = [record for study in state.studies.values() for record in study.rounds]
    phases = Counter(record.phase for record in closed)
    rules = state.members.effective
    return Standing(
        founded=True,
        size=size,
        members=len(rules.active_members()),
        quorum=state.members.witness_quorum,
        studies=MappingProxyType(dict(Counter(one.phase for one in state.studies.values()))),
        published=phases[RoundPhase.PUBLISHED],
        abandoned=phases[RoundPhase.ABANDONED],
        members_lost=sum(
            len(_left_out(one))
            for one in closed
            if one.phase is RoundPhase.PUBLISHED and len(one.members_in) < len(one.participants)
        ),
        round=_round_members(state.running or next(reversed(tuple(state.studies.values())), None)),
        what=what,
        awaited=parties,
    )


def _round_members(study: Study | None) -> RoundMembers:
    if study is None:
        return RoundMembers()
    if study.round is None:
        if not study.rounds:
            return RoundMembers()
        last = study.rounds[-1]
        # Of a round that was given up before its set was sealed nobody is called lost.
        out = _left_out(last) if last.members_in else set()
        return RoundMembers(len(last.members_in), 0, len(last.declined), len(out))
    record = study.round
    declined = set(record.declined)
    if record.phase is RoundPhase.COLLECTING:
        late = set(record.participants) - set(record.inputs) - declined
        return RoundMembers(len(record.inputs), len(late), len(declined), 0)
    out = set(record.participants) - set(record.members_in) - declined
    return RoundMembers(len(record.members_in), 0, len(declined), len(out))


def _left_out(record: ClosedRound) -> set[MemberId]:
    return set(record.participants) - set(record.members_in) - set(record.declined)


def families(vitals: Vitals, now_ms: int) -> list[Family]:
    """Return the metrics of a party at `now_ms`."""
    one, counted = vitals.standing, vitals.standing.round
    found = [
        _gauge("treaty_up", "The process answers.", 1),
        _gauge(
            "treaty_connected", "The connection to the message server stands.", vitals.connected
        ),
        _gauge("treaty_founded", "The consortium is founded.", one.founded),
        _gauge(
            "treaty_uptime_seconds", "Since the process began.", _since(vitals.began_ms, now_ms)
        ),
        _gauge(
            "treaty_loop_age_seconds",
            "Since the party's loop last turned; it rests while the party computes.",
            _since(vitals.turned_ms, now_ms),
        ),
        _gauge("treaty_members", "Members that are not suspended.", one.members),
        _gauge("treaty_log_tree_size", "Entries of the log that this party holds.", one.size),
        _gauge(
            "treaty_last_progress_seconds",
            "Since the log last grew, or since the process began.",
            _since(vitals.progressed_ms, now_ms),
        ),
        _gauge(
            "treaty_awaited_parties",
            "How many parties are waited for, by what they are to give.",
            len(one.awaited),
            (("what", word(one.what)),) if one.what else (("what", "nothing"),),
        ),
        _gauge(
            "treaty_awaited_self",
            "Whether this party is among those that are waited for.",
            vitals.party in one.awaited,
        ),
        _gauge(
            "treaty_awaited_seconds",
            "Since when that is waited for; 0 when nothing is.",
            _since(vitals.waits_since_ms, now_ms) if one.what else 0,
        ),
        Family(
            "treaty_studies",
            Kind.GAUGE,
            "Studies in the log, by phase.",
            tuple(
                Sample(one.studies.get(phase, 0), (("phase", word(phase.value)),))
                for phase in Phase
            ),
        ),
        Family(
            "treaty_rounds_total",
            Kind.COUNTER,
            "Rounds of secure sums that are over, by how they ended.",
            (
                Sample(one.published, (("result", "published"),)),
                Sample(one.abandoned, (("result", "abandoned"),)),
            ),
        ),
        Family(
            "treaty_round_members",
            Kind.GAUGE,
            "Sites of the open round, or of the last one, by how they stand.",
            tuple(
                Sample(number, (("state", state),))
                for state, number in (
                    ("in", counted.inside),
                    ("late", counted.late),
                    ("declined", counted.declined),
                    ("lost", counted.lost),
                )
            ),
        ),
        _counter(
            "treaty_round_members_lost_total",
            "Sites that were left out of a sum without having declined.",
            one.members_lost,
        ),
        Family(
            "treaty_refused_total",
            Kind.COUNTER,
            "What this process refused since it began, by closed code.",
            tuple(
                Sample(number, (("reason", code),))
                for code, number in sorted(vitals.refusals.items())
            ),
        ),
        _counter(
            "treaty_log_lines_lost_total",
            "Lines of the process log that could not be written.",
            vitals.log_lines_lost,
        ),
    ]
    if vitals.is_hub:
        found += _of_hub(vitals)
    else:
        found += _of_site(vitals)
    return found


def _of_hub(vitals: Vitals) -> list[Family]:
    return [
        _gauge(
            "treaty_log_cosignatures",
            "Members that have cosigned the newest checkpoint.",
            vitals.cosignatures or 0,
        ),
        _gauge(
            "treaty_log_witness_quorum",
            "Cosignatures that a checkpoint needs.",
            vitals.standing.quorum,
        ),
    ]


def _of_site(vitals: Vitals) -> list[Family]:
    return [
        _counter(
            "treaty_declined_total",
            "Refusals whose cause is the site's own; the cause is in its journal.",
            vitals.declined,
        ),
        Family(
            "treaty_privacy_epsilon_spent",
            Kind.GAUGE,
            "Epsilon charged to the site's ledger, rounded up; infinite with an exact release.",
            tuple(
                Sample(one.spent, (("partition", word(one.partition)),)) for one in vitals.budgets
            ),
        ),
        Family(
            "treaty_privacy_epsilon_budget",
            Kind.GAUGE,
            "The charter's cap on epsilon.",
            tuple(
                Sample(one.cap, (("partition", word(one.partition)),))
                for one in vitals.budgets
                if one.cap is not None
            ),
        ),
    ]


def alive(vitals: Vitals | None, now_ms: int) -> dict[str, object]:
    """Return the answer of ``/healthz``: the process is there, and when its loop last turned."""
    age = None if vitals is None else _since(vitals.turned_ms, now_ms)
    return {"alive": True, "loop_age_s": age}


def ready(vitals: Vitals | None, now_ms: int, wall: Timestamp) -> tuple[bool, dict[str, object]]:
    """Return whether the party can do its part now, and what stands in the way or is waited for.

    `wall` is the wall clock at `now_ms`: since when something is waited for is said by it.
    """
    if vitals is None:
        return False, {"ready": False, "reason": "starting"}
    one = vitals.standing
    reason = _hindrance(vitals, now_ms)
    waits = None
    if one.what:
        waited_ms = max(0, now_ms - vitals.waits_since_ms)
        waits = {
            "parties": list(one.awaited),
            "since_ms": max(0, int(wall) - waited_ms),
            "what": one.what,
        }
    return not reason, {
        "connected": vitals.connected,
        "founded": one.founded,
        "last_progress_s": _since(vitals.progressed_ms, now_ms),
        "log_size": one.size,
        "party": vitals.party,
        "ready": not reason,
        "reason": reason,
        "waits_for": waits,
    }


def _hindrance(vitals: Vitals, now_ms: int) -> str:
    if now_ms - vitals.turned_ms > STALLED_MS:
        return "the loop has not turned for a minute: the party computes or is stuck"
    if not vitals.standing.founded:
        return "the consortium is not founded"
    if not vitals.connected:
        return "not connected to the message server"
    return ""


def _since(then_ms: int, now_ms: int) -> float:
    return round(max(0, now_ms - then_ms) / 1000, 3)


def _gauge(
    name: str, text: str, value: int | float, labels: tuple[tuple[str, str], ...] = ()
) -> Family:
    shown = int(value) if isinstance(value, bool) else value
    return Family(name, Kind.GAUGE, text, (Sample(shown, labels),))


def _counter(name: str, text: str, value: int) -> Family:
    return Family(name, Kind.COUNTER, text, (Sample(value),))
