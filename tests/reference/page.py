"""The normative text of docs/spec/secagg.md, and its digest.

Run ``python -m tests.reference.page`` to print the digest, after reading the reference against the
changed sections; it belongs into `tests/reference/REVIEWED`.
"""

import hashlib
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "spec" / "secagg.md"
REVIEWED = Path(__file__).parent / "REVIEWED"
NORMATIVE = (1, 2, 3, 4, 5, 6, 8)


def normative_text(page: str) -> str:
    """Return the sections that the reference was written from, headings included."""
    parts = re.split(r"^## (?=\d+ )", page, flags=re.MULTILINE)[1:]
    by_number = {int(part.split(" ", 1)[0]): part.strip() for part in parts}
    return "\n\n".join(by_number[number] for number in NORMATIVE) + "\n"


def normative_digest(page: str) -> str:
    """Return the SHA-256 of the normative text."""
    return hashlib.sha256(normative_text(page).encode("utf-8")).hexdigest()


if __name__ == "__main__":
    print(normative_digest(PAGE.read_text(encoding="utf-8")))
