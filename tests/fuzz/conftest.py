"""Makes the modules of this folder importable by their names; they are `fuzz_*`, so that they meet no other."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
