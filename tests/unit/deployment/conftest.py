"""What the tests of an officer's desk share."""

import os
from pathlib import Path

import pytest

from tests.worlds import HUB, NAMES, approval
from treaty.crypto.keys import encode_key_file
from treaty.deployment import desk as desks
from treaty.deployment.places import Party
from treaty.ids import Digest


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A member's directory, as far as the desk looks into it."""
    party = Party(name=NAMES[0], coordinator=HUB, anchor=Digest("0" * 64), is_hub=False)
    monkeypatch.setattr(desks, "load_party", lambda _: party)
    (tmp_path / "key.json").write_bytes(encode_key_file("approval", approval(NAMES[0])))
    os.chmod(tmp_path / "key.json", 0o600)
    os.chmod(tmp_path, 0o700)
    return tmp_path
