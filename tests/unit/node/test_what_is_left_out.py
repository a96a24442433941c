"""What a party may leave out of a round (docs/adr/0014), and what it may not.

Planted faults that these tests caught: every answer logged; answers left out before the seeds
hold; an answer noted as refused; a signature taken for one's own whatever the bytes are; one's own
signature taken under a key that is not listed; a cosignature exported unverified; every own
statement remembered that never came into the log.
"""

from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.small_federation import SITES, SmallFederation, contract, found, site_files, small_plan
from treaty.crypto import canonical
from treaty.crypto.canonical import sha256
from treaty.errors import FormatError, VerificationError
from treaty.node.participant import MADE_KEPT
from treaty.protocol.frames import decode_post
from treaty.protocol.messages import TimeStated
from treaty.protocol.secagg_keys import SlotSecrets
from treaty.protocol.secagg_messages import DeclineCode, InputDeclined, Reveal
from treaty.protocol.statements import Directory, open_statement, peek, seal_statement
from treaty.protocol.study import Phase
from treaty.provenance.verify import verify_bundle
from treaty.simulation.federation import COORDINATOR, Federation
from treaty.stores.memory import MemorySecrets, MemoryStore
from treaty.wiring import Storage, load_key

LIAR = SITES[0]
THRESHOLD = 3
"""Of four members with one colluder."""


class FalseShares(MemorySecrets):
    """A secret file that gives shares which lie on no polynomial of the others'."""

    def read(self, name: str) -> bytes:
        data = super().read(name)
        try:
            secrets = canonical.decode(data, SlotSecrets)
        except FormatError:
            return data
        shares = {owner: f"{index:064x}" for index, owner in enumerate(secrets.self_shares, 1)}
        return canonical.encode(msgspec.structs.replace(secrets, self_shares=shares))


class WithLiar(SmallFederation):
    """A federation in which one member answers with false shares."""

    def _storage(self, place: Path) -> Storage:
        store = MemoryStore()
        lies = place.name == LIAR
        storage = Storage(store, store.blobs, FalseShares() if lies else MemorySecrets())
        self._storages.append(storage)
        return storage


def answers(federation: Federation) -> list[set[str]]:
    """Return who answered, by sum in order of the log."""
    found_answers: dict[str, set[str]] = {}
    for entry in federation.coordinator.entries:
        body = peek(entry)[1]
        if isinstance(body, Reveal):
            found_answers.setdefault(body.context, set()).add(body.author)
    return list(found_answers.values())


def test_the_log_holds_as_many_answers_as_open_the_sum(tmp_path: Path) -> None:
    """Four members answer, three are logged, and the fourth is neither logged nor blamed."""
    federation = found(tmp_path, in_memory=True)
    study = federation.run_study(small_plan(federation), contract())
    assert study.phase is Phase.COMPLETED
    assert [len(one) for one in answers(federation)] == [THRESHOLD] * len(study.rounds)
    assert [len(one.reveals) for one in study.rounds] == [THRESHOLD] * len(study.rounds)
    assert all(one.members_in == SITES for one in study.rounds)
    said = Counter(
        body.author
        for record in federation.network.egress
        if record.recipient == COORDINATOR and record.content is not None
        for body in _answers_in(record.content)
    )
    assert all(said[name] >= len(study.rounds) for name in SITES)
    assert "refused" not in federation.journal_of(COORDINATOR)
    verdict = verify_bundle(federation.bundle(), federation.anchor)
    assert verdict.record.sums_recomputed == len(study.rounds)


def test_answers_are_logged_until_the_seeds_hold(tmp_path: Path) -> None:
    """With a false share among the first three the fourth is needed: the sum opens, and all see."""
    Federation.found(
        tmp_path,
        {name: site_files(name) for name in SITES},
        consortium="rivers.example",
        site_figures=True,
        post_quantum=False,
    )
    federation = WithLiar(tmp_path, in_memory=True)
    federation.establish()
    study = federation.run_study(small_plan(federation), contract())
    assert study.phase is Phase.COMPLETED
    assert [one == set(SITES) for one in answers(federation)] == [True] * len(study.rounds)
    assert f"{LIAR}: false share" in federation.journal_of(COORDINATOR)
    verdict = verify_bundle(federation.bundle(), federation.anchor)
    assert verdict.record.sums_recomputed == len(study.rounds)


def test_a_false_cosignature_is_left_out_of_what_is_exported(tmp_path: Path) -> None:
    """It waits unverified; who asks for the checkpoint gets those that hold."""
    federation = found(tmp_path, in_memory=True)
    federation.settle()
    coordinator = federation.coordinator
    assert len(coordinator.witnesses()) == len(SITES)
    honest = coordinator.checkpoint()
    first, second = (federation.participants[name] for name in SITES[:2])
    coordinator._cosignatures.clear()
    for node, signer in ((first, first), (second, first)):
        line = signer._mirror.cosignature(signer._keys.witness, signer.name)
        coordinator._cosignatures.add(node.name, line)
    assert len(coordinator.witnesses()) == 1
    assert '"refused.unknown-key"' in federation.journal_of(COORDINATOR)
    assert len(coordinator.checkpoint().splitlines()) == len(honest.splitlines()) - 3


def test_only_the_very_bytes_that_were_made_here_are_not_verified(tmp_path: Path) -> None:
    """Another signature over the same statement is, and so is the key in any case."""
    federation = found(tmp_path, in_memory=True)
    directory = federation.coordinator.state.members.directory
    key = load_key(tmp_path / "parties" / COORDINATOR, "coordinator")
    data = seal_statement(TimeStated(charter=directory.charter, author=COORDINATOR, at=1), key)
    made = {sha256(data)}
    assert open_statement(data, directory, made=made).digest in made
    frame = msgspec.json.decode(data)
    signature = frame["signatures"][0]["sig"]
    frame["signatures"][0]["sig"] = ("A" if signature[0] != "A" else "B") + signature[1:]
    forged = canonical.encode(frame)
    with pytest.raises(VerificationError) as caught:
        open_statement(forged, directory, made=made)
    assert caught.value.code == "bad-signature"
    with pytest.raises(VerificationError) as caught:
        open_statement(data, Directory.of(directory.charter, ()), made=made)
    assert caught.value.code == "unknown-key"


def test_what_a_member_made_is_not_remembered_for_ever(tmp_path: Path) -> None:
    """Answers that came late are never logged; the newest statements are remembered."""
    federation = found(tmp_path, in_memory=True)
    study = federation.run_study(small_plan(federation), contract())
    assert study.phase is Phase.COMPLETED
    node = federation.participants[SITES[0]]
    for number in range(MADE_KEPT + 20):
        declined = InputDeclined(
            charter=node.state.members.directory.charter,
            author=node.name,
            context=f"{number:064x}",
            code=DeclineCode.SITE_DECLINED,
        )
        node._send(declined, ())
    kept = [body for _, body in node._made.values()]
    assert len(kept) == MADE_KEPT and kept[-1] == declined
    assert kept[0] == msgspec.structs.replace(declined, context=f"{20:064x}")


def _answers_in(frame: bytes) -> list[Reveal]:
    bodies = (peek(statement)[1] for statement in decode_post(frame).statements)
    return [body for body in bodies if isinstance(body, Reveal)]
