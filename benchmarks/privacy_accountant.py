"""How tight and how fast the accountant is: the limits of the privacy page, and what it measures.

`python -m benchmarks.privacy_accountant` compares epsilon with independent two-sided brackets
(`tests/vectors/v1/privacy_brackets.json`): never below the lower bound, at most 1 % above it. Then
the settings with a time limit, in CPU seconds, least of three, the library being loaded: epsilon
at rate .01, deviation 1, 10,000 rounds, delta 1e-5 (<= 6.20 in .5 s); a deviation calibrated to
epsilon 3 within .5 % of the least (2 s); the decision on a charge (.1 s). The decision on a
reservation, once a study, runs the accountant over all kinds of release so far: it is shown without
a limit. Exit code 1 when a limit does not hold. With ``--store FILE`` the table is written there.
"""

import argparse
import functools
import json
import math
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import msgspec

from benchmarks.privacy_ledger import event as small_event
from treaty.crypto.canonical import sha256
from treaty.errors import PolicyError
from treaty.privacy import ledger_budget
from treaty.privacy.accountant import composed_epsilon
from treaty.privacy.calibration import Schedule, calibrated_variance
from treaty.privacy.events import LEMMA_LOSS, SAMPLING_UNIT, Event, gaussian_event
from treaty.privacy.ledger import LedgerState, open_ledger
from treaty.privacy.ledger_entries import (
    DEFAULT_ENVELOPES,
    TRAINING,
    Action,
    Capped,
    Charged,
    Opened,
    PrivateEvent,
    Reserved,
)

CLIP = 1 << 24
BRACKETS = Path(__file__).parents[1] / "tests" / "vectors" / "v1" / "privacy_brackets.json"
Row = tuple[str, str, str, bool]


def event(multiplier: float, sampling: int, rounds: int) -> Event:
    """Return `rounds` noised sums at that rate, in units of 2^-53."""
    variance = math.floor((Fraction(multiplier) * CLIP) ** 2)
    return gaussian_event(variance=variance, sensitivity=CLIP, count=rounds, sampling=sampling)


def least(step: Callable[[], object], times: int = 3) -> float:
    """Return the least CPU seconds of several calls."""
    found = []
    for _ in range(times):
        began = time.process_time()
        step()
        found.append(time.process_time() - began)
    return min(found)


def brackets() -> list[Row]:
    """Return a row for every setting: where the value lies between the bounds."""
    rows = []
    for number, one in enumerate(json.loads(BRACKETS.read_text())["sampled"], 1):
        plan = [event(float(one["noise_multiplier"]), int(one["sampling"]), int(one["rounds"]))]
        found = composed_epsilon(plan, float(one["delta"]), sites=int(one["sites"]))
        low = float(one["lower"])
        name = (
            f"{number}: rate {one['sampling'] / SAMPLING_UNIT:.1e}, deviation "
            f"{one['noise_multiplier']}, {one['rounds']} rounds, delta {one['delta']}, "
            f"{one['sites']} site(s)"
        )
        shown = f"{found:.6f}, {100 * (found / low - 1):+.3f} % of {low:.6f}"
        rows.append((name, shown, "0 to +1 %", low <= found <= 1.01 * low))
    return rows


def settings() -> list[Row]:
    """Return a row for each limit on time."""
    rate = round(0.01 * SAMPLING_UNIT)
    plan = [event(1.0, rate, 10_000)]
    found, seconds = composed_epsilon(plan, 1e-5), least(lambda: composed_epsilon(plan, 1e-5))
    schedule = Schedule(rounds=10_000, sensitivity=CLIP, sampling=rate)
    variance = calibrated_variance(schedule, 3.0, 1e-5)
    calibrating = least(lambda: calibrated_variance(schedule, 3.0, 1e-5))
    # A deviation half a percent smaller must not meet the target.
    smaller = math.floor((variance - LEMMA_LOSS) * Fraction(995, 1000) ** 2)
    fails = composed_epsilon([schedule.event(smaller)], 1e-5) > 3.0
    meets = composed_epsilon([schedule.event(variance - LEMMA_LOSS)], 1e-5) <= 3.0
    return [
        ("epsilon, rate .01, deviation 1", f"{found:.5f}", "<= 6.20", found <= 6.20),
        ("the same, CPU", f"{seconds:.3f} s", "<= .5 s", seconds <= 0.5),
        ("calibration to epsilon 3", "meets" if meets else "fails", "meets", meets),
        ("half a percent less noise", "fails" if fails else "meets", "fails", fails),
        ("calibration, CPU", f"{calibrating:.3f} s", "<= 2 s", calibrating <= 2.0),
    ]


def state(kind: Callable[[int], PrivateEvent]) -> LedgerState:
    """Return a ledger with 20 kinds reserved and 100 charges."""
    one = sha256(b"one")
    opening = Opened(
        identity="cohort", salt=one, partition_key=one, statement=one, unit="person-in-institution",
        holdout_permille=200, recovers=False,
    )  # fmt: skip
    now = open_ledger(opening).state
    cap = Capped(
        charter=one,
        partition=TRAINING,
        epsilon_micro=8_000_000,
        delta_inverse=10**5,
        envelopes=DEFAULT_ENVELOPES,
    )
    events = tuple(kind(number) for number in range(20))
    actions: list[Action] = [
        cap,
        Reserved(plan=one, partition=TRAINING, envelope=TRAINING, events=events),
        *(charged(kind, number) for number in range(100)),
    ]
    for action in actions:
        now = now.append(action).state
    return now


def charged(kind: Callable[[int], PrivateEvent], number: int) -> Charged:
    """Return the charge of one vector."""
    one = sha256(b"one")
    return Charged(
        plan=one,
        partition=TRAINING,
        envelope=TRAINING,
        query=sha256(b"%d" % number),
        model=one,
        cohort=one,
        payload=sha256(b"p%d" % number),
        event=msgspec.structs.replace(kind(number % 20), count=1),
    )


def decisions() -> list[Row]:
    """Return rows for the decisions on a charge and on a further plan, unsampled and sampled."""
    rows = []
    rate = round(0.01 * SAMPLING_UNIT)
    sampled = functools.partial(_sampled, rate)
    for name, kind in (("unsampled", lambda k: small_event(k, 20)), ("sampled", sampled)):
        now = state(kind)
        asked = Reserved(
            plan=sha256(b"two"), partition=TRAINING, envelope=TRAINING, events=(kind(3),)
        )

        def decide(now: LedgerState = now, asked: Reserved = asked) -> None:
            ledger_budget._epsilon.cache_clear()
            try:
                now.append(asked)
            except PolicyError as refusal:
                assert refusal.code == "budget"

        charge = charged(kind, 1000)
        paying = least(lambda now=now, charge=charge: now.append(charge))  # type: ignore[misc]  # defaults bind
        rows.append((f"charge, {name}, CPU", f"{paying:.4f} s", "<= .1 s", paying <= 0.1))
        rows.append((f"reservation, {name}, 20 kinds, CPU", f"{least(decide):.3f} s", "none", True))
    return rows


def _sampled(rate: int, kind: int) -> PrivateEvent:
    found = event(8.0 + kind / 10, rate, 50)
    assert not isinstance(found, str)
    return found  # type: ignore[return-value]  # a sampled Gaussian


def main() -> int:
    """Measure, print the table, and say whether every limit holds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", type=Path)
    options = parser.parse_args()
    rows = [*brackets(), *settings(), *decisions()]
    text = "\n".join(
        f"| {name} | {value} | {limit} | {'yes' if holds else 'NO'} |"
        for name, value, limit, holds in rows
    )
    table = f"| what | measured | limit | holds |\n|---|---|---|---|\n{text}\n"
    print(table)
    if options.store:
        options.store.write_text(table)
    return 0 if all(holds for *_, holds in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
