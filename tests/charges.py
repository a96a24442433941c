"""What the sites' ledgers and the log must say of each other after a private study.

Used where parties are killed: a charge may be double or lost only if one of these does not hold.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from treaty.crypto import canonical
from treaty.ids import Digest, MemberId
from treaty.privacy.ledger import replay
from treaty.privacy.ledger_entries import Charged, Entry, Sent
from treaty.protocol.consortium import Consortium
from treaty.protocol.secagg_messages import MaskedInput
from treaty.protocol.statements import peek
from treaty.provenance.privacy import study_privacy
from treaty.registration import open_budget

__all__ = ["assert_charges", "compare_charges"]


def assert_charges(
    site: Path, name: MemberId, plan: Digest, entries: tuple[bytes, ...], state: Consortium
) -> dict[str, int]:
    """Compare the ledger in the directory `site` with the log, as `compare_charges`."""
    keeper = open_budget(site, read_only=True)
    assert keeper is not None
    return compare_charges(keeper.entries(), name, plan, entries, state)


def compare_charges(
    stored: list[bytes], name: MemberId, plan: Digest, entries: Sequence[bytes], state: Consortium
) -> dict[str, int]:
    """Compare a ledger's entries `stored` with the log; return what was counted.

    No release without a charge: every noised input of the log is paid by an entry that stood in the
    ledger when it was sent. One charge for each release: of the vectors that were paid for one slot
    (question, model, cohort) one at most was sent, and no vector has two charges. A vector that its
    process did not live to store is lost with its noise, and the next one is a charge of its own
    (docs/spec/privacy.md, 7.5): counted as `lost`, on the safe side; what was paid and never
    logged as `unreleased`. At most one input in a context. Where every charge was released, the
    ledger's events are those of the study's certificate, one for one.
    """
    ledger = replay(stored, audited=True)
    actions = [canonical.decode(data, Entry).action for data in stored]
    # Of this one study: what was asked anew with fresh noise is paid from accounts of its own.
    charges = [one for one in actions if isinstance(one, Charged)]
    payloads = {one.payload for one in charges}
    assert len(payloads) == len(charges), f"{name} paid twice for one vector"
    sent = {one.payload for one in actions if isinstance(one, Sent)}
    assert sent <= payloads, f"{name} sent what it had not paid for"
    slots = Counter(_slot(one) for one in charges)
    released = Counter(_slot(one) for one in charges if one.payload in sent)
    assert all(times == 1 for times in released.values()), (name, released)
    lost = sum(slots.values()) - len(slots)

    bodies = (peek(entry)[1] for entry in entries)
    inputs = [one for one in bodies if isinstance(one, MaskedInput) and one.author == name]
    contexts = Counter(one.context for one in inputs)
    assert all(times == 1 for times in contexts.values()), (name, contexts)
    releases: set[str] = set()
    for one in inputs:
        assert one.ledger is not None and one.ledger_count, (name, one.context)
        assert ledger.heads[one.ledger_count - 1] == one.ledger.head, (name, one.context)
        if one.noise is not None:
            releases.add(one.noise)
            paid = [a for a in actions[: one.ledger_count] if isinstance(a, Charged)]
            assert len(paid) >= len(releases), f"{name}: a release that nobody paid for"
    assert len(charges) >= len(releases)

    statement = study_privacy(state.studies[plan])
    assert statement is not None
    happened = statement.happened
    again = len(slots) - len({(one.query, one.model) for one in charges})
    assert again <= happened.fresh, f"{name} paid for a question again that nobody asked anew"
    holdout = 0 if happened.holdout is msgspec.UNSET else happened.holdout.sums
    planned = happened.counts + happened.gradients + holdout
    whole = len(charges) == len(releases) == planned and not happened.fresh
    for one in statement.certificates:
        assert not whole or ledger.events(one.partition) == one.events, (name, one.partition)
    return {
        "again": again,
        "charges": len(charges),
        "equals_certificate": int(whole),
        "lost": lost,
        "releases": len(releases),
        "unreleased": len(charges) - len(releases),
    }


def _slot(charge: Charged) -> tuple[str, str, str]:
    return charge.query, charge.model, charge.cohort
