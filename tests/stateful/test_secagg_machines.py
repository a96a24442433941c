"""Members and a coordinator over a network that drops, repeats, reorders and crashes.

Three or four members, two slots. Posts lie in a bag; rules deliver, repeat and lose them, show
members the log again, restart them from their disk, and let deadlines pass. Invariants:
  I1 no member ever sends both kinds of share of one (slot, member);
  I2 at most one input per slot and member, over all crashes;
  I3 a result is the sum that plain integers give over its survivors, and its check holds;
  I4 all headers of the survivors carry one context;
  I6 a slot that was answered or closed has no secret file;
  I7 what a restarted member sends again, it has sent before, byte for byte.

Planted faults that these tests caught: the answer sent before it is stored; shares of both kinds
in an answer; secrets kept after the answer.
"""

from collections.abc import Iterable

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.unit.protocol.secagg_rig import (
    Federation,
    Node,
    Round,
    dealt,
    expected_of,
    group_of,
    open_round,
    plain_sum,
    published,
    ready,
    unmasked,
    values_of,
    verified,
)
from treaty.crypto import canonical
from treaty.errors import PolicyError, VerificationError
from treaty.protocol import secagg_coordinator as coordinator
from treaty.protocol import secagg_messages as messages
from treaty.protocol.secagg_coordinator import RoundPhase
from treaty.protocol.secagg_degree import Degree
from treaty.protocol.secagg_member import (
    ConfirmationLogged,
    InputLogged,
    RoundEnded,
    SlotPhase,
    SurvivorsAnnounced,
)
from treaty.protocol.secagg_opening import check_result
from treaty.protocol.statements import Predicate, Verified


class SecureSums(RuleBasedStateMachine):
    """One federation; rounds follow one another until the slots are spent."""

    federation: Federation
    turn: Round

    @initialize(size=st.integers(3, 4), hybrid=st.booleans(), chosen=st.booleans())
    def start(self, size: int, hybrid: bool, chosen: bool) -> None:
        """In a small group, or with holders chosen as in a large one."""
        profile = Degree(2, 2) if chosen else None
        self.federation = ready(dealt(group_of(size, hybrid=hybrid, profile=profile), slots=2))
        self.posts: list[Predicate] = []
        self.results = 0
        self.number = 0
        self.attempt = 0
        self.log: list[Verified[Predicate]] = []
        self.open()

    def open(self) -> None:
        self.turn = open_round(
            self.federation, expected_of(2, 32, self.number), attempt=self.attempt
        )
        self.log = []
        self.asked = False
        self.begun: set[str] = set()

    @property
    def over(self) -> bool:
        return self.turn.hub.phase in (RoundPhase.PUBLISHED, RoundPhase.ABANDONED)

    def member(self, place: int) -> Node:
        names = self.federation.group.members
        return self.federation.nodes[names[place % len(names)]]

    def post(self, statements: Iterable[Predicate]) -> None:
        self.posts += [one for one in statements if one not in self.posts]

    @rule(places=st.permutations(range(4)), deaf=st.integers(0, 3))
    def members_hear_the_log(self, places: list[int], deaf: int) -> None:
        """Whatever part of the log they have seen before, they may see again; some hear nothing."""
        for place in places[: 4 if deaf else 2]:
            self.a_member_hears(self.member(place))

    def a_member_hears(self, node: Node) -> None:
        opened = self.turn.opened
        if node.me not in self.begun and not self.over:
            assert node.epoch is not None
            if node.epoch.last_slot < opened.predicate.slot:
                need = node.begin(opened, self.turn.expected)
                values = values_of(str(node.me), self.turn.expected)
                self.turn.inputs[node.me] = values
                self.post(node.contribute(need, values))
            self.begun.add(node.me)
        for statement in self.log:
            if node.slot is None or node.slot.slot != opened.predicate.slot:
                return
            self.tell(node, statement)

    def tell(self, node: Node, statement: Verified[Predicate]) -> None:
        event_of = {
            messages.MaskedInput: lambda s: InputLogged(s),
            messages.SurvivorsSealed: lambda s: SurvivorsAnnounced(s, node.slot_secret),
            messages.SurvivorsConfirmed: lambda s: ConfirmationLogged(s, node.slot_secret),
            messages.RoundResult: lambda s: RoundEnded(),
            messages.RoundAbandoned: lambda s: RoundEnded(),
        }
        make = event_of.get(type(statement.predicate))
        if make is None:
            return
        try:
            self.post(node.on_slot(make(statement)))
        except (PolicyError, VerificationError) as refusal:
            event(f"member refuses: {refusal.code}")

    @precondition(lambda self: self.posts)
    @rule(data=st.data())
    def posts_arrive(self, data: st.DataObject) -> None:
        """Some of them, in any order; a kept one arrives again later."""
        for _ in range(data.draw(st.integers(1, 4))):
            if self.posts:
                place = data.draw(st.integers(0, len(self.posts) - 1))
                keep = data.draw(st.integers(0, 3)) == 0
                self.arrive(self.posts[place] if keep else self.posts.pop(place))

    def arrive(self, post: Predicate) -> None:
        statement = verified(post)
        kinds = {
            messages.MaskedInput: coordinator.InputArrived,
            messages.SurvivorsConfirmed: coordinator.ConfirmationLogged,
            messages.Reveal: coordinator.RevealLogged,
        }
        try:
            self.turn.give(kinds[type(statement.predicate)](statement))
        except VerificationError as refusal:
            event(f"coordinator refuses: {refusal.code}")
            return
        if statement not in self.log:
            self.log.append(statement)
        self.follow()

    @precondition(lambda self: self.posts)
    @rule(pick=st.integers(0, 99))
    def a_post_is_lost(self, pick: int) -> None:
        """At times; a member that restarts posts again."""
        if pick >= 60:
            self.posts.pop(pick % len(self.posts))

    @rule(place=st.integers(0, 3), other=st.integers(0, 3), pick=st.integers(0, 99))
    def a_member_is_shown_a_smaller_set(self, place: int, other: int, pick: int) -> None:
        """At times the coordinator shows one member survivors that lack another one."""
        node, gone = self.member(place), self.member(other).me
        inputs = self.turn.hub.inputs
        if pick < 70 or node.slot is None or node.slot.context != self.turn.hub.context:
            return
        smaller = messages.SurvivorsSealed(
            charter=self.federation.group.charter,
            author="hub",
            context=self.turn.hub.context,
            survivors=tuple(
                messages.Survivor(member=name, header=one.digest, root=one.predicate.root)
                for name, one in sorted(inputs.items())
                if name != gone
            ),
        )
        self.tell(node, verified(smaller))

    @precondition(lambda self: len(self.log) > 2)
    @rule(pick=st.integers(0, 99))
    def time_passes(self, pick: int) -> None:
        """At times, and more often when nothing is under way."""
        if pick < (80 if self.posts else 50):
            return
        self.turn.give(coordinator.Deadline())
        self.follow()

    def follow(self) -> None:
        """Append what the coordinator ordered."""
        hub = self.turn.hub
        effects, self.turn.effects = list(self.turn.effects), []
        for effect in effects:
            if isinstance(effect, coordinator.NeedSum):
                self.turn.effects = [effect]
                words, result, _ = unmasked(self.turn)
                self.turn.effects = []
                self.log.append(verified(result))
                self.results += 1
                self.check(words, result)
            elif isinstance(effect, coordinator.Publish):
                statement = verified(effect.predicate)
                if isinstance(effect.predicate, messages.SurvivorsSealed):
                    if hub.phase is RoundPhase.COLLECTING:
                        self.sealed = published([effect], messages.SurvivorsSealed)
                        self.turn.give(coordinator.SurvivorsLogged(self.sealed))
                        self.log.append(self.sealed)
                else:
                    self.log.append(statement)

    def check(self, words: list[int], result: messages.RoundResult) -> None:
        hub = self.turn.hub
        assert words == plain_sum(self.turn, hub.survivor_names)
        contexts = {hub.inputs[name].predicate.context for name in hub.survivor_names}
        assert contexts == {hub.context}
        check_result(
            self.federation.group,
            self.turn.opened.predicate,
            self.federation.hub.peers,
            self.federation.hub.ready,
            self.federation.hub.dealers,
            self.sealed.predicate,
            result,
            graph=self.turn.hub.graph,
        )
        event(f"result over {len(hub.survivor_names)} of {len(self.federation.group.members)}")

    @rule(place=st.integers(0, 3))
    def a_member_restarts(self, place: int) -> None:
        node = self.member(place)
        before = {canonical.encode(one) for one in node.sent}
        again = node.restart()
        assert {canonical.encode(one) for one in again} <= before
        self.post(one for one in again if isinstance(one, messages.MaskedInput | messages.Reveal))
        if node.slot is None:
            self.begun.discard(node.me)

    @precondition(lambda self: self.over)
    @rule()
    def the_next_round_opens(self) -> None:
        if self.federation.hub.exhausted:
            return
        done = self.turn.hub.phase is RoundPhase.PUBLISHED
        self.number, self.attempt = (self.number + 1, 0) if done else (self.number, 1)
        self.posts = []
        self.open()

    @invariant()
    def no_member_sends_both_shares_or_two_inputs(self) -> None:
        for node in self.federation.nodes.values():
            inputs: dict[str, set[bytes]] = {}
            answers: dict[str, set[bytes]] = {}
            for one in node.sent:
                if isinstance(one, messages.MaskedInput):
                    inputs.setdefault(one.context, set()).add(canonical.encode(one))
                if isinstance(one, messages.Reveal):
                    answers.setdefault(one.context, set()).add(canonical.encode(one))
                    assert not set(one.self_shares) & set(one.round_shares)
                    held = len(one.self_shares) + len(one.round_shares)
                    if self.federation.group.profile is None:
                        assert len(one.self_shares) >= self.federation.group.min_survivors
                    assert held == len(
                        self.turn.hub.graph.owners(node.me, self.federation.hub.dealers)
                    )
            assert all(len(some) == 1 for some in (*inputs.values(), *answers.values()))
            assert len(inputs) <= 2

    @invariant()
    def an_answered_slot_has_no_secret(self) -> None:
        for node in self.federation.nodes.values():
            if node.slot is not None and node.slot.phase in (SlotPhase.ANSWERED, SlotPhase.CLOSED):
                assert node.slot_secret is None

    def teardown(self) -> None:
        """Let everything that is under way arrive; then the round ends, one way or the other."""
        if not hasattr(self, "results"):
            return
        for turn in range(6):
            for node in self.federation.nodes.values():
                self.a_member_hears(node)
            while self.posts:
                self.arrive(self.posts.pop(0))
            if turn % 3 == 2:
                self.turn.give(coordinator.Deadline())
                self.follow()
        assert self.over
        self.no_member_sends_both_shares_or_two_inputs()
        event(f"{self.results} results")


TestSecureSums = SecureSums.TestCase
TestSecureSums.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
