"""`python -m bottega` is the same as `bottega`."""

from __future__ import annotations

from bottega.cli.main import entry

if __name__ == "__main__":
    entry()
