"""Foreign readers of a whole log: every statement of a finished study, as others would read it.

Planted and caught: statements about the charter without a subject, no subject at all, a
pre-authentication encoding of another version. Not caught: ``type`` in place of ``_type``, which
the reference implementation reads alike.
"""

import base64

import msgspec
import pytest
from google.protobuf import json_format
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement
from securesystemslib import dsse
from securesystemslib.signer import SSlibKey

from tests.worlds import World
from treaty.protocol.statements import peek


@pytest.fixture(scope="module")
def world() -> World:
    """A consortium that has completed a study."""
    made = World()
    made.start()
    made.run_study()
    made.complete()
    return made


def test_every_statement_parses_as_an_in_toto_statement(world: World) -> None:
    """The reference implementation reads and validates each payload, unknown fields forbidden."""
    kinds = set()
    for entry in world.entries:
        payload = peek(entry)[0].payload
        message = json_format.Parse(payload, statement_pb2.Statement())
        Statement.copy_from_pb(message).validate()
        kinds.add(message.predicate_type)
    assert len(kinds) > 10


def test_every_envelope_verifies_with_securesystemslib(world: World) -> None:
    """Each signature holds under its key, and no longer holds under another payload."""
    keys = world.state.members.directory.keys
    for entry in world.entries:
        record = msgspec.json.decode(entry)
        envelope = dsse.Envelope.from_dict(msgspec.json.decode(entry))
        known = [
            SSlibKey(one["keyid"], "ed25519", "ed25519", {"public": keys[one["keyid"]].hex})
            for one in record["signatures"]
        ]
        assert len(envelope.verify(known, len(known))) == len(known)
        altered = record | {"payload": base64.b64encode(b"{}").decode()}
        with pytest.raises(Exception, match="signature"):
            dsse.Envelope.from_dict(altered).verify(known, len(known))
