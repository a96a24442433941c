"""The ports that tests give to their servers: nobody is given one that another has.

Planted and caught: a port given twice by one process, and by two.
"""

import itertools
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nats", reason="nats: nats-py is not installed")

from tests.nats_network import free_port

OTHER = """
import itertools, random, sys
from tests.nats_network import free_port
draws = itertools.chain([int(sys.argv[1])], iter(lambda: random.randint(20_000, 31_999), None))
random.SystemRandom.randrange = lambda *_: next(draws)
print(free_port())
"""


def test_a_port_is_given_once_in_this_process_and_in_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody listens on it yet, and both draw it first."""
    given = free_port()
    other = subprocess.run(
        [sys.executable, "-c", OTHER, str(given)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert int(other.stdout) != given
    draws = itertools.chain([given], iter(lambda: random.randint(20_000, 31_999), None))
    monkeypatch.setattr(random.SystemRandom, "randrange", lambda *_: next(draws))
    assert free_port() != given
