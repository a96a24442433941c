"""Write tests/architecture/public_names.txt: every name that a module declares in `__all__`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.architecture.sources import SNAPSHOT, public_names

if __name__ == "__main__":
    SNAPSHOT.write_text(public_names(), encoding="utf-8")
