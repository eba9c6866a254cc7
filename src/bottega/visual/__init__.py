"""Everything that draws: pictures from tensors, contact sheets, curves, pages."""

from __future__ import annotations

__all__: list[str] = []
