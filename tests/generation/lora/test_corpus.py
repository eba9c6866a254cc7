"""Every file of the corpus loads right or is refused with its reason, and no pickle runs."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def test_every_file_loads_right_or_is_refused_with_its_reason(
    corpus_module: ModuleType, cases: dict[str, Any], folder: Path
) -> None:
    world = corpus_module.open_world(live=False)
    wrong = {name: corpus_module.faults(case, world) for name, case in cases.items()}
    assert {name: found for name, found in wrong.items() if found} == {}
    assert not corpus_module.canary_path(folder).exists()


def test_the_corpus_has_many_files_of_both_kinds(cases: dict[str, Any]) -> None:
    counts = Counter(case.refused is None for case in cases.values())
    assert min(counts.values()) >= 60


@pytest.mark.parametrize(
    "name", ["kohya-mixed-ranks", "locon-tucker", "loha-tucker", "dora-kernels", "dora-mixed-ranks", "pixart-dora"]
)
def test_peft_applies_what_was_read(name: str, corpus_module: ModuleType, cases: dict[str, Any]) -> None:
    """The outputs of all layers are those of W + ΔW by the paper's formula; the benchmark does it for all files."""
    world = corpus_module.open_world()
    assert corpus_module.faults(cases[name], world) == []
