"""Makes the modules that these tests share importable: pytest's importlib mode leaves the folder out of the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
