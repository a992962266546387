"""Entry point of training in the image: the same as `sctlab train`."""

import sys

from sctlab.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
