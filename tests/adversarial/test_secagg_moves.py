"""Moves of a malicious coordinator, with up to c members, against secure aggregation.

The coordinator of this module holds the log key and its runner key, and relays everything. Each
row of the table is one move: what it plays, against whom, and the one code with which it is
refused. After a refusal the victim is as it was: machine, disk and everything it ever sent, or the
folded log. Four kinds of victims:

* *member*: the machines of an honest member, given statements whose signatures hold;
* *hub*: the machines of an honest coordinator, against a malicious member;
* *log*: the fold that all parties run, here with real signatures;
* *auditor*: `check_result`, given a published result.

The ids are those of docs/threat-model.md. Moves against whole nodes, with a forged log, are in
`test_secagg_nodes`; what a coordinator can collect by showing members different sets is enumerated
in `test_two_faced`. Planted faults: `tools/mutate_checks.py` disables every check of these modules,
one at a time, and asks these tests.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.adversarial.secagg_stages import (
    FORMAT,
    NOT_REDUCED,
    REVEAL,
    WINDING,
    ZERO,
    A,
    B,
    D,
    Played,
    after_a_decline,
    against_epoch,
    against_round,
    an_earlier_slot,
    another_vector,
    answer_of,
    answered,
    at_the_end_of_dealing,
    before_epoch,
    charter_changed,
    collecting,
    collecting_all,
    complaint,
    confirmation,
    confirmation_of,
    consistent_roster_of_another_epoch,
    dealing,
    dealing_world,
    decline,
    entry,
    epoch_again,
    first_key,
    header,
    hybrid_keys,
    in_round,
    input_of,
    locked,
    log,
    misled,
    of_peer,
    opened_round,
    opening,
    opening_of,
    opening_too_early,
    opening_with_a_stranger,
    ready_of,
    ready_of_a_member_that_dealt_nothing,
    ready_twice,
    renumbered,
    replayed_slot,
    result,
    result_in_another_order,
    revealing,
    roster,
    roster_when_ready,
    round_of_another_epoch,
    running,
    same_question,
    sealed_by_member,
    sealed_unconfirmed,
    second_set_after_a_confirmation,
    second_set_after_an_answer,
    slot_after_a_restored_backup,
    survivor_from_outside,
    survivors,
    survivors_after_the_end,
    survivors_before_any_input,
    suspended,
    swapped,
    too_few_confirmations,
    too_few_left,
    total_of,
    unmoved,
    without_a_header,
)
from tests.stateful.test_resumed_questions import ask_four, bound_world
from tests.unit.protocol.secagg_rig import changed, tag, verified
from tests.unit.protocol.test_secagg_audit import audited_world, call, sign
from tests.worlds import NAMES, World, digest
from treaty.errors import FormatError, PolicyError, UsageError, VerificationError
from treaty.governance.roles import Action
from treaty.protocol import secagg_coordinator as hub
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_effects import Persisted
from treaty.protocol.secagg_epoch import MemberEpoch
from treaty.protocol.secagg_messages import RoundAbandoned, RoundCode


@dataclass(frozen=True)
class Move:
    """One move. `play` sets the stage and returns what to watch and what to try."""

    threat: str
    name: str
    code: str
    play: Callable[[], Played]


def unaudited() -> World:
    """All sums are published, none is audited."""
    world = audited_world()
    world.run_study()
    return world


def complete(world: World) -> object:
    """Complete the study."""
    return world.complete()


def half_audited() -> World:
    """One member has signed."""
    world = unaudited()
    call(world)
    sign(world, A)
    return world


def resumed_without() -> World:
    """Four of five approved that the question be asked anew; the fifth is left out."""
    world, context = bound_world()
    world.vote(world.propose(Action.STUDY_RESUME, context), NAMES[:4])
    ask_four(world)
    return world


# --- the table ---------------------------------------------------------------------------------

M = Move
MOVES = (
    # An epoch: what the charter says, once.
    M(
        "T-03",
        "lowered number of survivors",
        "wrong-parameters",
        lambda: before_epoch(min_survivors=2),
    ),
    M("T-03", "no colluders assumed", "wrong-parameters", lambda: before_epoch(max_colluders=0)),
    M(
        "R-9",
        "suite downgraded",
        "wrong-parameters",
        lambda: before_epoch(True, suite="cesa1-x25519"),
    ),
    M(
        "T-25",
        "charter changed under an epoch's opening",
        "wrong-parameters",
        lambda: before_epoch(charter=tag("x")),
    ),
    M("T-25", "charter changed under a stored epoch", "charter-changed", charter_changed),
    M("T-22", "epoch for another plan", "wrong-plan", lambda: before_epoch(plan=tag("x"))),
    M(
        "T-05",
        "epoch longer than the charter allows",
        "too-many-slots",
        lambda: before_epoch(slots=9),
    ),
    M("T-05", "epoch replayed", "epoch-not-new", lambda: epoch_again(1)),
    M("T-05", "epoch number turned back", "epoch-not-new", lambda: epoch_again(0)),
    # A roster.
    M("T-01", "own keys swapped", "own-keys-differ", swapped(0, transport=tag("x")[:-2] + "00")),
    M(
        "T-01",
        "own commitments swapped",
        "own-keys-differ",
        swapped(0, commitments=of_peer(1, "commitments")),
    ),
    M(
        "T-01",
        "keys that nobody logged",
        "keys-missing",
        roster(lambda names: (names[0], tag("x"), *names[2:])),
    ),
    M("T-01", "an invented member", "not-a-member", swapped(1, author="m00")),
    M("T-01", "a member twice", "member-order", roster(lambda names: (*names, names[-1]))),
    M("T-01", "members in another order", "member-order", roster(lambda names: names[::-1])),
    M("T-03", "a roster of two", "too-few-members", roster(lambda names: names[:2])),
    M("T-05", "a stale roster", "wrong-epoch", roster(opened=tag("x"))),
    M("T-05", "a roster of another number", "wrong-epoch", roster(epoch=2)),
    M("T-05", "keys of an earlier epoch", "wrong-epoch", swapped(1, epoch=2)),
    M(
        "T-10",
        "a copied transport key",
        "keys-repeat",
        swapped(1, transport=of_peer(2, "transport")),
    ),
    M("T-10", "a copied round key", "keys-repeat", swapped(1, round_keys=of_peer(2, "round_keys"))),
    M(
        "T-10",
        "one key for two purposes",
        "keys-repeat",
        swapped(1, transport=lambda e: e.keys[1].predicate.round_keys[0]),
    ),
    M("T-10", "low-order transport key", "low-order-key", swapped(1, transport=ZERO)),
    M(
        "T-10",
        "low-order round key of order eight",
        "low-order-key",
        swapped(1, round_keys=first_key(WINDING)),
    ),
    M("T-10", "key that is not reduced", FORMAT, swapped(1, transport=NOT_REDUCED)),
    M("T-10", "key with the top bit set", FORMAT, swapped(1, transport="0" * 62 + "80")),
    M(
        "T-10",
        "keys for fewer slots",
        "keys-malformed",
        swapped(1, round_keys=lambda e: e.keys[1].predicate.round_keys[:1]),
    ),
    M(
        "T-11",
        "commitments for fewer slots",
        "keys-malformed",
        swapped(1, commitments=lambda e: e.keys[1].predicate.commitments[:1]),
    ),
    M(
        "R-9",
        "hybrid suite without an ML-KEM key",
        "keys-malformed",
        swapped(1, hybrid=True, kem=None),
    ),
    M("R-9", "an ML-KEM key that is none", FORMAT, swapped(1, hybrid=True, kem="f" * 2368)),
    M(
        "T-05",
        "a roster of another epoch, in itself consistent",
        "wrong-epoch",
        consistent_roster_of_another_epoch,
    ),
    M("T-05", "a roster when the epoch is ready", "out-of-order", roster_when_ready),
    # Dealing.
    M(
        "T-05",
        "dealing sealed for another roster",
        "wrong-epoch",
        dealing({"epoch_hash": tag("x")}),
    ),
    M(
        "T-01",
        "a dealer outside the roster",
        "not-in-roster",
        dealing({"dealers": ("m01", "m02", "m03", "m04", "m05")}),
    ),
    M("T-01", "a dealer twice", "member-order", dealing({"dealers": ("m01", "m02", "m02", "m03")})),
    M("T-03", "too few dealers", "too-few-members", dealing({"dealers": ("m01", "m02", "m03")})),
    M(
        "T-11",
        "a column withheld",
        "column-missing",
        dealing(columns=lambda c: {k: v for k, v in c.items() if k != "m03"}),
    ),
    M(
        "T-11",
        "a column swapped",
        "column-differs",
        dealing(columns=lambda c: {**c, "m03": c["m02"]}),
    ),
    M("T-11", "an empty column", "column-differs", dealing(columns=lambda c: {**c, "m03": b""})),
    M(
        "T-11",
        "an oversized column",
        "column-differs",
        dealing(columns=lambda c: {**c, "m03": c["m03"] * 2}),
    ),
    M("T-11", "dealing that nobody signed", "shares-missing", dealing(shares=lambda s: {})),
    M(
        "T-11",
        "one member's dealing as another's",
        "shares-missing",
        dealing(shares=lambda s: {**s, "m03": s["m02"]}),
    ),
    M(
        "T-05",
        "dealing for another roster",
        "wrong-epoch",
        dealing(shares=lambda s: {**s, "m03": changed(s["m03"], epoch_hash=tag("x"))}),
    ),
    # The opening of a round.
    M("T-05", "round before the shares are open", "epoch-not-ready", opening_too_early),
    M("T-05", "round of another epoch", "wrong-epoch", opening(epoch_hash=tag("x"))),
    M("T-05", "slot beyond the epoch", "slot-out-of-range", opening(slot=3)),
    M("T-05", "slot replayed with another context", "slot-used", replayed_slot(False)),
    M("T-05", "slot replayed after a restart", "slot-used", replayed_slot(True)),
    M("T-05", "slot replayed after a restored backup", "slot-used", slot_after_a_restored_backup),
    M("T-05", "an earlier slot", "slot-used", an_earlier_slot),
    M("T-05", "stored round of another epoch", FORMAT, round_of_another_epoch),
    M("T-03", "small group", "too-few-participants", opening(participants=("m01", "m02", "m03"))),
    M(
        "T-01",
        "participants in another order",
        "member-order",
        opening(participants=("m02", "m01", "m03", "m04")),
    ),
    M(
        "T-01",
        "a participant twice",
        "member-order",
        opening(participants=("m01", "m02", "m02", "m03")),
    ),
    M(
        "T-01",
        "an invented participant",
        "not-a-member",
        opening(participants=("m01", "m02", "m03", "zz")),
    ),
    M("T-01", "a participant that dealt no shares", "not-in-epoch", opening_with_a_stranger),
    M(
        "T-07",
        "the member itself left out",
        "not-a-participant",
        opening(participants=("m02", "m03", "m04", "m05")),
    ),
    M("T-04", "another model", "wrong-model", opening(model=tag("x"))),
    M("T-04", "another query", "wrong-query", opening(query=tag("x"))),
    M("T-04", "other code", "wrong-code", opening(code=tag("x"))),
    M("T-22", "another plan", "wrong-plan", opening(plan=tag("x"))),
    M("T-04", "another previous result", "wrong-previous", opening(previous=tag("x"))),
    M("T-04", "another round", "wrong-round", opening(round=1)),
    M("T-21", "a longer vector", "wrong-shape", opening(length=6)),
    M("T-21", "a narrower ring", "wrong-shape", opening(ring_bits=32)),
    # Headers.
    M("T-04", "header of another context", "wrong-context", header(author="m03", context=tag("x"))),
    M("T-01", "header of an outsider", "not-a-participant", header(author="m09")),
    M("T-05", "two inputs of one member", "second-input", header(root=tag("x"))),
    M("T-05", "the same input signed again", "second-input", header(blob=tag("x"))),
    M("T-21", "input of another length", "wrong-shape", header(author="m03", length=6)),
    # Survivors.
    M("T-08", "survivors of another study's context", "wrong-context", survivors(context=tag("x"))),
    M(
        "T-07",
        "late arrival: a received input declared dropped",
        "left-out",
        survivors(lambda s: s[1:]),
    ),
    M(
        "T-08",
        "own input replaced",
        "own-root-differs",
        survivors(lambda s: (entry(s[0], root=tag("x")), *s[1:])),
    ),
    M(
        "T-08",
        "another's root replaced",
        "header-differs",
        survivors(lambda s: (s[0], entry(s[1], root=tag("x")), *s[2:])),
    ),
    M(
        "T-08",
        "another's header replaced",
        "header-differs",
        survivors(lambda s: (s[0], entry(s[1], header=tag("x")), *s[2:])),
    ),
    M("T-23", "an input that nobody sent", "header-missing", without_a_header),
    M(
        "T-01",
        "a survivor that did not take part",
        "survivor-not-participant",
        survivor_from_outside,
    ),
    M(
        "T-01",
        "an invented survivor",
        "not-a-member",
        survivors(lambda s: (*s[:3], entry(s[3], member="zz"))),
    ),
    M("T-08", "a survivor twice", "member-order", survivors(lambda s: (*s[:3], s[2]))),
    M("T-08", "survivors in another order", "member-order", survivors(lambda s: s[::-1])),
    M("T-03", "two survivors", "too-few-survivors", survivors(lambda s: s[:2])),
    M("T-03", "no survivors but one", "too-few-survivors", survivors(lambda s: s[:1])),
    M("T-07", "no survivors", "left-out", survivors(lambda s: ())),
    M("T-08", "two sets in one slot", "slot-answered", second_set_after_an_answer(False)),
    M(
        "T-08",
        "two sets in one slot, after a restart",
        "slot-answered",
        second_set_after_an_answer(True),
    ),
    M(
        "T-08",
        "a dropped member returns after a confirmation",
        "slot-answered",
        second_set_after_a_confirmation,
    ),
    M("T-06", "same question, one participant less", "locked-set", same_question(False)),
    M("T-06", "same question, one survivor less", "locked-set", same_question(True)),
    M("T-06", "same question under a later number, one less", "locked-set", renumbered),
    M("T-06", "same question, another vector", "vector-differs", another_vector),
    M("T-02", "shares asked for before an input", "out-of-order", survivors_before_any_input),
    M("T-02", "shares asked for after the round's end", "out-of-order", survivors_after_the_end),
    # Confirmations.
    M("T-08", "confirmation of an outsider", "not-a-participant", confirmation(author="m99")),
    M("T-08", "confirmation of a dropped member", "not-a-participant", confirmation(author="m10")),
    M(
        "T-08",
        "confirmation of another set",
        "confirmation-differs",
        confirmation(survivors=tag("x")),
    ),
    M("T-08", "confirmation of another round", "wrong-context", confirmation(context=tag("x"))),
    M(
        "T-08",
        "one confirmation short, then an outsider's",
        "not-a-participant",
        too_few_confirmations,
    ),
    # A malicious member against an honest coordinator.
    M(
        "T-05",
        "hub: keys for another epoch",
        "wrong-epoch",
        against_epoch("keys", lambda f: hub.KeysLogged(changed(f.keys[1], epoch=9))),
    ),
    M(
        "T-01",
        "hub: a second set of keys",
        "second-keys",
        against_epoch(
            "keys",
            lambda f: hub.KeysLogged(changed(f.keys[0], transport=f.keys[1].predicate.transport)),
        ),
    ),
    M(
        "T-01",
        "hub: keys of an outsider",
        "not-a-member",
        against_epoch("keys", lambda f: hub.KeysLogged(changed(f.keys[1], author="zz"))),
    ),
    M(
        "T-10",
        "hub: a low-order key",
        "low-order-key",
        against_epoch("keys", lambda f: hub.KeysLogged(changed(f.keys[1], transport=ZERO))),
    ),
    M(
        "T-11",
        "hub: shares without a column",
        "shares-malformed",
        against_epoch(
            "shares",
            lambda f: hub.SharesLogged(changed(f.shares["m02"], columns={"m01": tag("x")})),
        ),
    ),
    M(
        "T-11",
        "hub: a column for a stranger",
        "shares-malformed",
        against_epoch(
            "shares",
            lambda f: hub.SharesLogged(
                changed(
                    f.shares["m02"], columns={**f.shares["m02"].predicate.columns, "zz": tag("x")}
                )
            ),
        ),
    ),
    M(
        "T-11",
        "hub: other shares",
        "second-shares",
        against_epoch(
            "shares",
            lambda f: hub.SharesLogged(
                changed(
                    f.shares["m01"],
                    columns=dict.fromkeys(f.shares["m01"].predicate.columns, tag("x")),
                )
            ),
        ),
    ),
    M(
        "T-05",
        "hub: shares for another roster",
        "wrong-epoch",
        against_epoch(
            "shares", lambda f: hub.SharesLogged(changed(f.shares["m02"], epoch_hash=tag("x")))
        ),
    ),
    M(
        "T-11",
        "hub: shares of an outsider",
        "not-in-roster",
        against_epoch("shares", lambda f: hub.SharesLogged(changed(f.shares["m02"], author="zz"))),
    ),
    M(
        "R-9",
        "hub: no post-quantum keys",
        "ready-malformed",
        against_epoch("hybrid", lambda f: ready_of(f, wraps=None, pair_commitments=())),
    ),
    M(
        "R-9",
        "hub: fewer pair commitments",
        "ready-malformed",
        against_epoch("hybrid", lambda f: ready_of(f, pair_commitments=(tag("x"),))),
    ),
    M(
        "R-9",
        "hub: wraps in the classical suite",
        "ready-malformed",
        against_epoch("classical", lambda f: ready_of(f, wraps=tag("x"))),
    ),
    M(
        "T-11",
        "hub: a complaint over a column that nobody signed",
        "column-differs",
        against_epoch("ready", complaint),
    ),
    M(
        "T-11",
        "hub: a complaint of an outsider",
        "not-in-roster",
        against_epoch("ready", lambda f: complaint(f, author="zz")),
    ),
    M(
        "T-11",
        "hub: a complaint about an outsider",
        "column-differs",
        against_epoch("ready", lambda f: complaint(f, dealer="zz")),
    ),
    M(
        "T-05",
        "hub: an input for another round",
        "wrong-context",
        against_round(
            lambda t: hub.InputArrived(changed(t.headers["m02"], author="m03", context=tag("x")))
        ),
    ),
    M(
        "T-01",
        "hub: an input of an outsider",
        "not-a-participant",
        against_round(lambda t: hub.InputArrived(changed(t.headers["m02"], author="zz"))),
    ),
    M(
        "T-05",
        "hub: a second input",
        "second-input",
        against_round(lambda t: hub.InputArrived(changed(t.headers["m02"], blob=tag("x")))),
    ),
    M(
        "T-21",
        "hub: an oversized vector",
        "wrong-shape",
        against_round(
            lambda t: hub.InputArrived(changed(t.headers["m02"], author="m03", length=99))
        ),
    ),
    M(
        "T-05",
        "hub: an answer before the survivors",
        "out-of-order",
        against_round(lambda t: hub.RevealLogged(verified(REVEAL))),
    ),
    M(
        "T-08",
        "hub: survivors that are not the inputs",
        "survivors-differ",
        against_round(
            lambda t: hub.SurvivorsLogged(
                verified(
                    messages.SurvivorsSealed(
                        charter=tag("charter"), author="hub", context=t.hub.context, survivors=()
                    )
                )
            )
        ),
    ),
    M(
        "T-02",
        "hub: both kinds of share of one member",
        "reveal-malformed",
        against_round(
            lambda t: hub.RevealLogged(
                answer_of(t, "m01", round_shares={"m05": "1" * 64, "m02": "1" * 64})
            ),
            sealed=True,
        ),
    ),
    M(
        "T-02",
        "hub: shares of the other kind",
        "reveal-malformed",
        against_round(
            lambda t: hub.RevealLogged(
                answer_of(
                    t,
                    "m01",
                    self_shares={"m05": "1" * 64},
                    round_shares=dict.fromkeys(("m01", "m02", "m03", "m04"), "1" * 64),
                )
            ),
            sealed=True,
        ),
    ),
    M(
        "T-02",
        "hub: no shares",
        "reveal-malformed",
        against_round(
            lambda t: hub.RevealLogged(answer_of(t, "m01", self_shares={}, round_shares={})),
            sealed=True,
        ),
    ),
    M(
        "T-08",
        "hub: an answer for another set",
        "survivors-differ",
        against_round(
            lambda t: hub.RevealLogged(answer_of(t, "m01", survivors=tag("x"))), sealed=True
        ),
    ),
    M(
        "T-07",
        "hub: an answer of a dropped member",
        "not-a-participant",
        against_round(lambda t: hub.RevealLogged(answer_of(t, "m05")), sealed=True),
    ),
    M(
        "T-11",
        "hub: a second answer",
        "second-reveal",
        against_round(
            lambda t: hub.RevealLogged(answer_of(t, "m01", round_shares={"m05": "2" * 64})),
            sealed=True,
            answered=True,
        ),
    ),
    M(
        "T-05",
        "hub: keys after the roster",
        "out-of-order",
        against_epoch("ready", lambda f: hub.KeysLogged(f.keys[0])),
    ),
    M("R-9", "hub: an ML-KEM key that is none", FORMAT, lambda: hybrid_keys(kem="f" * 2368)),
    M(
        "T-05",
        "hub: dealing sealed for another roster",
        "wrong-epoch",
        at_the_end_of_dealing(epoch_hash=tag("x")),
    ),
    M(
        "T-11",
        "hub: a dealer without shares",
        "not-in-roster",
        at_the_end_of_dealing(dealers=("m01", "m02", "m03", "m04", "m05")),
    ),
    M(
        "T-05",
        "hub: ready for another roster",
        "wrong-epoch",
        against_epoch("classical", lambda f: ready_of(f, epoch_hash=tag("x"))),
    ),
    M(
        "T-11",
        "hub: ready without having dealt",
        "not-in-roster",
        ready_of_a_member_that_dealt_nothing,
    ),
    M("R-9", "hub: ready with other pair commitments", "second-ready", ready_twice),
    M("T-03", "hub: a round of two", "too-few-participants", too_few_left),
    M("T-23", "hub: an input after a decline", "declined", after_a_decline),
    M(
        "T-23",
        "hub: a decline after an input",
        "second-input",
        against_round(lambda t: hub.DeclineLogged(decline(t, "m01"))),
    ),
    M(
        "T-08",
        "hub: a confirmation of another set",
        "survivors-differ",
        against_round(
            lambda t: hub.ConfirmationLogged(confirmation_of(t, "m01", tag("x"))), sealed=True
        ),
    ),
    # The log, with signatures: what every party refuses to fold.
    M(
        "T-24",
        "log: coordinator's words under a member's key",
        "wrong-key-kind",
        log(collecting, sealed_by_member),
    ),
    M(
        "T-24",
        "log: member's words under another member's key",
        "wrong-author",
        log(in_round, lambda w: input_of(w, A, "member")),
    ),
    M(
        "T-24",
        "log: member's words under the coordinator's key",
        "wrong-key-kind",
        log(in_round, lambda w: input_of(w, A, "hub")),
    ),
    M(
        "T-24",
        "log: words under an outsider's key",
        "unknown-key",
        log(in_round, lambda w: input_of(w, A, "outsider")),
    ),
    M(
        "T-25",
        "log: words under another charter",
        "wrong-charter",
        log(in_round, lambda w: input_of(w, B, "member", charter=digest("x"))),
    ),
    M(
        "T-41",
        "log: a suspended member among the participants",
        "not-a-member",
        log(suspended, lambda w: w.open_round(participants=NAMES[:5])),
    ),
    M(
        "T-41",
        "log: keys of a suspended member",
        "suspended",
        log(
            suspended,
            lambda w: w.say(
                messages.EpochKeys,
                NAMES[4],
                epoch=1,
                opened=digest("o"),
                transport=digest("t"),
                kem=None,
                round_keys=(),
                commitments=(),
            ),
        ),
    ),
    M(
        "T-03",
        "log: altered parameters",
        "altered-parameters",
        log(lambda: (w := World(), w.start())[0], lambda w: w.begin_epoch(min_survivors=2)),
    ),
    M(
        "T-05",
        "log: an epoch skipped",
        "altered-parameters",
        log(lambda: (w := World(), w.start())[0], lambda w: w.begin_epoch(epoch=7)),
    ),
    M(
        "T-05",
        "log: a slot used again",
        "slot-used",
        log(
            lambda: (
                w := in_round(),
                w.say(RoundAbandoned, context=w.context, code=RoundCode.TOO_FEW_INPUTS),
            )[0],
            lambda w: w.open_round(slot=0),
        ),
    ),
    M(
        "T-05",
        "log: a slot beyond the epoch",
        "slot-used",
        log(running, lambda w: w.open_round(slot=16)),
    ),
    M(
        "T-06",
        "log: an attempt that nobody counted",
        "wrong-attempt",
        log(running, lambda w: w.open_round(attempt=1)),
    ),
    M(
        "T-04",
        "log: a crafted model",
        "wrong-model",
        log(running, lambda w: w.open_round(model=digest("x"))),
    ),
    M(
        "T-05",
        "log: a second, different input",
        "equivocation",
        log(collecting, lambda w: w.send_input(A, root=digest("x"))),
    ),
    M(
        "T-23",
        "log: a survivor left out",
        "unlogged",
        log(collecting_all, lambda w: w.seal(w.survivors()[:3])),
    ),
    M(
        "T-02",
        "log: both shares of one member",
        "both-shares",
        log(revealing, lambda w: w.reveal(A, round_shares={D: digest("u"), B: digest("u")})),
    ),
    M(
        "T-02",
        "log: shares of the other kind",
        "wrong-shares",
        log(revealing, lambda w: w.reveal(A, self_shares={D: digest("z")}, round_shares={})),
    ),
    M(
        "T-08",
        "log: an answer without confirmations",
        "not-confirmed",
        log(sealed_unconfirmed, lambda w: w.reveal(A)),
    ),
    M(
        "T-08",
        "log: a confirmation of an outsider",
        "not-in-round",
        log(sealed_unconfirmed, lambda w: w.confirm(NAMES[5])),
    ),
    M(
        "T-07",
        "log: an answer of a dropped member",
        "not-in-round",
        log(revealing, lambda w: w.reveal(D)),
    ),
    M(
        "T-08",
        "log: two survivor sets in one slot",
        "two-survivor-sets",
        log(revealing, lambda w: w.reveal(A, survivors=digest("x"))),
    ),
    M(
        "T-06",
        "log: same question after a sum that moved nothing",
        "locked-set",
        log(unmoved, lambda w: w.seal()),
    ),
    M("T-06", "log: same question, other survivors", "locked-set", log(locked, lambda w: w.seal())),
    M(
        "T-05",
        "log: an answer before the survivors",
        "out-of-order",
        log(
            collecting,
            lambda w: w.say(
                messages.Reveal,
                A,
                context=w.context,
                survivors=digest("x"),
                self_shares={},
                round_shares={},
            ),
        ),
    ),
    M(
        "T-20",
        "log: a result without enough answers",
        "too-few",
        log(revealing, lambda w: w.result(w.total())),
    ),
    M(
        "T-20",
        "log: a result with a seed too many",
        "wrong-shares",
        log(answered, lambda w: w.result(w.total(), round_seeds={D: digest("u"), A: digest("u")})),
    ),
    M("T-20", "log: an empty sum", "sum-shape", log(answered, lambda w: total_of(w, 0))),
    M("T-20", "log: an oversized sum", "sum-shape", log(answered, lambda w: total_of(w, 99))),
    M(
        "T-20",
        "log: a sum over other contributors",
        "contributors-mismatch",
        log(answered, lambda w: total_of(w, w.study.progress.expected_query().layout.length)),
    ),
    M(
        "T-11",
        "log: shares after the end of dealing",
        "out-of-order",
        log(running, lambda w: w.deal(A)),
    ),
    M(
        "T-11",
        "log: ready before the end of dealing",
        "out-of-order",
        log(dealing_world, lambda w: w.ready(A)),
    ),
    M(
        "T-11",
        "log: a complaint before the end of dealing",
        "out-of-order",
        log(
            dealing_world,
            lambda w: w.say(
                messages.ShareComplaint, A, epoch_hash=w.epoch_hash, dealer=B, slot=0, key=ZERO
            ),
        ),
    ),
    M(
        "T-05",
        "log: a round before the end of dealing",
        "out-of-order",
        log(dealing_world, lambda w: w.open_round()),
    ),
    M(
        "T-23",
        "log: a decline after the survivors",
        "out-of-order",
        log(
            revealing,
            lambda w: w.say(
                messages.InputDeclined,
                D,
                context=w.context,
                code=messages.DeclineCode.SITE_DECLINED,
            ),
        ),
    ),
    M(
        "T-08",
        "log: a confirmation before the survivors",
        "out-of-order",
        log(
            collecting,
            lambda w: w.say(
                messages.SurvivorsConfirmed, A, context=w.context, survivors=digest("x")
            ),
        ),
    ),
    # Audits and resumptions.
    M(
        "R-14",
        "log: one member less after a false sum, in an audited study",
        "unaudited-set",
        log(lambda: misled(4, 1, audited=True), lambda w: w.seal()),
    ),
    M(
        "T-29",
        "log: a false sum left out of the audit",
        "audit-incomplete",
        log(
            lambda: misled(4, 1, audited=True),
            lambda w: call(w, results=[one.result.digest for one in w.study.unaudited[:-1]]),
        ),
    ),
    M("T-29", "log: the end of a study before its audit", "audit-due", log(unaudited, complete)),
    M("T-29", "log: the same auditor twice", "replayed", log(half_audited, lambda w: sign(w, A))),
    M(
        "T-29",
        "log: an audit of another call",
        "out-of-order",
        log(half_audited, lambda w: sign(w, B, call=tag("x"))),
    ),
    M(
        "T-06",
        "log: a site left out that did not approve, after a resumption",
        "locked-set",
        log(resumed_without, lambda w: w.seal()),
    ),
    M(
        "T-06",
        "log: a resumption for a round that is not over",
        "no-round",
        log(collecting, lambda w: w.propose(Action.STUDY_RESUME, w.context)),
    ),
    # The auditor.
    M("T-20", "audit: result of another round", "wrong-context", result(context=tag("x"))),
    M("T-20", "audit: other survivors than sealed", "survivors-differ", result(survivors=tag("x"))),
    M("T-20", "audit: survivors in another order", "member-order", result_in_another_order),
    M("T-20", "audit: too few survivors", "too-few-survivors", result(few=True)),
    M("T-20", "audit: a seed missing", "seeds-incomplete", result(round_seeds={})),
    M(
        "T-11",
        "audit: a self seed that was not committed to",
        "seed-differs",
        result(self_seeds="one false"),
    ),
    M(
        "T-11",
        "audit: a round seed that was not committed to",
        "seed-differs",
        result(round_seeds={"m04": "1" * 64}),
    ),
    M(
        "T-11",
        "audit: pair seeds that were not committed to",
        "seed-differs",
        result(pair_seeds="short"),
    ),
    M("T-10", "audit: a seed outside the field", FORMAT, result(round_seeds={"m04": "f" * 64})),
)


@pytest.mark.parametrize("move", MOVES, ids=lambda move: f"{move.threat} {move.name}")
def test_a_move_is_refused_with_its_own_code_and_changes_nothing(move: Move) -> None:
    watch, act = move.play()
    before = watch()
    with pytest.raises((FormatError, PolicyError, VerificationError)) as refusal:
        act()
    assert getattr(refusal.value, "code", FORMAT) == move.code, refusal.value
    assert watch() == before


def test_the_table_is_as_long_as_it_says_and_names_every_move_once() -> None:
    assert len({move.name for move in MOVES}) == len(MOVES) >= 40


def test_a_false_sum_that_moves_the_model_a_little_is_another_question() -> None:
    """LIMIT R-14: members believe a sum until it is recomputed, so nothing is refused here.

    The model moves by less than the grid of its updates, and the same is asked over one less.
    """
    world = misled(4, 1)
    world.seal()
    assert world.study.round is not None
    assert world.study.round.members_in == world.names[:3]


def test_only_what_was_ordered_counts_as_stored_and_a_slot_is_spent_once() -> None:
    """The driver's mistakes are no refusals: they are refused as such, and change nothing."""
    turn = opened_round()
    epoch = turn.node("m01").epoch
    assert epoch is not None
    used = epoch.with_slot_used(1)
    for slot in (0, 1):
        with pytest.raises(UsageError):
            used.with_slot_used(slot)
    group = turn.federation.group
    begun, _ = MemberEpoch.begin(
        group, group.members[0], opening_of(group), plan=tag("plan"), last_epoch=0, seed=bytes(32)
    )
    with pytest.raises(UsageError):
        begun.step(Persisted("another order"))
