"""`bottega lora inspect`: a report for people or programs, and an exit code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bottega.cli.main import main

ROOT = Path(__file__).parents[2]
MODEL = "bottega:miniature/weights/sdxl"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A builder of the benchmark's files, for a few modules."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from common.lora_files import Builder

    yield Builder(tmp_path, ROOT / "src/bottega/miniature/weights", 0)
    sys.modules.pop("common.lora_files", None)


def test_a_file_that_fits_is_described_and_exits_with_0(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from common.lora_files import lora

    metadata = {"ss_output_name": "ink", "ss_base_model_version": "sdxl_base_v1-0"}
    case = files.add("ink", [lora(2, 1.0), lora(4, 2.0)], metadata=metadata)
    assert main(["lora", "inspect", str(case.file), "--model", MODEL]) == 0
    out = capsys.readouterr().out
    layers = len(files.attention())
    half, keys = layers // 2, 3 * layers  # up, down and alpha of each layer
    for line in (
        "made for       sdxl (it says 'sdxl_base_v1-0')",
        "layout         kohya",
        f"rank           2 ({half} ×), 4 ({half} ×)",
        f"fits           {keys} of {keys} keys match bottega:miniature/weights/sdxl (100.0%)",
    ):
        assert line in out.splitlines()


def test_a_file_that_does_not_fit_is_described_too_and_exits_with_2(
    files: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    from common.lora_files import lora

    case = files.add("ink", lora(2), where=[("unet", "conv_in")])
    assert main(["lora", "inspect", str(case.file), "--model", "bottega:miniature/weights/pixart", "--json"]) == 2
    out, err = capsys.readouterr()
    record = json.loads(out)
    assert record["share"] == 0
    assert record["problem"] in err
    assert err.startswith("bottega: error: ")
    assert err.count("\n") == 1


def test_a_pickle_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import pickle

    file = tmp_path / "lora.safetensors"
    file.write_bytes(pickle.dumps({"lora_unet_conv_in.alpha": np.ones(1)}))
    assert main(["lora", "inspect", str(file)]) == 2
    assert "it was not opened" in capsys.readouterr().err
