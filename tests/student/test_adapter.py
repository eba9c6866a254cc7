"""The adapter in a stock transformer: exact where it must be nothing, alive where it must learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import PixArtTransformer2DModel

from bottega.diffusion.schedule import from_scheduler_config
from bottega.runtime.errors import RequestError
from bottega.student.adapter import Geometry, StyleAdapter, coord_width, resolve_layers, token_coord_features
from bottega.student.attach import Attachment, attached
from bottega.student.backbone import Backbone
from bottega.student.config import AdapterConfig
from bottega.student.memory import saved_bytes

from .reference import forward

Make = Callable[..., StyleAdapter]
Inputs = dict[str, torch.Tensor]
COMMON = ("latents", "timesteps", "text", "mask")


def stock(transformer: PixArtTransformer2DModel, inputs: Inputs, **more: Any) -> torch.Tensor:
    """The transformer's own forward: the oracle."""
    with torch.no_grad():
        return transformer(
            inputs["latents"],
            encoder_hidden_states=inputs["text"],
            encoder_attention_mask=inputs["mask"],
            timestep=inputs["timesteps"],
            added_cond_kwargs=more.get("added", {"resolution": None, "aspect_ratio": None}),
        ).sample


def tokens_of(adapter: StyleAdapter, inputs: Inputs) -> torch.Tensor:
    return adapter.style(inputs["style"], inputs["style_content"], inputs["dropped"])[0]


def run(backbone: Backbone, adapter: StyleAdapter | None, inputs: Inputs, **more: Any) -> torch.Tensor:
    tokens = None if adapter is None else tokens_of(adapter, inputs)
    return forward(backbone, adapter, *(inputs[name] for name in COMMON), tokens, inputs["content"], **more)


@pytest.mark.parametrize("split", [0, 2, 5, 6])
def test_driving_the_parts_equals_the_stock_forward_to_the_bit(backbone: Backbone, inputs: Inputs, split: int) -> None:
    state = backbone.prefix(*(inputs[name] for name in COMMON), split)
    with torch.no_grad():
        ours = backbone.suffix(state, None)
    assert float((ours - stock(backbone.transformer, inputs)).abs().max()) == 0.0


@pytest.mark.parametrize("sample_size", [8, 128])
def test_size_conditions_are_passed_as_the_models_configuration_wants_them(
    make_transformer: Callable[..., PixArtTransformer2DModel], inputs: Inputs, sample_size: int
) -> None:
    transformer = make_transformer(sample_size=sample_size, num_layers=1)
    backbone = Backbone(transformer, from_scheduler_config({}), 8)
    added = {"resolution": torch.full((3, 2), 64.0), "aspect_ratio": torch.ones(3, 1)}
    oracle = stock(
        transformer, inputs, added=added if sample_size == 128 else {"resolution": None, "aspect_ratio": None}
    )
    assert transformer.use_additional_conditions == (sample_size == 128)
    assert float((run(backbone, None, inputs) - oracle).abs().max()) == 0.0


@pytest.mark.parametrize("mode", ["sdedit", "paired", "latent"])
@pytest.mark.parametrize("layers", [1, 4, "all", (1, 3)])
def test_gates_of_zero_give_the_base_picture_to_the_bit(
    backbone: Backbone, make_adapter: Make, inputs: Inputs, mode: str, layers: Any
) -> None:
    adapter = make_adapter(content_mode=mode, layers=layers)
    for layer in adapter.layers:
        torch.nn.init.zeros_(layer.gate)
    with torch.no_grad():
        assert float((run(backbone, adapter, inputs) - stock(backbone.transformer, inputs)).abs().max()) == 0.0


def test_a_style_scale_of_zero_gives_the_base_picture_whatever_was_learned(
    backbone: Backbone, make_adapter: Make, inputs: Inputs
) -> None:
    adapter = make_adapter(content_mode="latent", initial_gate=1.0)
    torch.nn.init.ones_(adapter.content.out.weight)  # type: ignore[union-attr]
    with torch.no_grad():
        drawn = run(backbone, adapter, inputs, style_scale=0.0)
    assert float((drawn - stock(backbone.transformer, inputs)).abs().max()) == 0.0


def test_an_open_gate_changes_the_picture_and_another_style_changes_it_otherwise(
    backbone: Backbone, make_adapter: Make, inputs: Inputs
) -> None:
    adapter = make_adapter(initial_gate=1.0)
    with torch.no_grad():
        one = run(backbone, adapter, inputs)
        other = run(backbone, adapter, {**inputs, "style": inputs["style"].roll(1, 0)})
    assert float((one - stock(backbone.transformer, inputs)).abs().max()) > 1e-3
    assert float((one - other).abs().max()) > 1e-4


def test_detaching_leaves_no_trace(backbone: Backbone, make_adapter: Make, inputs: Inputs) -> None:
    transformer = backbone.transformer
    before = stock(transformer, inputs)
    processors = [block.attn2.processor for block in transformer.transformer_blocks]
    names = set(transformer.state_dict())
    with attached(transformer, make_adapter(layers="all")) as attachment:
        assert set(transformer.state_dict()) == names  # the adapter's weights never become the transformer's
        assert (
            float((stock(transformer, inputs) - before).abs().max()) == 0.0
        )  # nothing is injected outside `injecting`
        assert attachment.slot.injection is None
    assert all(
        a is b for a, b in zip(processors, (x.attn2.processor for x in transformer.transformer_blocks), strict=True)
    )
    assert float((stock(transformer, inputs) - before).abs().max()) == 0.0


def test_two_adapters_at_once_are_refused(backbone: Backbone, make_adapter: Make) -> None:
    with attached(backbone.transformer, make_adapter()), pytest.raises(RequestError, match="already"):
        Attachment(backbone.transformer, make_adapter())


def test_an_adapter_of_another_transformer_is_refused_by_name(make_adapter: Make, make_transformer: Any) -> None:
    with pytest.raises(RequestError, match="blocks 6, this one has 5"):
        Attachment(make_transformer(num_layers=5), make_adapter())


@pytest.mark.parametrize("out", ["shared", "low_rank", "full"])
@pytest.mark.parametrize("own_query", [False, True])
def test_every_weight_of_the_style_path_has_a_gradient_at_the_first_step(
    backbone: Backbone, make_adapter: Make, inputs: Inputs, out: str, own_query: bool
) -> None:
    adapter = make_adapter(
        out_projection=out, own_query=own_query, content_mode="latent", initial_gate=0.01, place_octaves=2
    )
    mixed = {**inputs, "dropped": torch.tensor([False, False, True])}
    run(backbone, adapter, mixed).square().mean().backward()
    dead = {name for name, p in adapter.named_parameters() if p.grad is None or float(p.grad.abs().max()) == 0.0}
    # The second half of a low-rank change begins at zero, so its first half moves a step later; a bias on the keys
    # shifts all scores of a query alike, which softmax ignores.
    assert dead <= {f"layers.{i}.{name}" for i in range(4) for name in ("out_down.weight", "to_k.bias")}


def test_keys_and_values_begin_as_the_layers_own(backbone: Backbone, make_adapter: Make) -> None:
    adapter = make_adapter(layers=(2, 4), out_projection="full", own_query=True)
    for block, layer in zip((2, 4), adapter.layers, strict=True):
        own = backbone.transformer.transformer_blocks[block].attn2
        for name in ("to_k", "to_v", "to_q"):
            assert torch.equal(getattr(layer, name).weight, getattr(own, name).weight)
            assert torch.equal(getattr(layer, name).bias, getattr(own, name).bias)
        assert torch.equal(layer.to_out.weight, own.to_out[0].weight)


@pytest.mark.parametrize("octaves", [0, 3])
def test_the_style_branch_equals_its_equation(backbone: Backbone, make_adapter: Make, octaves: int) -> None:
    adapter = make_adapter(layers=1, initial_gate=0.3, place_octaves=octaves)
    layer, attention = adapter.layers[0], backbone.transformer.transformer_blocks[5].attn2
    hidden, style = torch.randn(2, 16, 48), torch.randn(2, 4, 48)
    injection = adapter.injection(style, torch.tensor([5, 900]), (2, 8), style_scale=2.0)
    places = torch.zeros(16, 48)
    with torch.no_grad():
        if octaves:
            layer.to_place.weight.normal_()
            places = token_coord_features((2, 8), octaves) @ layer.to_place.weight.T
        ours = layer(attention, hidden, injection)
        heads = []
        for head in range(4):
            cut = slice(12 * head, 12 * head + 12)
            q = (hidden @ attention.to_q.weight.T + attention.to_q.bias)[..., cut]
            q = q / (q.square().mean(-1, keepdim=True) + 1e-6).sqrt() + places[:, cut]
            k = (style @ layer.to_k.weight.T + layer.to_k.bias)[..., cut]
            v = (style @ layer.to_v.weight.T + layer.to_v.bias)[..., cut]
            heads.append(torch.softmax(q @ k.transpose(1, 2) / 12**0.5, dim=-1) @ v)
        oracle = 0.3 * 2.0 * torch.cat(heads, dim=-1) @ attention.to_out[0].weight.T
    assert float((ours - oracle).abs().max()) < 1e-5


def test_places_tell_each_token_from_those_within_their_longest_wave() -> None:
    features = token_coord_features((4, 8), 3)  # rows and columns, waves of 2, 4 and 8 tokens
    assert features.shape == (32, coord_width(3)) == (32, 10) and token_coord_features((4, 8), 0).shape == (32, 0)
    apart = torch.cdist(features, features) + 100 * torch.eye(32)
    assert float(apart.min()) > 1.0
    one = token_coord_features((4, 8), 1).reshape(4, 8, 2)
    assert torch.equal(one[0, :, 1], -one[0, :, 1].roll(1)), "the shortest wave turns its sign from token to token"
    assert torch.equal(one[:, 0, 0], -one[:, 0, 0].roll(1)) and torch.equal(one[0, 0], one[2, 6])


def test_a_query_that_sees_its_place_begins_as_one_that_does_not(
    backbone: Backbone, make_adapter: Make, inputs: Inputs
) -> None:
    with torch.no_grad():
        without, seeing = (run(backbone, make_adapter(layers=4, place_octaves=n), inputs) for n in (0, 2))
        assert torch.equal(without, seeing)
        adapter = make_adapter(layers=4, place_octaves=2)
        for layer in adapter.style_layers():
            layer.to_place.weight.normal_()
        assert float((run(backbone, adapter, inputs) - without).abs().max()) > 1e-4


def test_the_query_norm_keeps_the_branch_small_when_the_residual_stream_grows(
    backbone: Backbone, make_adapter: Make
) -> None:
    hidden, style = 100 * torch.randn(1, 16, 48), torch.randn(1, 4, 48)
    attention = backbone.transformer.transformer_blocks[5].attn2

    def sharpest(norm: str) -> float:
        layer = make_adapter(layers=1, query_norm=norm).layers[0]
        with torch.no_grad():
            q = layer.norm_q(layer._split(attention.to_q(hidden)))
            scores = q @ layer._split(layer.to_k(style)).transpose(-1, -2) / 12**0.5
        return float(scores.abs().max())

    assert sharpest("rms") < 10 and sharpest("layer") < 10 < sharpest("none")


def test_content_latents_enter_in_the_transformers_own_order_of_patches(make_adapter: Make) -> None:
    path = make_adapter(content_mode="latent").content
    assert path is not None
    with torch.no_grad():
        path.out.weight.normal_()
        content = torch.randn(1, 4, 8, 8)
        whole = path(content)
        content[0, :, 2:4, 4:6] += 1.0  # row 1, column 2 of a 4 × 4 grid of patches
        changed = (path(content) - whole).abs().amax(dim=-1)[0].nonzero().flatten().tolist()
    assert changed == [6]


def test_style_dropped_from_a_sample_leaves_the_others_as_they_were(make_adapter: Make, inputs: Inputs) -> None:
    adapter = make_adapter()
    kept = tokens_of(adapter, inputs)
    mixed = tokens_of(adapter, {**inputs, "dropped": torch.tensor([False, True, False])})
    assert torch.equal(kept[[0, 2]], mixed[[0, 2]])
    assert float((kept[1] - mixed[1]).detach().abs().max()) > 0.1
    assert torch.equal(mixed[1], tokens_of(adapter, {**inputs, "dropped": torch.ones(3, dtype=torch.bool)})[0])


def test_the_frozen_prefix_saves_no_activations(backbone: Backbone, make_adapter: Make, inputs: Inputs) -> None:
    def kept(layers: int) -> int:
        adapter = make_adapter(layers=layers)
        return saved_bytes(lambda: run(backbone, adapter, inputs), [adapter, backbone.transformer])

    one, two, six = (kept(k) for k in (1, 2, 6))
    block = two - one  # the first adapted block costs less: its self-attention lies before anything that learns
    assert 0 < one <= block  # four blocks before it, and yet no more than one block's worth is kept
    assert 4.5 < (six - one) / block < 5.5


def test_the_prefix_has_no_graph_even_where_its_inputs_ask_for_one(backbone: Backbone, inputs: Inputs) -> None:
    state = backbone.prefix(inputs["latents"].requires_grad_(True), *(inputs[n] for n in COMMON[1:]), 3)
    assert not any(x.requires_grad for x in (state.hidden, state.text, state.modulation, state.embedded))


def test_gates_have_a_group_of_their_own_without_decay(make_adapter: Make) -> None:
    adapter = make_adapter(content_mode="latent", out_projection="low_rank")
    matrices, vectors, gates = adapter.parameter_groups(0.01, 7.0)
    assert len(gates["params"]) == 5 and all(p.ndim == 0 for p in gates["params"])  # four layers and the purification
    assert (gates["weight_decay"], gates["lr_multiplier"]) == (0.0, 7.0)
    assert vectors["weight_decay"] == 0.0 and matrices["weight_decay"] == 0.01
    listed = [id(p) for group in (matrices, vectors, gates) for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in adapter.parameters())


def test_layers_are_the_last_ones_all_of_them_or_a_list() -> None:
    assert resolve_layers(4, 28) == (24, 25, 26, 27)
    assert resolve_layers("all", 3) == (0, 1, 2)
    assert resolve_layers([5, 1], 6) == (1, 5)
    for wrong in (7, [6]):
        with pytest.raises(RequestError, match=r"blocks"):
            resolve_layers(wrong, 6)


@pytest.mark.parametrize("layers", [[], [8, 8], [8, 9, 8]])
def test_a_list_of_layers_that_names_none_or_one_twice_is_refused(layers: list[int]) -> None:
    with pytest.raises(ValueError, match="names at least one block and none twice"):
        AdapterConfig.model_validate({"layers": layers})


def test_the_published_sizes_of_the_full_models_adapter() -> None:
    geometry = Geometry(28, 1152, 1152, 16, 2, 4, 1000, 768)
    adapter = StyleAdapter(AdapterConfig(tokens=4), geometry)
    keys_and_values = sum(p.numel() for n, p in adapter.named_parameters() if "to_k.weight" in n or "to_v.weight" in n)
    assert keys_and_values == 4 * 2 * 1152 * 1152  # 10.6 million, half of IP-Adapter's for Stable Diffusion 1.5


def test_equal_seeds_give_equal_adapters_and_the_global_generator_is_left_alone(make_adapter: Make) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two = make_adapter(), make_adapter()
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
