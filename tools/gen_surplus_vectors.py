"""Write tests/vectors/v1/surplus_noise.json: parts of shares, their keys, commitments and noise.

Made from docs/spec/privacy.md, 9.7 and 9.16, a second time: whole numbers, hashlib and hmac. Only
the draws are the product's, which `discrete_gaussian.json` freezes.

Run: PYTHONPATH=src python tools/gen_surplus_vectors.py OUTPUT
"""

import hashlib
import hmac
import json
import sys
from itertools import pairwise
from pathlib import Path

from treaty.crypto.prg import Keystream
from treaty.privacy.sampler import DiscreteGaussian

LEAST = 1 << 20
COHORTS = ((3, 3, 1), (4, 3, 1), (5, 4, 2), (7, 5, 1), (10, 6, 1), (25, 14, 1), (100, 67, 33))
VARIANCES = ((1 << 50) + 12345, 40 << 20)
ENTROPY = hashlib.sha256(b"treaty surplus noise").digest()
QUERY = hashlib.sha256(b"treaty surplus query").digest()
WORDS = 5


def enc(*fields: bytes | str | int) -> bytes:
    """Each field with its length in front, as formats.md, section 5."""
    out = b""
    for field in fields:
        data = field.encode() if isinstance(field, str) else field
        data = data.to_bytes(8, "big") if isinstance(data, int) else data
        out += len(data).to_bytes(4, "big") + data
    return out


def derived(key: bytes, label: str, *fields: int) -> bytes:
    """KDF of the page."""
    return hmac.digest(key, enc("cesa/1", label, *fields) + b"\x01", "sha256")


def tiers(
    variance: int, members: int, least: int, colluders: int, parts: int
) -> list[tuple[int, int]]:
    """9.16.1: numbers of survivors, and what a site retains from each on."""
    few, many = least - colluders, members - colluders
    if members - least <= parts:
        counts = list(range(few + 1, many + 1))
    else:
        counts = []
        for i in range(1, parts + 1):
            x = few
            while (x + 1) ** parts <= few ** (parts - i) * many**i:
                x += 1
            counts.append(x)
    found = [(least, -(-variance // few))]
    for x in counts:
        share = -(-variance // x)
        if x + colluders > found[-1][0] and min(share, found[-1][1] - share) >= LEAST:
            found.append((x + colluders, share))
    return found


def main(output: Path) -> None:
    """Write the file."""
    rows = []
    for members, least, colluders in COHORTS:
        for variance in VARIANCES:
            if variance < (least - colluders) * LEAST:
                continue
            for parts in range(5):
                found = tiers(variance, members, least, colluders, parts)
                rows.append(
                    {
                        "members": members,
                        "min_survivors": least,
                        "max_colluders": colluders,
                        "variance": f"{variance:x}",
                        "parts": parts,
                        "survivors": [count for count, _ in found],
                        "retained": [f"{share:x}" for _, share in found],
                    }
                )
    keys = [derived(ENTROPY, "surplus-key", i) for i in range(4)]
    commitments = [
        hashlib.sha256(enc("cesa/1", "noise-commitment", QUERY, key)).hexdigest() for key in keys
    ]
    shares = [share for _, share in tiers(VARIANCES[0], 10, 6, 1, 4)]
    differences = [a - b for a, b in pairwise(shares)]
    drawn = [
        DiscreteGaussian(variance, Keystream(key).fill).draw(WORDS)
        for variance, key in zip(differences, keys, strict=True)
    ]
    document = {
        "format": "treaty-surplus-noise-v1",
        "tiers": rows,
        "keys": {
            "entropy": ENTROPY.hex(),
            "query": QUERY.hex(),
            "base": derived(ENTROPY, "noise-key").hex(),
            "parts": [key.hex() for key in keys],
            "commitments": commitments,
        },
        # Of ten members, at least six in a sum, one colluding: all four parts together.
        "taken_off": [int(sum(values)) for values in zip(*drawn, strict=True)],
    }
    output.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
