"""Public names of a package that are imported when they are first asked for.

Configurations are read by commands that compute nothing, such as `--help`: they must not wait for torch or OpenCV.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def importer(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package.

    Args:
        package: its `__name__`.
        homes: each public name and the module inside the package that it is in.
    """

    def import_name(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return import_name
