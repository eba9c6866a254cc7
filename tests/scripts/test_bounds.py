"""The lower bounds of pyproject.toml are versions that can be installed with the pinned ones, and are run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]


def requirements() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    return [Requirement(text) for text in named]


def test_every_bound_is_met_by_the_version_that_is_tested() -> None:
    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        name, separator, version = line.partition("==")
        if separator:
            pins[canonicalize_name(name)] = Version(version)
    for requirement in requirements():
        assert [specifier.operator for specifier in requirement.specifier] == [">="], requirement
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


def test_the_lowest_versions_are_run_by_the_public_ci() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "make test-lowest" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "--resolution lowest-direct" in makefile
    named = re.search(r"LOWEST_TESTS \?=((?:.|\\\n)+)\n\n", makefile)
    assert named is not None
    files = re.findall(r"tests/\S+\.py", named[1])
    assert len(files) >= 5
    for file in files:
        assert (ROOT / file).is_file(), file
    pinned = re.findall(r"torch==(\S+)", makefile)
    torch = next(requirement for requirement in requirements() if requirement.name == "torch")
    assert all(torch.specifier.contains(version) for version in pinned)
