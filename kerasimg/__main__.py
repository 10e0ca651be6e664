"""`python -m kerasimg` and the `kerasimg` command."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """The command line, `kerasimg.cli.main`; Ctrl-C while it is being loaded is none of its errors either."""
    try:
        from kerasimg import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()


if __name__ == "__main__":
    main()
