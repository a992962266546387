"""Makes the phantom and the oracle of the evaluation's tests importable here, too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation"))
