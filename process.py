#!/usr/bin/env python3
"""The door of the challenge: `sctlab_model.main`, started from a checkout or an image. `--help` says what it does."""

import sys

from sctlab_model.main import main

if __name__ == "__main__":
    sys.exit(main())
