"""Makes the helpers under ``tests/programs`` importable from every test."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "programs"))
