"""bottega: distil a style-transfer teacher into a small adapter, and see, graded, every step of it.

The command line is `bottega` (`bottega --help`). This package stays light on import: torch and the model libraries are
loaded by the modules that need them.
"""

from __future__ import annotations

__version__ = "0.1.0"
