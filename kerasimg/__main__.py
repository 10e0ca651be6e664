"""`python -m kerasimg` and the `kerasimg` command."""

from __future__ import annotations

from kerasimg.cli import main

if __name__ == "__main__":
    main()
