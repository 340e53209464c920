"""`python -m torch_autokernel`."""

import sys

from torch_autokernel.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
