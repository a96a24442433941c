"""T-01 to T-50 against the log: every key in the attacker's hands, one rule broken, refused for it.

The bundles that `tests.violations` forges hold byte by byte: tiles, root, checkpoint, cosignatures
of every member, blobs. What refuses them is the replay, and each has its own reason.

Planted faults that these tests caught, each a check taken out alone:
* statements: charter, kind of key, author, suspension, one signature, unknown keys;
* charters: next version, previous version, what never changes, members counted by keys (in
  decisions and in amendments), possession of new keys, founding signed by all, expiry;
* votes and studies: elector, ratification, the plan that was voted on, adopted contract, lint,
  opened twice, terms of an epoch, what a round asks, results of a study, model of a report,
  builder, model, approvers and repetition of a release, the log's clock;
* what is decided, not done: a suspension before a study, epoch, round, release or charter;
  a halt under another name, or for a false sum without its proof; a registration counted twice;
* rounds: keys for every slot, columns, pair commitments, roster, enough members, order, slots,
  context, logged inputs, inputs counted twice, enough survivors, one set for one question,
  answers to one set, enough answers, each once;
* recomputation: seeds, chunk roots, sum, exposure of statements.

Not caught, because another check refuses the same with the same reason: the charter that a plan
binds (lint), a suspension without ratification (its signatures are counted again), both kinds of
share (shares for the wrong members).
"""

from random import Random

import pytest

from tests.forgery import Genuine, released_history
from tests.violations import VIOLATIONS, Violation
from treaty.errors import VerificationError
from treaty.provenance.verify import verify_bundle


@pytest.fixture(scope="module", params=["classical", "hybrid"])
def genuine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Genuine:
    directory = tmp_path_factory.mktemp("federation")
    return released_history(directory, post_quantum=request.param == "hybrid")


@pytest.mark.parametrize("one", VIOLATIONS, ids=lambda one: one.name)
def test_a_broken_rule_is_refused_for_its_own_reason(genuine: Genuine, one: Violation) -> None:
    files = one.make(genuine.forge, Random(one.name))
    with pytest.raises(VerificationError) as caught:
        verify_bundle(files, genuine.forge.anchor)
    assert caught.value.code in one.codes, caught.value
