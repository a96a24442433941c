"""Every decoder of bytes that peers send, genuine examples for each, and ways to damage them.

`TARGETS` is the list: a target reads bytes and returns a value or raises one of its `refusals`.
A target with `again` is strict: what it reads it must write again, byte for byte. Statements have
one target for each predicate type of the registry, so a new type is fuzzed without a line here.

Damage is structure-aware for JSON (`_tree_damage`: a node replaced, removed, added, moved or
deepened, then canonical bytes again), blind for everything (`_byte_damage`), and drawn from the
`random.Random` that the caller seeds.
"""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import msgspec
import numpy as np
from msgspec import inspect

from tests.unit.protocol.secagg_rig import dealt, group_of, ready
from tests.worlds import (
    COORDINATOR,
    World,
    approval,
    digest,
    key,
    runner,
    small_charter,
    small_contract,
    small_plan,
    witness,
)
from treaty.aggregation.quantization import ring_vector
from treaty.aggregation.tensors import NamedTensors
from treaty.contracts.schema import contract_bytes, contract_from_bytes
from treaty.crypto import canonical, envelope
from treaty.crypto.key_agreement import (
    EncapsulationKey,
    check_agreement_key,
    check_encapsulation_key,
)
from treaty.crypto.keys import PublicKey
from treaty.crypto.shamir import MODULUS, decode_element, encode_element
from treaty.deployment.rotating import Rotation, open_rotation
from treaty.engines.chunks import decode_header, header_of
from treaty.errors import FormatError, PeerError, PolicyError
from treaty.governance.amendment import CharterHistory
from treaty.governance.charter import charter_bytes, charter_digest, parse_charter
from treaty.governance.rotation import rotated
from treaty.ids import MemberId
from treaty.protocol import messages, secagg_messages, statements
from treaty.protocol.frames import Feed, Post, decode_feed, decode_post, encode_frame
from treaty.protocol.membership import charter_statement
from treaty.protocol.secagg_audit import ChunkList, FraudProof
from treaty.protocol.secagg_dealing import complaint_holds, open_column, open_wrap
from treaty.protocol.secagg_keys import EpochSeed
from treaty.protocol.statements import Body, open_statement, peek, statement_payload
from treaty.provenance.bundle import Manifest
from treaty.provenance.fraud import PROOF_LIMIT_BYTES
from treaty.provenance.verify import verify_bundle
from treaty.studies.plan import parse_plan, plan_bytes
from treaty.tlog.checkpoint import Checkpoint, add_cosignatures, cosign, open_checkpoint, sign
from treaty.tlog.merkle import MerkleTree, leaf_hash
from treaty.tlog.notes import Cosigner, Signer, Verifier, parse_note, parse_signature_line
from treaty.tlog.policy import KnownLog, KnownWitness, parse_policy, policy_of_members
from treaty.tlog.proof import LogProof, parse_proof, verify_proof
from treaty.tlog.tiles import entry_bundle, parse_entry_bundle, parse_tile, resources

ORIGIN = "hub.example/log"
JUDGES = frozenset({"column", "judged column"})
"""Targets that answer whatever they are given: what does not open is an answer too."""

SLOW = frozenset({"bundle", "opened statement", "opened checkpoint", "verified proof"})
"""Targets that verify signatures or replay a log: they get a smaller share of a campaign."""


@dataclass(frozen=True)
class Target:
    """One decoder. `wrap` puts a damaged tree back into the bytes that the decoder reads.

    `bad` are inputs of the right form that must be refused for what they are.
    """

    name: str
    read: Callable[[bytes], object]
    genuine: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...] = (FormatError,)
    again: Callable[[Any], bytes] | None = None
    trees: tuple[Any, ...] = ()
    bad: tuple[bytes, ...] = ()
    wrap: Callable[[Any, random.Random], bytes] | None = None


# --- genuine examples --------------------------------------------------------------------------


@cache
def world() -> World:
    """A consortium that has completed a study."""
    made = World()
    made.start()
    made.run_study()
    made.complete()
    return made


_TEXTS = (
    *("a" * size for size in (1, 8, 16, 32, 64, 2368)),
    "aare.example",
    "1.0.0",
    "2026-01-01",
    "https://a.example/x",
    "A==",
    "AAAA",
)


def example(kind: inspect.Type) -> Any:
    """Return a value that the declared type accepts, as plain data."""
    match kind:
        case inspect.StrType():
            return next(text for text in _TEXTS if re.search(kind.pattern or "", text))
        case inspect.IntType():
            least = kind.ge if kind.ge is not None else (kind.gt or 0) + (kind.gt is not None)
            return max(int(least), kind.multiple_of or 0)
        case inspect.BoolType():
            return True
        case inspect.NoneType():
            return None
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.EnumType():
            return next(iter(kind.cls)).value
        case inspect.UnionType():
            return example(kind.types[0])
        case inspect.TupleType():
            return [example(one) for one in kind.item_types]
        case inspect.VarTupleType() | inspect.ListType() | inspect.FrozenSetType():
            return [example(kind.item_type)]
        case inspect.DictType():
            return {example(kind.key_type): example(kind.value_type)}
        case inspect.StructType():
            made = {one.encode_name: example(one.type) for one in kind.fields}
            if kind.tag is not None and kind.tag_field is not None:
                made[kind.tag_field] = kind.tag
            return made
        case _:
            raise AssertionError(f"no example of {kind}")


def predicate_kinds() -> tuple[type[Body], ...]:
    """Return every registered predicate type, in the order of their names."""
    assert messages and secagg_messages
    return tuple(sorted(statements._BY_KIND, key=lambda kind: statements.registered(kind).name))


def _frame_of(kind: type[Body]) -> Any:
    """Return a statement of `kind` as a tree: from the log of the world, else by its type."""
    for entry in world().entries:
        parsed, body = peek(entry)
        if type(body) is kind:
            return msgspec.json.decode(parsed.payload)
    body = msgspec.convert(example(inspect.type_info(kind)), kind)
    return msgspec.json.decode(statement_payload(body))


def _enveloped(tree: Any, draw: random.Random) -> bytes:
    """Return an unsigned envelope around a statement: `peek` verifies nothing."""
    payload = _canonical(tree)
    signature = {"keyid": digest("key"), "sig": envelope.encode_base64(bytes(64))}
    return _canonical(
        {
            "payload": envelope.encode_base64(payload),
            "payloadType": envelope.PAYLOAD_TYPE,
            "signatures": [signature],
        }
    )


def _signed(tree: Any, draw: random.Random) -> bytes:
    """Return an envelope that the coordinator or a member really signed."""
    name = draw.choice(world().names)
    signer = draw.choice((COORDINATOR, runner(name), approval(name)))
    return envelope.seal(_canonical(tree), [signer])


def _canonical(tree: Any) -> bytes:
    return msgspec.json.encode(tree, order="sorted")


def _framed(tree: Any, draw: random.Random) -> bytes:
    """Return a frame with a damaged header in front of parts that are as they were."""
    head = _canonical(tree)
    return len(head).to_bytes(4, "big") + head + draw.choice((b"", bytes(7), bytes(300)))


def _notes() -> tuple[MerkleTree, bytes, Verifier, list[KnownWitness]]:
    tree = MerkleTree(leaf_hash(bytes([at])) for at in range(21))
    log = Signer(ORIGIN, key("log"))
    checkpoint = Checkpoint(ORIGIN, tree.size, tree.root())
    cosigners = [Cosigner(f"{name}/witness", witness(name)) for name in world().names]
    lines = [cosign(checkpoint, one, 1_800_000_000) for one in cosigners]
    known = [
        KnownWitness(name, one.verifier, f"https://{name}/w")
        for name, one in zip(world().names, cosigners, strict=True)
    ]
    return tree, add_cosignatures(sign(checkpoint, log), lines), log.verifier, known


# --- the targets -------------------------------------------------------------------------------


def _statement_targets() -> list[Target]:
    made = []
    for kind in predicate_kinds():
        tree = _frame_of(kind)
        genuine = _enveloped(tree, random.Random(0))
        name = f"statement {statements.registered(kind).name}"
        made.append(Target(name, peek, (genuine,), trees=(tree,), wrap=_enveloped))
    directory = world().state.members.directory
    logged = tuple(world().entries[2:40])
    trees = tuple(msgspec.json.decode(envelope.parse(entry).payload) for entry in logged)
    made.append(
        Target(
            "opened statement",
            lambda data: open_statement(data, directory),
            logged,
            refusals=(PeerError,),
            trees=trees,
            wrap=_signed,
        )
    )
    made.append(
        Target(
            "envelope",
            envelope.parse,
            logged,
            trees=tuple(map(msgspec.json.decode, logged)),
            wrap=lambda tree, draw: _canonical(tree),
        )
    )
    return made


def _frame_targets() -> list[Target]:
    entries, blobs = tuple(world().entries[:6]), {canonical.sha256(b"blob"): b"blob"}
    feeds = (
        encode_frame(Feed(0, entries, "note", blobs)),
        encode_frame(Feed(7, (), "", {})),
    )
    posts = (
        encode_frame(Post(MemberId("aare.example"), 3, "line", entries[2:4], blobs)),
        encode_frame(Post(MemberId("birs.example"), 0, "", (), {})),
    )

    def heads(frames: tuple[bytes, ...]) -> tuple[Any, ...]:
        return tuple(
            msgspec.json.decode(one[4 : 4 + int.from_bytes(one[:4], "big")]) for one in frames
        )

    return [
        Target("feed", decode_feed, feeds, again=encode_frame, trees=heads(feeds), wrap=_framed),
        Target("post", decode_post, posts, again=encode_frame, trees=heads(posts), wrap=_framed),
    ]


def _document_targets() -> list[Target]:
    charter = small_charter()
    documents: tuple[tuple[str, Callable[[bytes], object], bytes, Callable[[Any], bytes]], ...] = (
        (
            "plan",
            parse_plan,
            plan_bytes(small_plan(charter, small_contract())),
            plan_bytes,
        ),
        ("charter", parse_charter, charter_bytes(charter), charter_bytes),
        ("contract", contract_from_bytes, contract_bytes(small_contract()), contract_bytes),
        (
            "manifest",
            lambda data: canonical.decode(data, Manifest),
            canonical.encode(
                Manifest(edition="full", anchor=digest("a"), size=3, checkpoint=digest("c"))
            ),
            canonical.encode,
        ),
        (
            "chunk list",
            lambda data: canonical.decode(data, ChunkList),
            canonical.encode(
                ChunkList(hashes={digest("result"): {"aare.example": (digest("c"), digest("d"))}})
            ),
            canonical.encode,
        ),
        (
            "fraud proof",
            lambda data: canonical.decode(data, FraudProof, limit=PROOF_LIMIT_BYTES),
            canonical.encode(
                FraudProof(
                    result=digest("result"),
                    chunk=1,
                    hashes={"aare.example": (digest("c"), digest("d"))},
                    pieces={"aare.example": "AAAA"},
                )
            ),
            canonical.encode,
        ),
        ("object header", decode_header, header_of(bytes(70_000)), canonical.encode),
    )
    return [
        Target(
            name,
            read,
            (genuine,),
            again=again,
            trees=(msgspec.json.decode(genuine),),
            wrap=lambda tree, draw: _canonical(tree),
        )
        for name, read, genuine, again in documents
    ]


def _log_targets() -> list[Target]:
    tree, note, log, witnesses = _notes()
    policy = policy_of_members(KnownLog(log, f"https://{ORIGIN}"), witnesses, 1)
    proof = LogProof(3, tree.inclusion_proof(3), note)
    rows = tuple(row for row in note.split(b"\n\n", 1)[1].split(b"\n") if row)
    bundle = entry_bundle([b"one", b"", b"three" * 9])
    return [
        Target("note", parse_note, (note,)),
        Target("strict note", lambda data: parse_note(data, strict=True), (note,)),
        Target("signature line", parse_signature_line, rows),
        Target(
            "verifier key",
            lambda data: Verifier.from_vkey(data.decode("utf-8", "surrogateescape")),
            (log.vkey.encode(), witnesses[0].verifier.vkey.encode()),
            again=lambda read: read.vkey.encode(),
        ),
        Target(
            "checkpoint body",
            Checkpoint.parse,
            (parse_note(note).text,),
            again=lambda read: read.body(),
        ),
        Target(
            "opened checkpoint",
            lambda data: open_checkpoint(data, log, [one.verifier for one in witnesses]),
            (note,),
            refusals=(PeerError,),
        ),
        Target("proof", parse_proof, (proof.encode(),), again=lambda read: read.encode()),
        Target(
            "verified proof",
            lambda data: verify_proof(data, bytes([3]), policy),
            (proof.encode(),),
            refusals=(PeerError,),
        ),
        Target("policy", parse_policy, (policy.encode(),)),
        Target("entry bundle", lambda data: parse_entry_bundle(data, 3), (bundle,)),
        Target("tile", lambda data: parse_tile(data, 4), (bytes(range(128)),)),
    ]


def _bulk_targets() -> list[Target]:
    tensors = NamedTensors.from_arrays(
        {
            "bias": np.array([0.5, -1.25]),
            "counts": np.arange(6, dtype=np.int64).reshape(2, 3),
            "weight": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
        }
    ).to_bytes()
    size = int.from_bytes(tensors[:8], "little")
    federation = ready(dealt(group_of(4, hybrid=True), slots=2))
    group, names = federation.group, federation.group.members
    first, second = names[0], names[1]
    node = federation.nodes[second]
    column = federation.columns[federation.shares[first].predicate.columns[second]]
    epoch_hash = str(federation.hub.epoch_hash)
    keys = federation.hub.peers[first]
    own = EpochSeed(bytes(32), group.charter, 1, 2)
    wraps = federation.hub.wraps[first]

    def tensor_file(tree: Any, draw: random.Random) -> bytes:
        head = _canonical(tree)
        head += b" " * (-len(head) % 8)
        return len(head).to_bytes(8, "little") + head + tensors[8 + size :]

    assert node.epoch is not None
    return [
        Target(
            "tensors",
            NamedTensors.from_bytes,
            (tensors,),
            again=lambda read: read.to_bytes(),
            trees=(msgspec.json.decode(tensors[8 : 8 + size].rstrip(b" ")),),
            wrap=tensor_file,
        ),
        Target(
            "masked vector",
            lambda data: ring_vector(data, 32, 5),
            (bytes(range(20)),),
            again=lambda read: read.tobytes(),
        ),
        Target(
            "share",
            decode_element,
            (encode_element(7), b"\xff" * 31 + b"\x00"),
            bad=tuple(value.to_bytes(32, "big") for value in (MODULUS, MODULUS + 1, 2**256 - 1)),
            again=encode_element,
        ),
        Target(
            "column",
            lambda data: open_column(group, second, first, own, keys, epoch_hash, 2, data),
            (column,),
            refusals=(PeerError,),
        ),
        Target(
            "judged column",
            lambda data: complaint_holds(
                group, epoch_hash, first, second, 1, data[:32].ljust(32), data, 2
            ),
            (column,),
            refusals=(PeerError,),
        ),
        Target(
            "wraps",
            lambda data: open_wrap(group, first, epoch_hash, 1, 3, 5, data),
            (wraps,),
            refusals=(PeerError,),
        ),
        Target(
            "agreement key",
            lambda data: check_agreement_key(data) or data,
            (bytes.fromhex(keys.transport),),
            refusals=(PeerError,),
            bad=tuple(
                u.to_bytes(32, "little")
                for u in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 - 18, 2**256 - 1)
            ),
        ),
        Target(
            "encapsulation key",
            lambda data: check_encapsulation_key(data) or data,
            (EncapsulationKey(bytes(64)).public,),
        ),
        Target(
            "public key",
            PublicKey,
            (key("x").public.raw,),
            refusals=(PeerError,),
            bad=tuple(
                y.to_bytes(32, "little")
                for y in (0, 1, 2**255 - 20, 2**255 - 19, 2**255 + 1, 2**256 - 1)
            ),
        ),
    ]


def _bundle_target() -> Target:
    entries, documents = world().entries, world().documents
    tree = MerkleTree(leaf_hash(entry) for entry in entries)
    files = {
        "log/" + path: data
        for path, data in resources(tree, lambda index: entries[index], len(entries)).items()
    }
    log = Signer(world().first.log.origin, key("log"))
    files["log/checkpoint"] = sign(Checkpoint(log.name, tree.size, tree.root()), log)
    files |= {"blobs/" + name: data for name, data in documents.items()}
    manifest = canonical.encode(
        Manifest(
            edition="attested",
            anchor=charter_digest(world().first),
            size=len(entries),
            checkpoint=canonical.sha256(files["log/checkpoint"]),
        )
    )
    names = ("manifest.json", *sorted(files))

    def read(data: bytes) -> object:
        # The first byte says which file of the bundle the rest of the input stands for.
        changed: Mapping[str, bytes] = {
            **files,
            "manifest.json": manifest,
            names[data[0] % len(names) if data else 0]: data[1:],
        }
        return verify_bundle(changed, charter_digest(world().first))

    genuine = tuple(
        bytes([at]) + {**files, "manifest.json": manifest}[names[at]]
        for at in range(min(len(names), 6))
    )
    return Target("bundle", read, genuine, refusals=(PeerError, PolicyError))


@cache
def _request_targets() -> tuple[Target, ...]:
    """What a member's officer is handed: a request to exchange another member's keys."""
    history = CharterHistory((small_charter(),))
    name = MemberId(next(iter(history.current.members)))
    new = key("a new runner key")
    keys = msgspec.structs.replace(history.current.members[name].keys, runner=(new.public.hex,))
    charter = rotated(history.current, name, keys, suspended=frozenset())
    statement = statements.seal_statement(charter_statement(charter), new)
    request = canonical.encode(
        Rotation(member=name, charter=charter, statement=envelope.encode_base64(statement))
    )
    return (
        Target(
            "key-rotation",
            lambda data: open_rotation(data, history)[0],
            (request,),
            (PeerError, PolicyError),
            trees=(msgspec.json.decode(request),),
            wrap=lambda tree, _: _canonical(tree),
        ),
    )


def targets() -> tuple[Target, ...]:
    """Return every decoder of bytes that come from another party."""
    return (
        *_statement_targets(),
        *_frame_targets(),
        *_document_targets(),
        *_log_targets(),
        *_bulk_targets(),
        *_request_targets(),
        _bundle_target(),
    )


# --- damage ------------------------------------------------------------------------------------

_INTEGERS = (
    -1,
    0,
    1,
    2,
    255,
    2**16,
    2**31,
    2**32,
    2**53 - 1,
    2**53,
    2**63,
    2**64,
    10**40,
    -(2**63),
)
_LEAVES = (None, True, False, "", "x", "\ud7ff", "\U0001f600", "0" * 64, "a" * 5000, 0.5, [], {})
_BYTES = b'{}[]",:0129\\ u\xff\x00\xed\n+='


def damaged(target: Target, draw: random.Random) -> bytes:
    """Return one hostile input for `target`: half of them damaged trees where there are trees."""
    kind = draw.random()
    if kind < 0.04:
        return draw.randbytes(draw.randrange(200))
    if kind < 0.07 and target.bad:
        return draw.choice(target.bad)
    if target.wrap is not None and target.trees and kind < 0.55:
        tree = draw.choice(target.trees)
        for _ in range(draw.choice((1, 1, 1, 2, 4))):
            tree = _tree_damage(tree, draw)
        try:
            return target.wrap(tree, draw)
        except (msgspec.MsgspecError, UnicodeEncodeError, OverflowError, ValueError):
            return draw.randbytes(8)
    return _byte_damage(draw.choice(target.genuine), draw)


def _tree_damage(tree: Any, draw: random.Random) -> Any:
    """Return `tree` with one node changed; the path to it is copied, the rest shared."""
    if isinstance(tree, dict) and tree and draw.random() < 0.85:
        name = draw.choice(sorted(tree))
        made = dict(tree)
        match draw.randrange(8):
            case 0:
                del made[name]
            case 1:
                made[draw.choice((name + "x", "", "charter", "Z", "\uffff"))] = made[name]
            case 2:
                made[name] = made[draw.choice(sorted(tree))]
            case _:
                made[name] = _tree_damage(made[name], draw)
        return made
    if isinstance(tree, list) and tree and draw.random() < 0.85:
        at = draw.randrange(len(tree))
        row = list(tree)
        match draw.randrange(6):
            case 0:
                del row[at]
            case 1 if len(row) <= 64:
                row *= draw.choice((2, 70, 300))
            case 2:
                row[at] = row[-1 - at]
            case _:
                row[at] = _tree_damage(row[at], draw)
        return row
    return _other_leaf(tree, draw)


def _other_leaf(leaf: Any, draw: random.Random) -> Any:
    match draw.randrange(6):
        case 0:
            return draw.choice(_INTEGERS)
        case 1:
            return draw.choice(_LEAVES)
        case 2 if isinstance(leaf, str) and leaf:
            at = draw.randrange(len(leaf))
            return leaf[:at] + draw.choice("0fgZ \n\x00é/.-") + leaf[at + draw.randrange(2) :]
        case 3 if isinstance(leaf, int):
            return leaf + draw.choice((-1, 1, 2**20))
        case 4:
            return _deep(leaf, draw.choice((1, 3, 40)), draw.random() < 0.5)
        case _:
            return draw.choice(
                (digest("other"), "aare.example", "reuss.example", [leaf], {"a": leaf})
            )


def _deep(leaf: Any, depth: int, lists: bool) -> Any:
    for _ in range(depth):
        leaf = [leaf] if lists else {"a": leaf}
    return leaf


def _byte_damage(genuine: bytes, draw: random.Random) -> bytes:
    data = bytearray(genuine)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 8))):
        place = draw.randrange(len(data) + 1)
        match draw.randrange(9):
            case 0 if place < len(data):
                data[place] ^= 1 << draw.randrange(8)
            case 1 if place < len(data):
                data[place] = draw.choice(_BYTES)
            case 2:
                del data[place : place + draw.randrange(1, 40)]
            case 3:
                data[place:place] = data[place : place + draw.randrange(1, 60)]
            case 4:
                data[place:place] = draw.randbytes(draw.randrange(1, 12))
            case 5:
                del data[place:]
            case 6:
                width = draw.choice((2, 4, 8))
                data[:width] = (draw.choice(_INTEGERS) % (1 << 8 * width)).to_bytes(
                    width, draw.choice(("big", "little"))
                )
            case 7:
                at = draw.randrange(len(data) + 1)
                data[place:place] = data[at : at + 32]
            case _:
                data[place:place] = draw.choice(
                    (b"99999999999999999999", b"\n", b"\n\n", b" ", b"-")
                )
    return bytes(data)
