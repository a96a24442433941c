"""Write requirements.lock from requirements.in and requirements-dev.in.

Every version comes with its hashes, the build backend included, and no index is named: where
the packages come from is the machine's setting, what they are is the lock's.
"""

import subprocess
import sys
from pathlib import Path

HEADER = """\
# Written by `make lock` from requirements.in and requirements-dev.in: do not edit.
# Install with `pip install --require-hashes -r requirements.lock`; torch is pinned elsewhere.
"""
OPTIONS = (
    "--quiet",
    "--generate-hashes",
    "--no-emit-index-url",
    "--no-emit-find-links",
    "--strip-extras",
    "--allow-unsafe",
    "--no-header",
    "--no-annotate",
)


def main() -> int:
    """Pin again, keeping the versions of the present lock where the bounds allow them."""
    lock = Path("requirements.lock")
    command = [sys.executable, "-m", "piptools", "compile", *OPTIONS, *sys.argv[1:]]
    status = subprocess.run([*command, "-o", str(lock), "requirements-dev.in"], check=False)
    if status.returncode == 0:
        pins = lock.read_text(encoding="utf-8").removeprefix(HEADER).lstrip("\n")
        lock.write_text(HEADER + pins, encoding="utf-8")
    return status.returncode


if __name__ == "__main__":
    sys.exit(main())
