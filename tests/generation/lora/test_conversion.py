"""Factors are exact, nobody's tensors are shared by mistake, and only computed numbers reach peft."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bottega.generation.lora import Architecture, LoRACache, read_lora, to_peft
from bottega.generation.lora.conversion import MAX_RANK, _cut_full, _cut_kron, _cut_product
from bottega.runtime.errors import RequestError, StorageError


def test_a_plain_lora_keeps_its_numbers_and_their_format(cases: dict[str, Any], sdxl: Architecture) -> None:
    for name, dtype in (("kohya-float16", torch.float16), ("kohya-bfloat16", torch.bfloat16)):
        weights = read_lora(cases[name].file, sdxl)
        factors = [own for modules in weights.components.values() for own in modules.values()]
        assert {own.down.dtype for own in factors} == {own.up.dtype for own in factors} == {dtype}
        assert {own.alpha for own in factors} == {3.0}


@pytest.mark.parametrize("kind", ["full", "product", "kron"])
def test_a_cut_is_the_best_of_its_rank_and_its_error_is_stated(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    if kind == "full":
        whole = draw(400, 300)
        pair = _cut_full(whole)
    elif kind == "product":
        up, down = draw(600, 280), draw(280, 500)
        whole, pair = up @ down, _cut_product(up, down)
    else:
        first, second = draw(12, 10), draw(40, 50)
        whole, pair = torch.kron(first, second), _cut_kron(first, second)
    values = torch.linalg.svdvals(whole.double())
    best = float((values[MAX_RANK:].square().sum() / values.square().sum()).sqrt())
    got = float((whole.double() - pair.up.double() @ pair.down.double()).norm() / whole.double().norm())
    assert pair.up.shape[1] == MAX_RANK
    assert got == pytest.approx(best, rel=1e-3)
    assert pair.error == pytest.approx(best, rel=1e-3)


def test_a_zero_change_stays_zero() -> None:
    pair = _cut_full(torch.zeros(300, 300))
    assert float((pair.up @ pair.down).abs().max()) == 0
    assert pair.error == 0


def test_peft_gets_copies(cases: dict[str, Any], sdxl: Architecture) -> None:
    """peft takes tensors as its own: changing an adapter changed the LoRA in memory."""
    weights = read_lora(cases["dora"].file, sdxl)
    before = {name: adapter.state_dict for name, adapter in to_peft(weights).items()}
    for adapter in to_peft(weights).values():
        for tensor in adapter.state_dict.values():
            tensor.zero_()
    for name, adapter in to_peft(weights).items():
        for key, tensor in adapter.state_dict.items():
            assert torch.equal(tensor, before[name][key])
            assert float(tensor.abs().max()) > 0


def test_only_computed_numbers_reach_pefts_configuration(cases: dict[str, Any], sdxl: Architecture) -> None:
    adapters = to_peft(read_lora(cases["diffusers-alpha-in-header"].file, sdxl))
    for component, adapter in adapters.items():
        assert set(adapter.arguments) == {
            "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_dora",
        }  # fmt: skip
        assert set(adapter.arguments["target_modules"]) <= set(sdxl.components[component])
        assert (adapter.arguments["r"], adapter.arguments["lora_alpha"]) == (4, 8.0)


def test_delta_is_found_by_component_and_module(cases: dict[str, Any], sdxl: Architecture) -> None:
    case = cases["loha-rank4"]
    weights = read_lora(case.file, sdxl)
    (component, module), expected = next(iter(case.deltas.items()))
    for delta in (weights.delta(f"{component}.{module}"), weights.delta(module, component)):
        assert delta.dtype == torch.float32
        assert np.abs(delta.numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


def test_a_cache_knows_a_file_by_its_content(cases: dict[str, Any], sdxl: Architecture, tmp_path: Path) -> None:
    cache = LoRACache()
    file = tmp_path / "a.safetensors"
    shutil.copy(cases["kohya-rank4"].file, file)
    first = cache.read(file, sdxl)
    assert cache.read(cases["kohya-rank4"].file, sdxl) is first
    shutil.copy(cases["kohya-rank1"].file, file)  # edited under the same name
    second = cache.read(file, sdxl)
    assert second is not first
    assert set(second.report.ranks) == {1}
    assert cache.nbytes == first.nbytes + second.nbytes


def test_a_cache_stays_within_its_bound(cases: dict[str, Any], sdxl: Architecture) -> None:
    one = read_lora(cases["kohya-rank4"].file, sdxl).nbytes
    cache = LoRACache(limit=int(1.5 * one))
    for name in ("kohya-rank4", "kohya-rank1", "kohya-rank16", "kohya-no-alpha"):
        cache.read(cases[name].file, sdxl)
        assert cache.nbytes <= 1.5 * one


def test_another_model_is_another_entry_and_is_judged_again(cases: dict[str, Any], sdxl: Architecture) -> None:
    cache = LoRACache()
    cache.read(cases["kohya-rank4"].file, sdxl)
    smaller = Architecture({name: shapes for name, shapes in sdxl.components.items() if name == "unet"})
    with pytest.raises(RequestError, match="keys match the model"):
        cache.read(cases["kohya-rank4"].file, smaller)


def test_a_configuration_beside_a_file_of_pefts_is_read_each_time(
    cases: dict[str, Any], sdxl: Architecture, tmp_path: Path
) -> None:
    """The scale stands there, and the file's own hash does not see it change."""
    folder = tmp_path / "adapter"
    shutil.copytree(cases["peft-config"].file.parent, folder)
    file, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    cache = LoRACache()
    module = "unet.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    before = cache.read(file, sdxl).delta(module)
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 24}))
    assert torch.equal(cache.read(file, sdxl).delta(module), 2 * before)
    config.write_text("{")
    with pytest.raises(RequestError, match="must hold a JSON object"):
        cache.read(file, sdxl)


def test_a_file_that_is_replaced_while_it_is_read_is_not_kept(
    cases: dict[str, Any], sdxl: Architecture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its factors would stand under the hash of the other file."""
    from bottega.generation.lora import conversion

    file = tmp_path / "a.safetensors"
    shutil.copy(cases["kohya-rank4"].file, file)
    examine = conversion.examine

    def replace_meanwhile(*arguments: Any, **options: Any) -> Any:
        found = examine(*arguments, **options)
        (tmp_path / "new").write_bytes(cases["kohya-alpha-zero"].file.read_bytes())
        (tmp_path / "new").replace(file)
        return found

    monkeypatch.setattr(conversion, "examine", replace_meanwhile)
    cache = LoRACache()
    with pytest.raises(StorageError, match="changed while it was read"):
        cache.read(file, sdxl)
    assert cache.nbytes == 0
