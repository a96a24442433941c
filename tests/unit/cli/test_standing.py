"""What is said of proposals, whatever their documents hold.

Planted and caught: a list that ends with the error of one document, for everybody who reads it.
"""

from pathlib import Path

import pytest

from tests.worlds import NAMES, World
from treaty.cli import standing as view
from treaty.governance.roles import Action
from treaty.ids import MemberId
from treaty.simulation.stored import Standing


def test_a_document_that_cannot_be_read_spoils_nobodys_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members vote on digests, and whoever may propose can propose anything."""
    world = World()
    actions = (
        Action.CONTRACT_ADOPT,
        Action.STUDY_APPROVE,
        Action.KEY_ROTATE,
    )
    numbers = [
        world.propose(action, world.keep(f"nothing of its kind {action.value}".encode()))
        for action in actions
    ]
    made = Standing(MemberId(NAMES[0]), world.state, tuple(world.entries), world.documents)
    monkeypatch.setattr(view, "is_party", lambda _: True)
    monkeypatch.setattr(view, "_own", lambda *_: made)
    found = view.proposals_of(tmp_path, None)
    assert [one.number for one in found] == numbers
    assert all(one.lines() for one in found)
    assert [one.changes for one in found] == [(), (), ("it is no charter",)]
    assert [one.about.endswith("vote against it") for one in found] == [True, True, False]
