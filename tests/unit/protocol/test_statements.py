"""Statements: the one door, and every reason for which it stays shut.

Planted and caught: no check of fields without a class; no comparison of subjects; no check of the
charter; no check of the kind of key; no check of the author; no check of suspension; no limit of
size when sealing; two signatures accepted; a repeated predicate type accepted.
"""

from collections.abc import Callable

import msgspec
import pytest

from tests.worlds import (
    COORDINATOR,
    HUB,
    LOG_KEY,
    NAMES,
    approval,
    digest,
    key,
    refused,
    runner,
    witness,
)
from treaty.crypto import canonical, envelope
from treaty.crypto.canonical import Count, Text
from treaty.errors import FormatError, UsageError
from treaty.governance.exposure import FORMS, Artefact, Form
from treaty.ids import MemberId
from treaty.protocol import messages, secagg_messages
from treaty.protocol.statements import (
    MAX_ENTRY_BYTES,
    PREDICATE_BASE,
    Directory,
    KeyHolder,
    Predicate,
    SignerKind,
    Subject,
    of_kind,
    open_statement,
    peek,
    registered,
    seal_statement,
    statement,
    statement_payload,
)

ANN, BOB = NAMES[0], NAMES[1]
CHARTER = digest("charter")
HOLDERS = [
    KeyHolder(MemberId(name), kind, make(name).public)
    for name in NAMES
    for kind, make in (
        (SignerKind.APPROVAL, approval),
        (SignerKind.RUNNER, runner),
        (SignerKind.WITNESS, witness),
    )
] + [
    KeyHolder(MemberId(HUB), SignerKind.COORDINATOR, COORDINATOR.public),
    KeyHolder(MemberId(HUB), SignerKind.LOG, LOG_KEY.public),
]
DIRECTORY = Directory.of(CHARTER, HOLDERS)


def ballot(author: str = ANN, charter: str = CHARTER) -> messages.BallotCast:
    return messages.BallotCast(
        charter=charter, author=author, proposal=digest("proposal"), choice="approve"
    )


def released() -> messages.ReleaseProvenance:
    return messages.release_provenance(
        CHARTER, HUB, digest("plan"), digest("model"), (("treaty:plan", digest("plan")),)
    )


def reframed(change: Callable[[dict[str, object]], object]) -> bytes:
    """Return a signed envelope whose statement was changed before it was signed."""
    frame = msgspec.json.decode(statement_payload(ballot()))
    change(frame)
    return envelope.seal(canonical.encode(frame), [approval(ANN)])


def test_a_statement_is_opened_as_it_was_sealed() -> None:
    data = seal_statement(ballot(), approval(ANN))
    verified = open_statement(data, DIRECTORY)
    assert verified.predicate == ballot()
    assert verified.author == ANN
    assert verified.digest == canonical.sha256(data)
    assert verified.keyids == {approval(ANN).public.keyid}
    assert of_kind(verified, messages.BallotCast).predicate.choice == "approve"
    assert peek(data)[1] == ballot()
    with pytest.raises(UsageError, match="expected TimeStated, got BallotCast"):
        of_kind(verified, messages.TimeStated)


@pytest.mark.parametrize(
    "code, data, directory",
    [
        ("wrong-charter", seal_statement(ballot(charter=digest("x")), approval(ANN)), DIRECTORY),
        ("wrong-key-kind", seal_statement(ballot(), runner(ANN)), DIRECTORY),
        ("wrong-key-kind", seal_statement(ballot(), witness(ANN)), DIRECTORY),
        ("wrong-key-kind", seal_statement(ballot(), COORDINATOR), DIRECTORY),
        ("wrong-author", seal_statement(ballot(), approval(BOB)), DIRECTORY),
        ("unknown-key", seal_statement(ballot(), key("nobody")), DIRECTORY),
        ("wrong-author", seal_statement(ballot(), approval(ANN), approval(BOB)), DIRECTORY),
        (
            "suspended",
            seal_statement(ballot(), approval(ANN)),
            Directory.of(CHARTER, HOLDERS, frozenset({MemberId(ANN)})),
        ),
        (
            "suspended",
            seal_statement(released(), approval(ANN), approval(BOB)),
            Directory.of(CHARTER, HOLDERS, frozenset({MemberId(BOB)})),
        ),
        (
            "wrong-signatures",
            seal_statement(ballot(), approval(ANN), key("second key of ann")),
            Directory.of(
                CHARTER,
                [
                    *HOLDERS,
                    KeyHolder(MemberId(ANN), SignerKind.APPROVAL, key("second key of ann").public),
                ],
            ),
        ),
        (
            "wrong-signatures",
            seal_statement(
                messages.CharterPublished(charter=CHARTER, author=HUB, version=1), approval(ANN)
            ),
            DIRECTORY,
        ),
    ],
)
def test_each_refusal_has_its_code(code: str, data: bytes, directory: Directory) -> None:
    with refused(code):
        open_statement(data, directory)


def test_a_signature_over_other_bytes_is_refused() -> None:
    data = seal_statement(ballot(), approval(ANN))
    parsed = envelope.parse(data)
    other = envelope.parse(seal_statement(ballot(BOB), approval(ANN)))
    swapped = data.replace(
        envelope.encode_base64(parsed.signatures[0][1]).encode(),
        envelope.encode_base64(other.signatures[0][1]).encode(),
    )
    with refused("bad-signature"):
        open_statement(swapped, DIRECTORY)


def test_several_approvers_may_sign_a_release() -> None:
    verified = open_statement(seal_statement(released(), approval(ANN), approval(BOB)), DIRECTORY)
    assert len(verified.keyids) == 2
    assert verified.author == HUB
    assert (released().charter, released().plan) == (CHARTER, digest("plan"))


@pytest.mark.parametrize(
    "reason, change",
    [
        ("known predicate type", lambda f: f.update(predicateType=PREDICATE_BASE + "rumour/v1")),
        ("known predicate type", lambda f: f.update(predicateType="https://elsewhere.example/")),
        ("subjects", lambda f: f.update(subject=[])),
        ("subjects", lambda f: f["subject"].append(f["subject"][0])),
        ("subjects", lambda f: f["subject"][0].update(name="other")),
        ("subjects", lambda f: f["subject"][0]["digest"].update(sha256=digest("other"))),
        ("unknown field", lambda f: f["predicate"].update(remark="hello")),
        ("missing required", lambda f: f["predicate"].pop("choice")),
        ("invalid enum", lambda f: f["predicate"].update(choice="perhaps")),
        ("invalid enum", lambda f: f.update(_type="https://in-toto.io/Statement/v0.1")),
        ("unknown field", lambda f: f.update(extra=1)),
        ("unknown field", lambda f: f["subject"][0].update(uri="x")),
        ("unknown field", lambda f: f["subject"][0]["digest"].update(md5="x")),
    ],
)
def test_a_statement_of_another_shape_is_a_format_error(
    reason: str, change: Callable[[dict[str, object]], object]
) -> None:
    with pytest.raises(FormatError, match=reason):
        open_statement(reframed(change), DIRECTORY)


def test_a_predicate_in_another_spelling_is_a_format_error() -> None:
    payload = statement_payload(ballot()).replace(b'"choice":', b'"choice": ')
    with pytest.raises(FormatError, match="canonical"):
        open_statement(envelope.seal(payload, [approval(ANN)]), DIRECTORY)


def test_an_oversized_entry_is_neither_sealed_nor_read() -> None:
    large = messages.release_provenance(
        CHARTER,
        HUB,
        digest("plan"),
        digest("model"),
        tuple((f"u{n}", digest("x")) for n in range(700)),
    )
    with pytest.raises(UsageError, match=f"at most {MAX_ENTRY_BYTES}"):
        seal_statement(large, approval(ANN))
    data = envelope.seal(statement_payload(large), [approval(ANN)])
    assert len(data) > MAX_ENTRY_BYTES
    with pytest.raises(FormatError, match=f"at most {MAX_ENTRY_BYTES}"):
        open_statement(data, DIRECTORY)


def test_what_could_not_be_read_back_is_not_sealed() -> None:
    with pytest.raises(UsageError, match="would not be readable"):
        seal_statement(messages.TimeStated(charter=CHARTER, author=HUB, at=-1), COORDINATOR)
    with pytest.raises(UsageError, match="would not be readable"):
        seal_statement(ballot(author="No Such Name"), approval(ANN))
    with pytest.raises(UsageError, match="at least one signer"):
        seal_statement(ballot())


def test_a_field_without_a_class_fails_when_the_module_is_loaded() -> None:
    class Rumour(Predicate):
        heard: Count
        remark: Text

    before = peek(seal_statement(ballot(), approval(ANN)))[1]
    with pytest.raises(UsageError, match="check: remark"):
        statement("rumour/v1", signer=SignerKind.RUNNER, classes={"heard": Artefact.VOTE})(Rumour)
    with pytest.raises(UsageError, match="check: whispered"):
        statement(
            "rumour/v1",
            signer=SignerKind.RUNNER,
            classes={
                "heard": Artefact.VOTE,
                "remark": Artefact.REMARK,
                "whispered": Artefact.REMARK,
            },
        )(Rumour)
    with pytest.raises(UsageError, match="several forms"):
        statement(
            "rumour/v1",
            signer=SignerKind.RUNNER,
            classes={"heard": Artefact.SITE_METRIC, "remark": Artefact.REMARK},
        )(Rumour)
    with pytest.raises(UsageError, match="Rumour is not a registered statement"):
        registered(Rumour)
    assert before == ballot()


def test_a_predicate_type_is_registered_once() -> None:
    class SecondBallot(Predicate):
        proposal: Text

    with pytest.raises(UsageError, match="registered twice"):
        statement(
            "ballot/v1", signer=SignerKind.APPROVAL, classes={"proposal": Artefact.IDENTIFIER}
        )(SecondBallot)


def test_every_registered_type_has_a_kind_of_key_and_a_class_that_can_have_its_form() -> None:
    kinds = [
        getattr(module, name)
        for module in (messages, secagg_messages)
        for name in module.__all__
        if isinstance(getattr(module, name), type)
        and issubclass(getattr(module, name), Predicate | messages.ReleaseProvenance)
    ]
    assert len(kinds) >= 28
    for kind in kinds:
        entry = registered(kind)
        assert entry.uri.startswith(PREDICATE_BASE) or entry.uri == messages.SLSA_PROVENANCE
        assert set(entry.classes) == set(kind.__struct_fields__)
        for artefact, form in entry.classes.values():
            assert form in FORMS[artefact]
            assert artefact is not Artefact.RAW_DATA
    # What depends on a site's own data appears in these classes and nowhere else.
    telling = {
        (registered(kind).name, artefact)
        for kind in kinds
        for artefact, form in registered(kind).classes.values()
        if form in (Form.EXACT, Form.NOISED)
    }
    assert telling == {
        ("reveal/v1", Artefact.SKETCH_CLAIM),
        ("site-report/v1", Artefact.SITE_METRIC),
        ("comparison/v1", Artefact.SIMULATION_COMPARISON),
    }


def test_subjects_follow_from_the_predicate() -> None:
    time = messages.TimeStated(charter=CHARTER, author=HUB, at=1)
    assert time.subjects() == (Subject.of("charter", CHARTER),)
    assert ballot().subjects() == (Subject.of("proposal", digest("proposal")),)
    assert released().subjects() == (Subject.of("model.safetensors", digest("model")),)
