"""LoRAs are a desired state: whatever is asked and whatever fails, the model is what it should be, to the bit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.generation.conftest import settings

from bottega.generation.engine import Pixels, SDXLEngine
from bottega.generation.lora.layers import AdaptedModel, checksum
from bottega.generation.lora.manager import LoRAManager, TaintedError
from bottega.generation.records import LoRASpec
from bottega.runtime.errors import RequestError, WorkError
from bottega.runtime.memory import rss_mb

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")


def spec(file: Path, weight: float = 1.0, **parts: float) -> LoRASpec:
    return LoRASpec(path=file, weight=weight, **parts)


def picture(engine: SDXLEngine, *specs: LoRASpec) -> Pixels:
    return engine.draw(settings(), specs).pixels[0]


def layers_left(engine: SDXLEngine) -> int:
    from peft.tuners.tuners_utils import BaseTunerLayer

    count = 0
    for name in COMPONENTS:
        count += sum(isinstance(module, BaseTunerLayer) for module in engine.modules.parts[name].modules())
    return count


@pytest.fixture
def base(engine: SDXLEngine) -> Iterator[Pixels]:
    """The picture without LoRAs; after the test it must be drawn again, to the bit."""
    sums = {name: checksum(engine.modules.parts[name]) for name in COMPONENTS}
    drawn = picture(engine)
    yield drawn
    engine.loras.clear()
    assert layers_left(engine) == 0
    assert {name: checksum(engine.modules.parts[name]) for name in COMPONENTS} == sums
    assert np.array_equal(picture(engine), drawn)


def test_one_lora_after_another_needs_no_new_name_and_leaves_nothing(
    engine: SDXLEngine, base: Pixels, lora_files: list[Path]
) -> None:
    first = picture(engine, spec(lora_files[0]))
    second = picture(engine, spec(lora_files[1]))
    assert not np.array_equal(first, base)
    assert not np.array_equal(second, first)
    assert np.array_equal(picture(engine, spec(lora_files[0])), first)  # nothing of the second is left


def test_several_are_at_work_at_once_each_with_its_weight(
    engine: SDXLEngine, base: Pixels, lora_files: list[Path]
) -> None:
    both = picture(engine, spec(lora_files[0], 0.5), spec(lora_files[1], 0.5))
    only = picture(engine, spec(lora_files[0], 0.5))
    assert not np.array_equal(both, only)
    assert np.array_equal(picture(engine, spec(lora_files[0], 0.5), spec(lora_files[1], 0.0)), only)
    assert np.array_equal(picture(engine, spec(lora_files[0], 0.0)), base)


def test_the_same_set_is_the_same_to_the_bit_whatever_was_loaded_before(
    engine: SDXLEngine, base: Pixels, lora_files: list[Path]
) -> None:
    first, second = spec(lora_files[0]), spec(lora_files[1])
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))

    def output(*sets: list[LoRASpec]) -> torch.Tensor:
        engine.loras.clear()
        for each in sets:
            engine.loras.apply(each)
        unet = engine.modules.network
        layer = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn2.to_k")
        return layer(x)  # type: ignore[no-any-return]

    at_once = output([first, second])
    assert torch.equal(output([second], [first, second]), at_once)
    assert torch.equal(output([second, first], [first, second]), at_once)
    assert not torch.equal(output([second, first]), at_once)  # the order of the request counts, and is kept


def test_the_change_is_the_factors_times_weight_in_each_component(
    engine: SDXLEngine, base: Pixels, lora_files: list[Path]
) -> None:
    """Each layer's output differs by x ΔWᵀ, computed here from the file."""
    engine.loras.apply([spec(lora_files[0], 0.5, text_encoder=-2.0)])
    tensors = load_file(lora_files[0])
    expected_weights = {"unet": 0.5, "text_encoder": -2.0, "text_encoder_2": 0.5}
    checked = set()
    for key, down in tensors.items():
        if not key.endswith(".lora_A.weight"):
            continue
        component, _, path = key.removesuffix(".lora_A.weight").partition(".")
        up = tensors[key.replace("lora_A", "lora_B")]
        layer = engine.modules.parts[component].get_submodule(path)
        x = torch.randn(2, down.shape[1], generator=torch.Generator().manual_seed(0))
        change = layer(x) - layer.base_layer(x)
        assert torch.allclose(change, expected_weights[component] * x @ (up @ down).T, atol=1e-4)
        checked.add(component)
    assert checked == set(COMPONENTS)


def test_a_weight_changes_without_loading_anything_again(
    engine: SDXLEngine, base: Pixels, lora_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    strong = picture(engine, spec(lora_files[0], 1.0))
    monkeypatch.setattr(AdaptedModel, "attach", _fail)
    weak = picture(engine, spec(lora_files[0], 0.25))
    assert not np.array_equal(weak, strong)
    assert np.array_equal(picture(engine, spec(lora_files[0], 1.0)), strong)


def _fail(*_: Any, **__: Any) -> None:
    raise RuntimeError("injected")


def _fails_once(attach: Any) -> Any:
    """`attach` that fails at its first call; the way back needs the others."""
    calls: list[int] = []

    def wrapper(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("injected")
        attach(*args)

    return wrapper


@pytest.mark.parametrize("component", COMPONENTS)
@pytest.mark.parametrize("error", [RuntimeError("injected"), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_failure_in_any_component_takes_everything_back(
    engine: SDXLEngine,
    base: Pixels,
    lora_files: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    component: str,
    error: Exception,
) -> None:
    good = picture(engine, spec(lora_files[0], 0.7))
    attach = AdaptedModel.attach
    broken = engine.loras.components[component]

    def fails_after_a_few_modules(model: AdaptedModel, name: str, prepared: Any, weight: float) -> None:
        attach(model, name, prepared, weight)
        if model is broken and model.adapters().get(name) and len(model.adapters()) > 1:
            raise error

    monkeypatch.setattr(AdaptedModel, "attach", fails_after_a_few_modules)
    with pytest.raises(WorkError, match="back at those before"):
        engine.loras.apply([spec(lora_files[0], 0.7), spec(lora_files[1], 0.5)])
    monkeypatch.undo()
    assert [use.name for use in engine.loras.loaded] == ["random0"]
    assert np.array_equal(picture(engine, spec(lora_files[0], 0.7)), good)
    both = picture(engine, spec(lora_files[0], 0.7), spec(lora_files[1], 0.5))  # and it can be tried again
    assert not np.array_equal(both, good)


def test_a_file_that_is_refused_does_not_touch_the_model(
    engine: SDXLEngine, base: Pixels, lora_files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = picture(engine, spec(lora_files[0]))
    broken = load_file(lora_files[1])
    first = next(iter(broken))
    broken[first] = broken[first] * torch.nan
    save_file(broken, tmp_path / "nan.safetensors")
    monkeypatch.setattr(AdaptedModel, "attach", _fail)
    with pytest.raises(RequestError, match=r"nan\.safetensors"):
        engine.loras.apply([spec(lora_files[0]), spec(tmp_path / "nan.safetensors")])
    assert np.array_equal(picture(engine, spec(lora_files[0])), good)


def test_the_same_content_twice_is_refused(engine: SDXLEngine, lora_files: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(lora_files[0].read_bytes())
    with pytest.raises(RequestError, match="may be named once"):
        engine.loras.apply([spec(lora_files[0]), spec(copy)])


def test_an_edited_file_of_the_same_name_is_another_lora(
    engine: SDXLEngine, base: Pixels, lora_files: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(lora_files[0].read_bytes())
    before = picture(engine, spec(file))
    file.write_bytes(lora_files[1].read_bytes())
    after = picture(engine, spec(file))
    assert np.array_equal(before, picture(engine, spec(lora_files[0])))
    assert np.array_equal(after, picture(engine, spec(lora_files[1])))


def test_a_model_that_cannot_be_brought_back_says_so_and_draws_no_more(
    lora_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bottega.generation.modules import load_modules

    engine = SDXLEngine(load_modules("bottega:miniature/weights/sdxl", device="cpu"))
    engine.loras.apply([spec(lora_files[0])])
    monkeypatch.setattr(AdaptedModel, "attach", _fail)
    with pytest.raises(TaintedError, match="could not be brought back"):
        engine.loras.apply([spec(lora_files[1])])
    monkeypatch.undo()
    with pytest.raises(TaintedError, match="load it again"):
        engine.draw(settings())


def test_changed_base_weights_are_found_and_the_model_refuses_to_draw(lora_files: list[Path]) -> None:
    from bottega.generation.modules import load_modules

    engine = SDXLEngine(load_modules("bottega:miniature/weights/sdxl", device="cpu"))
    engine.loras.apply([spec(lora_files[0])])
    weight = engine.modules.network.conv_in.weight
    weight.view(-1)[7] = weight.view(-1)[7].nextafter(torch.tensor(9.0))  # the smallest change there is
    with pytest.raises(TaintedError, match="unet"):
        engine.loras.clear()
    with pytest.raises(TaintedError, match="load it again"):
        engine.draw(settings())


def test_two_threads_with_different_sets_get_what_they_get_alone(
    engine: SDXLEngine, base: Pixels, lora_files: list[Path]
) -> None:
    sets = [(spec(lora_files[0]),), (spec(lora_files[1], 0.6), spec(lora_files[3])), ()]
    alone = [picture(engine, *each) for each in sets]
    drawn: list[list[Pixels]] = [[], [], []]

    def draw(place: int) -> None:
        for _ in range(3):
            drawn[place].append(picture(engine, *sets[place]))

    threads = [threading.Thread(target=draw, args=(place,)) for place in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, pictures in enumerate(drawn):
        assert len(pictures) == 3
        assert all(np.array_equal(each, alone[place]) for each in pictures)


def test_a_random_sequence_of_swaps_and_failures_ends_in_the_base(
    engine: SDXLEngine, base: Pixels, lora_files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty steps; the benchmark lora_sequences runs 300 sequences."""
    rng = np.random.default_rng(5)
    known: dict[tuple[int, ...], Pixels] = {}
    attach = AdaptedModel.attach
    for _ in range(20):
        chosen = tuple(sorted(int(i) for i in rng.choice(4, size=int(rng.integers(0, 4)), replace=False)))
        specs = [spec(lora_files[i], 0.5) for i in chosen]
        fails = rng.random() < 0.3
        if fails:
            monkeypatch.setattr(AdaptedModel, "attach", _fails_once(attach))
        try:
            engine.loras.apply(specs)
        except WorkError:
            assert fails
            assert not engine.loras.tainted
            continue
        finally:
            monkeypatch.setattr(AdaptedModel, "attach", attach)
        drawn = picture(engine, *specs)
        assert np.array_equal(known.setdefault(chosen, drawn), drawn)


def test_swapping_does_not_grow_in_memory(engine: SDXLEngine, base: Pixels, lora_files: list[Path]) -> None:
    for number in range(8):
        engine.loras.apply([spec(lora_files[number % 2])])
    before = rss_mb()
    for number in range(60):
        engine.loras.apply([spec(lora_files[number % 2])])
    assert rss_mb() - before < 20


def test_names_in_the_model_are_of_one_width_without_dots(lora_files: list[Path], engine: SDXLEngine) -> None:
    manager: LoRAManager = engine.loras
    names = []
    for file in lora_files[:2]:
        manager.apply([spec(file)])
        names += list(manager.components["unet"].adapters())
    manager.clear()
    assert len(set(names)) == 2
    assert len({len(name) for name in names}) == 1
    assert not any("." in name for name in names)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, -0.5])
def test_a_dora_goes_its_weight_of_the_way_from_the_model_to_the_whole_result(
    engine: SDXLEngine, base: Pixels, tmp_path: Path, weight: float
) -> None:
    """W' = W + weight · (m (W + ΔW) / ‖W + ΔW‖ − W), row by row (arXiv 2402.09353), for linear and convolution."""
    unet = engine.modules.network
    generator = torch.Generator().manual_seed(1)
    names = [
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
        "down_blocks.0.resnets.0.conv1",
    ]
    tensors: dict[str, torch.Tensor] = {}
    expected: dict[str, torch.Tensor] = {}
    for name in names:
        original = unet.get_submodule(name).weight.detach().clone()
        down = torch.randn(2, *original.shape[1:], generator=generator) * 0.2
        up = torch.randn(original.shape[0], 2, *[1] * (original.ndim - 2), generator=generator) * 0.2
        magnitude = original.flatten(1).norm(dim=1) * (0.5 + torch.rand(original.shape[0], generator=generator))
        prefix = "lora_unet_" + name.replace(".", "_")
        tensors[f"{prefix}.lora_down.weight"] = down
        tensors[f"{prefix}.lora_up.weight"] = up
        tensors[f"{prefix}.alpha"] = torch.tensor(1.0)
        tensors[f"{prefix}.dora_scale"] = magnitude.view(-1, *[1] * (original.ndim - 1))
        changed = original + 0.5 * (up.flatten(1) @ down.flatten(1)).view_as(original)
        rows = changed.flatten(1)
        whole = (magnitude[:, None] * rows / rows.norm(dim=1, keepdim=True)).view_as(original)
        expected[name] = original + weight * (whole - original)
    save_file(tensors, tmp_path / "dora.safetensors")
    engine.loras.apply([spec(tmp_path / "dora.safetensors", weight)])
    for name, weights in expected.items():
        layer = unet.get_submodule(name)
        plain = layer.get_base_layer()
        x = torch.randn(2, weights.shape[1], *[8] * (weights.ndim - 2), generator=generator)
        if weights.ndim == 2:
            wanted = torch.nn.functional.linear(x, weights, plain.bias)
        else:
            wanted = torch.nn.functional.conv2d(x, weights, plain.bias, plain.stride, plain.padding)
        assert torch.allclose(layer(x), wanted, atol=2e-5)


def test_a_dora_beside_a_lora_and_out_again(
    engine: SDXLEngine, base: Pixels, lora_files: list[Path], tmp_path: Path
) -> None:
    tensors = load_file(lora_files[3])
    with_magnitudes = dict(tensors)
    for key in tensors:
        if key.endswith("lora_A.weight"):
            path = key.removeprefix("unet.").removesuffix(".lora_A.weight")
            lengths = engine.modules.network.get_submodule(path).weight.norm(dim=1)
            with_magnitudes[key.replace("lora_A.weight", "lora_magnitude_vector")] = lengths * 1.1
    save_file(with_magnitudes, tmp_path / "dora.safetensors")
    dora = spec(tmp_path / "dora.safetensors", 0.5)
    only_lora = picture(engine, spec(lora_files[0], 0.5))
    both = picture(engine, spec(lora_files[0], 0.5), dora)
    assert not np.array_equal(both, only_lora)
    assert np.array_equal(picture(engine, spec(lora_files[0], 0.5)), only_lora)
