"""The teacher: SDXL with an IP-Adapter paints targets by a pinned protocol; every try is judged and entered in a
ledger.

The flow: `stage.run` → `runner.Runner` (moves chunks through its parts, see there) → `generator.Generator` or
`oracle.Oracle` (pictures). Afterwards: `summary`, `sheet`, `export`, and `regrade` or `recalibrate` by other limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bottega.runtime.lazy import importer

if TYPE_CHECKING:
    from bottega.teacher.config import Protocol, TeacherConfig
    from bottega.teacher.generator import Generator
    from bottega.teacher.items import Item, Settings
    from bottega.teacher.ledger import Ledger, TryRow
    from bottega.teacher.models import TeacherModels
    from bottega.teacher.oracle import Oracle

_HOMES = {
    "Protocol": "config",
    "TeacherConfig": "config",
    "Generator": "generator",
    "Item": "items",
    "Settings": "items",
    "Ledger": "ledger",
    "Oracle": "oracle",
    "TeacherModels": "models",
    "TryRow": "ledger",
}
__all__ = ["Generator", "Item", "Ledger", "Oracle", "Protocol", "Settings", "TeacherConfig", "TeacherModels", "TryRow"]

__getattr__ = importer(__name__, _HOMES)
