"""What each package says is public: it has a docstring and `__all__`, every name is there, and none appears unnoticed.

`public_names.txt` is the list. A changed one is a changed interface: say so in the changelog, and write it again with
`python tests/test_public_names.py`.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import bottega

LIST = Path(__file__).with_name("public_names.txt")
ROOT = Path(bottega.__file__).parent
PACKAGES = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


def public_names() -> list[str]:
    """`package.name` of every public name."""
    names = []
    for package in PACKAGES:
        module = importlib.import_module(f"bottega.{package}")
        names += [f"{package}.{name}" for name in sorted(module.__all__)]
    return names


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_is_for_and_what_is_public(package: str) -> None:
    module = importlib.import_module(f"bottega.{package}")
    assert module.__doc__
    assert module.__doc__.strip()
    assert len(set(module.__all__)) == len(module.__all__) > 0


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_there_and_means_one_thing(package: str) -> None:
    """A function named as its module would be the one or the other by what was imported before."""
    module = importlib.import_module(f"bottega.{package}")
    for name in module.__all__:
        if (ROOT / package / f"{name}.py").exists() or (ROOT / package / name / "__init__.py").exists():
            importlib.import_module(f"bottega.{package}.{name}")
            assert name not in getattr(module, "_HOMES", {}), f"bottega.{package}.{name}: the module hides it later"
            assert isinstance(getattr(module, name), ModuleType), (
                f"bottega.{package}.{name} is a module and something else"
            )
        assert getattr(module, name) is not None


def test_the_public_names_are_those_of_the_list() -> None:
    listed = LIST.read_text(encoding="utf-8").splitlines()
    now = public_names()
    assert sorted(set(now) - set(listed)) == [], "new: write public_names.txt again"
    assert sorted(set(listed) - set(now)) == [], "gone: say so in the changelog, write public_names.txt again"


def test_no_package_loads_torch_to_say_what_is_public() -> None:
    words = "; ".join(f"import bottega.{package}" for package in PACKAGES)
    check = f"import sys; {words}; print(*sorted({{'torch', 'cv2', 'diffusers', 'transformers'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


if __name__ == "__main__":
    LIST.write_text("\n".join(public_names()) + "\n", encoding="utf-8")
