"""The benchmarks' weights by a formula, for tests: known answers were made with the same."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
try:
    from common import random_networks
finally:
    sys.path.pop(0)

__all__ = ["random_networks"]
