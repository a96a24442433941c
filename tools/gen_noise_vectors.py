"""Write tests/vectors/v1/discrete_gaussian.json: draws that must never change.

Run: PYTHONPATH=src python tools/gen_noise_vectors.py OUTPUT
"""

import hashlib
import json
import sys
from pathlib import Path

from treaty.crypto.prg import Keystream
from treaty.privacy.sampler import DiscreteGaussian

COUNT = 50_000
VARIANCES = (1, 25, 1 << 20, 3 << 48, 1 << 80)


def main(output: Path) -> None:
    """Draw with keys derived from the variance and write digests."""
    rows = []
    for variance in VARIANCES:
        key = hashlib.sha256(f"treaty discrete gaussian {variance}".encode()).digest()
        values = DiscreteGaussian(variance, Keystream(key).fill).draw(COUNT)
        rows.append(
            {
                "key": key.hex(),
                "variance": f"{variance:x}",
                "count": COUNT,
                "first": [int(value) for value in values[:4]],
                "sha256": hashlib.sha256(values.astype("<i8").tobytes()).hexdigest(),
            }
        )
    document = {"format": "treaty-discrete-gaussian-v1", "draws": rows}
    output.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="ascii")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
