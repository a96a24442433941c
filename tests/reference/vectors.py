"""Known answers of secure aggregation, made by the reference: tests/vectors/v1/secagg.json.

Four members, threshold 3, two slots; member 3 drops out. Seeds are hashes of short texts, so that
anybody can make the file again. Run ``python -m tests.reference.vectors`` to write it; regenerating
changes nothing, and a test says so.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.reference import mlkem768
from tests.reference import secagg_reference as ref

PATH = Path(__file__).parents[1] / "vectors" / "v1" / "secagg.json"
MEMBERS, THRESHOLD, SLOT, EPOCH = (1, 2, 3, 4), 3, 1, 7
DROPPED, LENGTH = 3, 65_538
NAMES = tuple(f"m{index:02d}" for index in MEMBERS)


def tag(text: str) -> bytes:
    """Return 32 bytes that stand for something."""
    return hashlib.sha256(text.encode()).digest()


def vector(member: int, bits: int) -> list[int]:
    """Return a member's vector: word t is t * 2654435761 * member, modulo 2^bits."""
    return [t * 2_654_435_761 * member % 2**bits for t in range(LENGTH)]


def made() -> dict[str, Any]:
    """Return the whole file."""
    charter = tag("charter")
    seeds = {i: tag(f"seed {i}") for i in MEMBERS}
    secrets = {i: ref.Secrets(seeds[i], charter, EPOCH, i) for i in MEMBERS}
    digests = [tag(f"keys {i}") for i in MEMBERS]
    roster = ref.epoch_hash(charter, EPOCH, digests)
    opening = ref.Opening(
        SLOT,
        5,
        2,
        NAMES,
        *(tag(t) for t in ("plan", "query", "code", "model")),
        LENGTH,
        32,
        tag("previous"),
    )
    context = opening.context(charter, roster)
    classical = {}
    hybrid: dict[tuple[int, int], bytes] = {}
    ciphertexts = {}
    for i in MEMBERS:
        for j in MEMBERS:
            if i == j:
                continue
            mine = ref.x25519(secrets[i].transport(), ref.BASE)
            theirs = ref.x25519(secrets[j].transport(), ref.BASE)
            shared = ref.x25519(secrets[i].transport(), theirs)
            classical[i, j] = ref.transport_secret(roster, shared)
            public = secrets[j].kem_keys()[0]
            secret, ciphertext = mlkem768.encapsulate(public, tag(f"coins {i} {j}"))
            low, high = (mine, theirs) if i < j else (theirs, mine)
            hybrid[i, j] = ref.transport_secret(
                roster, shared, secret, ciphertext, public, low, high
            )
            ciphertexts[i, j] = ciphertext
    q = {
        (i, j): ref.pair_seed(hybrid[min(i, j), max(i, j)], hybrid[max(i, j), min(i, j)], SLOT)
        for i in MEMBERS
        for j in MEMBERS
        if i != j
    }
    rows = {i: [q[i, j] for j in MEMBERS if j != i] for i in MEMBERS}
    shares = {i: {j: secrets[i].shares_for(j, SLOT, THRESHOLD) for j in MEMBERS} for i in MEMBERS}

    def pair(i: int, j: int, suite: str) -> bytes:
        seed = q[i, j] if suite == "hybrid" else None
        return ref.pair_key(
            secrets[i].rsk(SLOT), secrets[j].round_key(SLOT), seed, roster, context, i, j
        )

    rounds = {}
    for suite, bits in (("classical", 16), ("classical", 32), ("hybrid", 64)):
        masked = {
            i: ref.masked(
                vector(i, bits),
                bits,
                ref.self_key(secrets[i].z(SLOT), context),
                {j: pair(i, j, suite) for j in MEMBERS if j != i},
                i,
            )
            for i in MEMBERS
        }
        inside = {i: words for i, words in masked.items() if i != DROPPED}
        total = ref.opened_sum(
            inside,
            bits,
            {i: ref.self_key(secrets[i].z(SLOT), context) for i in inside},
            {(DROPPED, i): pair(DROPPED, i, suite) for i in inside},
        )
        assert total == [
            sum(column) % 2**bits for column in zip(*(vector(i, bits) for i in inside), strict=True)
        ]
        roots = {i: ref.root(words, bits) for i, words in masked.items()}
        rounds[f"{suite} {bits}"] = {
            "suite": suite,
            "ring_bits": bits,
            "masked_words_65534_to_65537": {str(i): w[-4:] for i, w in masked.items()},
            "chunk_hashes": {
                str(i): [
                    hashlib.sha256(ref.vector_bytes(part, bits)).hexdigest()
                    for part in (w[: ref.CHUNK_WORDS], w[ref.CHUNK_WORDS :])
                ]
                for i, w in masked.items()
            },
            "roots": {str(i): one.hex() for i, one in roots.items()},
            "blobs": {
                str(i): hashlib.sha256(ref.vector_bytes(w, bits)).hexdigest()
                for i, w in masked.items()
            },
            "survivors_digest": ref.survivors_digest(
                context, [(i, roots[i]) for i in inside]
            ).hex(),
            "sum": hashlib.sha256(ref.vector_bytes(total, bits)).hexdigest(),
        }
    key = tag("a mask key")
    return {
        "members": list(NAMES),
        "share_threshold": THRESHOLD,
        "epoch": EPOCH,
        "slot": SLOT,
        "charter": charter.hex(),
        "seeds": {str(i): one.hex() for i, one in seeds.items()},
        "key_digests": [one.hex() for one in digests],
        "epoch_hash": roster.hex(),
        "keys": {
            str(i): {
                "transport_secret": one.transport().hex(),
                "transport": ref.x25519(one.transport(), ref.BASE).hex(),
                "kem_sha256": hashlib.sha256(one.kem_keys()[0]).hexdigest(),
                "round_seed": ref.element(one.u(SLOT)).hex(),
                "self_seed": ref.element(one.z(SLOT)).hex(),
                "rsk": one.rsk(SLOT).hex(),
                "round_key": one.round_key(SLOT).hex(),
                "commitment": one.commitment(SLOT).hex(),
            }
            for i, one in secrets.items()
        },
        "shares": {
            str(i): {str(j): [ref.element(x).hex() for x in pair] for j, pair in row.items()}
            for i, row in shares.items()
        },
        "columns": {
            "transport_1_to_2": classical[1, 2].hex(),
            "share_key_1_to_2": ref.share_key(classical[1, 2], 1, 2, SLOT).hex(),
            "sealed_1_to_2": ref.sealed_share(
                classical[1, 2], roster, 1, 2, SLOT, *shares[1][2]
            ).hex(),
            "hybrid_ciphertext_1_to_2": ciphertexts[1, 2].hex(),
            "hybrid_transport_1_to_2": hybrid[1, 2].hex(),
            "hybrid_transport_2_to_1": hybrid[2, 1].hex(),
            "hybrid_sealed_1_to_2": ref.sealed_share(
                hybrid[1, 2], roster, 1, 2, SLOT, *shares[1][2]
            ).hex(),
        },
        "post_quantum": {
            "pair_seed_1_2": q[1, 2].hex(),
            "row_of_1": [one.hex() for one in rows[1]],
            "wrap_of_1": ref.wrap(secrets[1].u(SLOT), roster, 1, SLOT, rows[1]).hex(),
            "commitment_of_1": ref.pair_commitment(roster, 1, SLOT, rows[1]).hex(),
        },
        "opening": {
            "slot": SLOT,
            "round": 5,
            "attempt": 2,
            "participants": list(NAMES),
            "length": LENGTH,
            "ring_bits": 32,
            **{name: tag(name).hex() for name in ("plan", "query", "code", "model", "previous")},
        },
        "context": context.hex(),
        "self_key_1": ref.self_key(secrets[1].z(SLOT), context).hex(),
        "pair_key_1_2": pair(1, 2, "classical").hex(),
        "pair_key_2_1": pair(2, 1, "classical").hex(),
        "hybrid_pair_key_1_2": pair(1, 2, "hybrid").hex(),
        "rounds": rounds,
        "keystream": {
            "key": key.hex(),
            "words": {
                str(bits): {
                    str(at): ref.mask(key, bits, at, 3)
                    for at in (0, 65_535, 65_536, 131_073, 100_000_000)
                }
                for bits in (16, 32, 64)
            },
        },
    }


def encoded() -> str:
    """Return the file's text."""
    return json.dumps(made(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(encoded(), encoding="utf-8")
