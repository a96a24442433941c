"""A sum of vectors under CKKS by TenSEAL: one key for everybody, held by whoever may see the sum.

Run in TenSEAL's environment: python tenseal_ckks.py words clients out.json

Vectors go in blocks of the scheme's slots, sixteen at a time, so that no whole vector of
ciphertexts is in memory. A client encrypts and serialises every block; the server reads every
client's block and adds it up; the holder of the key decrypts the sum. The clients' blocks are
copies of one ciphertext, which costs the server the same. Parameters give 128 bits of security
for one addition depth: 4,096 slots.
"""

import json
import sys

import numpy as np
import tenseal
from meter import Meter

WORDS, CLIENTS = int(sys.argv[1]), int(sys.argv[2])
SLOTS = 4096
BLOCKS = 16


def main():
    """Run the sum, compare it with plain numbers and write the figures."""
    secret = tenseal.context(
        tenseal.SCHEME_TYPE.CKKS, poly_modulus_degree=2 * SLOTS, coeff_mod_bit_sizes=[60, 40, 60]
    )
    secret.global_scale = 2**40
    public = secret.copy()
    public.make_context_public()
    values = np.random.default_rng(1).uniform(-1, 1, WORDS)
    client = server = holder = 0.0
    held = [0.0, 0.0]
    upload, error = 0, 0.0
    for start in range(0, WORDS, SLOTS * BLOCKS):
        stop = min(start + SLOTS * BLOCKS, WORDS)
        blocks = [values[at : min(at + SLOTS, stop)] for at in range(start, stop, SLOTS)]
        with Meter() as meter:
            sent = [tenseal.ckks_vector(public, block).serialize() for block in blocks]
        client += meter.seconds
        held[0] = max(held[0], meter.mebibytes)
        upload += sum(map(len, sent))
        with Meter() as meter:
            answers = []
            for data in sent:
                total = tenseal.ckks_vector_from(public, data)
                for _ in range(CLIENTS - 1):
                    total += tenseal.ckks_vector_from(public, data)
                answers.append(total.serialize())
        server += meter.seconds
        held[1] = max(held[1], meter.mebibytes)
        with Meter() as meter:
            opened = [tenseal.ckks_vector_from(secret, data).decrypt() for data in answers]
        holder += meter.seconds
        for block, words in zip(blocks, opened, strict=True):
            error = max(error, float(np.abs(np.array(words) - CLIENTS * block).max()))
    if error > 1e-3:
        raise SystemExit(f"the sum differs by {error}")
    with open(sys.argv[3], "w") as file:
        json.dump(
            {
                "client_seconds": client,
                "client_mebibytes": held[0],
                "server_seconds": server,
                "server_mebibytes": held[1],
                "holder_seconds": holder,
                "upload": upload,
                "error": error,
            },
            file,
        )


if __name__ == "__main__":
    main()
