#!/usr/bin/env python3
"""The door of the challenge: `sctlab_model.main`, started from a checkout or an image. `--help` says what it does."""

import os
import sys

from sctlab_model.errors import ExitCode
from sctlab_model.main import main

if __name__ == "__main__":
    code = main()
    if code in (ExitCode.BAD_INPUT, ExitCode.BAD_WEIGHTS):
        # Nothing came of it, and the thread that loads the weights may be importing PyTorch still: don't wait for it.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
