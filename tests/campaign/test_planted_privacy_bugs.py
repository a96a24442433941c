"""Planted privacy bugs: a mechanism that breaks its promise is flagged, a sound one is not.

Each bug of `tests.unit.assessment.mechanisms` is put into the mechanism at a claimed epsilon of 1,
and audited with fresh seeds. Flagged means that a rule of the verdict is broken (docs/spec/
privacy.md, 10.6): by the guessing game, by the canaries' attack, or by a check of the noise. The
table says by which. The claim is 19 of 20 trials for every bug, and at most 5 % false alarms.

`TREATY_CAMPAIGN=ci` plays 3 trials a bug and 10 sound ones; ``full`` 20 and 200, and writes the
table that is stored in `results/`.
"""

import json
import os
from collections import Counter
from fractions import Fraction

import pytest

from tests.locations import PROJECT_ROOT
from tests.unit.assessment.mechanisms import BUGS, DELTA, plan_for, sound
from treaty.assessment.canaries import SiteRelease, audit_mechanism
from treaty.assessment.findings import Findings, failures, make_claim
from treaty.crypto.derivation import labelled_hash
from treaty.privacy.gaussian import gaussian_epsilon
from treaty.simulation.impact import mechanism_findings

FULL = os.environ.get("TREATY_CAMPAIGN") == "full"
TRIALS, SOUND_TRIALS = (20, 200) if FULL else (3, 10)
RESULTS = PROJECT_ROOT / "tests" / "campaign" / "results" / "planted-privacy-bugs-2026-11-29.json"
CLAIMED = 1.0

_table: dict[str, dict[str, int]] = {}


def played(release: SiteRelease, name: str, trial: int) -> tuple[str, ...]:
    """Return the rules that one audit with a seed of its own finds broken."""
    plan = plan_for(CLAIMED)
    claim = make_claim(
        gaussian_epsilon(Fraction(plan.mu) ** 2, DELTA), round(1 / DELTA), mu=plan.mu
    )
    seed = labelled_hash("planted-privacy-bugs", name, trial)
    audit, attack = mechanism_findings(audit_mechanism(release, plan, seed), claim)
    nothing = "0" * 64
    return failures(
        Findings(
            family="mechanism",
            model=nothing,
            contract=nothing,
            code=nothing,
            protection="noised",
            data="canaries",
            sites=3,
            persons=plan.canaries,
            seed=trial,
            thorough=True,
            claim=claim,
            attacks=(attack,),
            groups=(),
            attributes=(),
            recoveries=(),
            audit=audit,
        )
    )


def counted(release: SiteRelease, name: str, trials: int) -> int:
    """Play `trials` audits, keep the table's line, and return how many were flagged."""
    broken = [played(release, name, trial) for trial in range(trials)]
    rules = Counter(rule for one in broken for rule in one)
    flagged = sum(bool(one) for one in broken)
    _table[name] = {"trials": trials, "flagged": flagged, **dict(sorted(rules.items()))}
    return flagged


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_flagged(name: str) -> None:
    """At least 19 of 20, so all of three."""
    assert counted(BUGS[name], name, TRIALS) >= TRIALS - TRIALS // 20


def test_a_sound_mechanism_is_seldom_flagged() -> None:
    """At most 5 % of 200; of 10 at most 2 (more have probability below 2 % at a rate of 5 %)."""
    assert counted(sound, "sound", SOUND_TRIALS) <= (SOUND_TRIALS // 20 if FULL else 2)


def test_the_stored_table_is_of_these_bugs() -> None:
    """The full form writes the table; the short one compares it with what it claims."""
    if FULL:
        RESULTS.write_bytes((json.dumps(_table, indent=1, sort_keys=True) + "\n").encode())
    stored = json.loads(RESULTS.read_text())
    assert set(stored) == {*BUGS, "sound"}
    for name, line in stored.items():
        if name == "sound":
            assert line["flagged"] * 20 <= line["trials"]
        else:
            assert line["flagged"] * 20 >= line["trials"] * 19
