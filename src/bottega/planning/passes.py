"""One pass of each network at the recipe's sizes: what it computes and holds, and the adapter's own numbers.

Each is counted once: the same pass belongs to several stages.

Legend: B of a batch, S pixels a side, h × w latent cells, M text tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from bottega.planning.costs import Cost, cost_of
from bottega.planning.networks import PlannedNetworks, whole

if TYPE_CHECKING:
    import torch

    from bottega.recipe import Recipe

PROMPT_TOKENS = 77
"""Of CLIP's text encoders, in SDXL."""

CAPTION_TOKENS = 16
"""Of a COCO caption in T5's vocabulary, about; T5 computes those of the longest of a batch."""


@cache
def unet_pass(networks: PlannedNetworks, batch: int, side: int, dtype: str) -> Cost:
    """SDXL's U-Net on both halves of guidance for B pictures of S pixels."""
    import torch

    unet = networks.module("unet", dtype)
    config = unet.config
    kind = getattr(torch, dtype)
    pooled = int(config.projection_class_embeddings_input_dim) - 6 * int(config.addition_time_embed_dim)
    rows = 2 * batch

    def run() -> object:
        with torch.no_grad(), torch.device("meta"):
            return unet(
                torch.empty(rows, config.in_channels, side // 8, side // 8, dtype=kind),
                torch.empty((), dtype=torch.int64),
                torch.empty(rows, PROMPT_TOKENS, config.cross_attention_dim, dtype=kind),
                added_cond_kwargs={
                    "text_embeds": torch.empty(rows, pooled, dtype=kind),
                    "time_ids": torch.empty(rows, 6, dtype=kind),
                },
            )

    return cost_of(run, [unet])


@cache
def encode_pass(networks: PlannedNetworks, name: str, batch: int, side: int) -> Cost:
    """An autoencoder's encoder on B pictures of S pixels, in float32, as contents are encoded."""
    import torch

    vae = networks.module(name, "float32")

    def run() -> object:
        with torch.no_grad(), torch.device("meta"):
            return vae.encode(torch.empty(batch, 3, side, side))

    return cost_of(run, [vae])


@cache
def decode_pass(networks: PlannedNetworks, name: str, side: int, dtype: str) -> Cost:
    """An autoencoder's decoder on one picture of S pixels."""
    import torch

    vae = networks.module(name, dtype)
    cells = side // 2 ** (len(vae.config.block_out_channels) - 1)

    def run() -> object:
        with torch.no_grad(), torch.device("meta"):
            shape = (1, vae.config.latent_channels, cells, cells)
            return vae.decode(torch.empty(*shape, dtype=getattr(torch, dtype)))

    return cost_of(run, [vae])


def text_flops(networks: PlannedNetworks, tokens: int = CAPTION_TOKENS) -> float:
    """Floating-point operations of T5's encoder for one caption: two for each weight and token."""
    config = networks.config("t5")
    embedded = whole(config, "vocab_size") * whole(config, "d_model")
    return 2.0 * tokens * (networks.count("t5") - embedded)


def image_flops(networks: PlannedNetworks, name: str) -> float:
    """Floating-point operations of a vision transformer for one picture: two for each weight and patch."""
    config = networks.config(name)
    vision = config.get("vision_config", config)
    assert isinstance(vision, dict)
    width, depth = whole(vision, "hidden_size"), whole(vision, "num_hidden_layers")
    inner = whole(vision, "intermediate_size")
    patches = (whole(vision, "image_size") // whole(vision, "patch_size")) ** 2
    return 2.0 * patches * depth * (4 * width * width + 2 * width * inner)


@dataclass(frozen=True)
class TrainingCost:
    """Of the student: its parameters, a microbatch with and without checkpointing, and a step's operations."""

    parameters: int
    plain: Cost
    checkpointed: Cost


def training_cost(networks: PlannedNetworks, recipe: Recipe, dtype: str) -> TrainingCost:
    """What training an adapter costs: the frozen prefix without a graph, the suffix with one, and its gradient."""
    from bottega.student.adapter import Geometry, StyleAdapter

    transformer = networks.module("transformer", dtype)
    geometry = Geometry.of(transformer, 1000, whole(networks.config("clip"), "projection_dim"))
    adapter = StyleAdapter(recipe.student.adapter, geometry).to("meta")
    passes = {on: _microbatch(networks, recipe, adapter, dtype, on) for on in (False, True)}
    count = sum(parameter.numel() for parameter in adapter.parameters())
    return TrainingCost(count, passes[False], passes[True])


def _microbatch(networks: PlannedNetworks, recipe: Recipe, adapter: torch.nn.Module, dtype: str, on: bool) -> Cost:
    """Forward and backward of a microbatch, or with gradient checkpointing what its forward pass keeps."""
    import torch

    from bottega.student.adapter import StyleAdapter
    from bottega.student.attach import attached
    from bottega.student.backbone import Backbone

    assert isinstance(adapter, StyleAdapter)
    transformer = networks.module("transformer", dtype)
    batch = recipe.student.batch_size
    cells = transformer.config.sample_size
    backbone = Backbone(transformer, schedule=None, pixels_per_cell=8)  # type: ignore[arg-type]

    def run() -> object:
        with torch.device("meta"), attached(transformer, adapter) as attachment:
            latents = torch.empty(batch, transformer.config.in_channels, cells, cells)
            times = torch.empty(batch, dtype=torch.int64)
            text = torch.empty(batch, recipe.features.text_tokens, transformer.config.caption_channels)
            mask = torch.ones(batch, recipe.features.text_tokens)
            state = backbone.prefix(latents, times, text, mask, adapter.first_block)
            tokens = torch.empty(batch, recipe.student.adapter.tokens, adapter.geometry.cross_width)
            content = latents if recipe.student.adapter.content_mode == "latent" else None
            output = backbone.suffix(state, attachment, tokens, times, content, checkpointed=on)
            loss = output.float().square().mean()
            if not on:
                # Torch's modes do not reach what checkpointing computes again: its forward pass alone is counted.
                loss.backward()  # type: ignore[no-untyped-call]
        adapter.zero_grad()
        return loss

    return cost_of(run, [transformer, adapter])
