"""StyleAdapter: decoupled cross-attention to style tokens in some blocks of a stock PixArtTransformer2DModel.

    h ← h + attn2(h, text) + g · f(t) · W_o · Attention(norm(W_q h) + W_p P, W_k S, W_v S)

Legend: B samples, L picture tokens, N style tokens, I the transformer's inner width, X the width of its
cross-attention, H heads of width E, D width of CLIP's joint space, T patch tokens of CLIP's of width V, F features of a
token's place. S [B, N, X] are the style tokens, made of CLIP's embedding [B, D] or of its patch tokens [B, T, V]; W_k
and W_v are the adapter's own and begin as the layer's; g is a learned gate that begins small: one small factor, for
with two the gradients of the rest are small in its square, and with two zeros nothing ever moves. f(t) is the step
schedule; P [L, F] says where a token lies, if the adapter is told to look (`place_features`).
After Ye et al. 2023 (IP-Adapter), on PixArt-α (Chen et al. 2023), whose cross-attention norms no query and has no gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from bottega.runtime.errors import RequestError
from bottega.runtime.seeds import derive
from bottega.student.config import AdapterConfig
from bottega.student.purification import Purification, Removal
from bottega.student.resampler import Resampler
from bottega.student.steps import style_factor


@dataclass(frozen=True)
class Geometry:
    """What an adapter must know of the transformer it was made for; a differing one is refused.

    clip_tokens, clip_token_width: of CLIP's patch tokens; 0 where the adapter does not read them, and in what was
    written before it could.
    """

    blocks: int
    width: int
    cross_width: int
    heads: int
    patch: int
    channels: int
    timesteps: int
    clip_width: int
    clip_tokens: int = 0
    clip_token_width: int = 0

    @classmethod
    def of(
        cls, transformer: Any, timesteps: int, clip_width: int, clip_tokens: int = 0, clip_token_width: int = 0
    ) -> Geometry:
        """Read from a PixArtTransformer2DModel's configuration."""
        c = transformer.config
        width = c.num_attention_heads * c.attention_head_dim
        cross = c.cross_attention_dim or width
        size = (c.num_layers, width, cross, c.num_attention_heads, c.patch_size, c.in_channels)
        return cls(*size, timesteps, clip_width, clip_tokens, clip_token_width)

    def described(self) -> dict[str, int]:
        """As JSON, without what is 0: the names that a pooled adapter has always had."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass
class Injection:
    """What the adapted layers add in one forward pass: tokens [B, N, X]; scale [B, 1, 1], the factor on all gates;
    places [L, F], of the picture tokens."""

    tokens: torch.Tensor
    scale: torch.Tensor
    places: torch.Tensor


class StyleLayer(nn.Module):
    """The style branch of one block's cross-attention."""

    def __init__(self, geometry: Geometry, config: AdapterConfig) -> None:
        super().__init__()
        width, cross = geometry.width, geometry.cross_width
        self.heads = geometry.heads
        self.to_k = nn.Linear(cross, width)
        self.to_v = nn.Linear(cross, width)
        self.to_q = nn.Linear(width, width) if config.own_query else None
        head = width // geometry.heads
        norms = {"rms": nn.RMSNorm(head, eps=1e-6), "layer": nn.LayerNorm(head), "none": nn.Identity()}
        self.norm_q = norms[config.query_norm]
        self.to_place = (
            nn.Linear(place_width(config.place_octaves), width, bias=False) if config.place_octaves else None
        )
        if self.to_place is not None:
            nn.init.zeros_(self.to_place.weight)
        self.to_out = nn.Linear(width, width, bias=False) if config.out_projection == "full" else None
        self.out_down = self.out_up = None
        if config.out_projection == "low_rank":
            self.out_down = nn.Linear(width, config.out_rank, bias=False)
            self.out_up = nn.Linear(config.out_rank, width, bias=False)
            nn.init.zeros_(self.out_up.weight)
        self.gate = nn.Parameter(torch.tensor(config.initial_gate))

    def start_from(self, attention: Any) -> None:
        """Copy the layer's own maps, a diffusers Attention's, into the trained ones."""
        pairs = [(self.to_k, attention.to_k), (self.to_v, attention.to_v), (self.to_q, attention.to_q)]
        with torch.no_grad():
            for own, frozen in pairs:
                if own is not None:
                    own.weight.copy_(frozen.weight)
                    own.bias.zero_() if frozen.bias is None else own.bias.copy_(frozen.bias)
            if self.to_out is not None:
                self.to_out.weight.copy_(attention.to_out[0].weight)

    def forward(self, attention: Any, hidden: torch.Tensor, injection: Injection) -> torch.Tensor:
        """What is added to the block's cross-attention: hidden [B, L, I] -> [B, L, I] in hidden's dtype."""
        h = hidden.to(self.gate.dtype)
        query = self.to_q(h) if self.to_q is not None else attention.to_q(hidden).to(h.dtype)
        query = self.norm_q(self._split(query))  # [B, H, L, E]
        if self.to_place is not None:
            query = query + self._split(self.to_place(injection.places)[None])
        key, value = (self._split(m(injection.tokens)) for m in (self.to_k, self.to_v))  # [B, H, N, E]
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)  # [B, L, I]
        return (self.gate * injection.scale * self._project(attention, mixed, hidden.dtype)).to(hidden.dtype)

    def _project(self, attention: Any, mixed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if self.to_out is not None:
            return self.to_out(mixed)  # type: ignore[no-any-return]
        out = F.linear(mixed.to(dtype), attention.to_out[0].weight).to(mixed.dtype)
        if self.out_up is not None and self.out_down is not None:
            out = out + self.out_up(self.out_down(mixed))
        return out

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)  # [B, ., I] -> [B, H, ., E]


class StyleTokens(nn.Module):
    """What CLIP sees of a style -> N style tokens. The null tokens stand for "no style" and are learned from dropped
    ones."""

    def __init__(self, geometry: Geometry, config: AdapterConfig) -> None:
        super().__init__()
        self.count = config.tokens
        wide, out = config.token_hidden, config.tokens * geometry.cross_width
        if config.token_source == "patch":
            self.map: nn.Module = Resampler(
                geometry.clip_token_width,
                geometry.cross_width,
                count=config.tokens,
                depth=config.resampler_depth,
                width=config.resampler_width,
                heads=config.resampler_heads,
            )
        elif wide:
            self.map = nn.Sequential(nn.Linear(geometry.clip_width, wide), nn.GELU(), nn.Linear(wide, out))
        else:
            self.map = nn.Linear(geometry.clip_width, out)
        self.norm = nn.LayerNorm(geometry.cross_width)
        self.null = nn.Parameter(torch.randn(config.tokens, geometry.cross_width))

    def forward(self, style: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        """style, unit [B, D] or patch tokens [B, T, V]; dropped bool [B] -> tokens [B, N, X]."""
        if isinstance(self.map, Resampler):
            mapped = self.map(style)
        else:
            scaled = style * style.shape[-1] ** 0.5  # entries of unit variance, as a linear map's start expects
            mapped = self.map(scaled).unflatten(-1, (self.count, -1))
        tokens = self.norm(mapped)  # [B, N, X]
        return torch.where(dropped[:, None, None], self.norm(self.null)[None], tokens)


class ContentPath(nn.Module):
    """Content latents -> what is added to the picture tokens before the first adapted block; begins as exactly zero."""

    def __init__(self, geometry: Geometry, config: AdapterConfig) -> None:
        super().__init__()
        self.patch = geometry.patch
        size = geometry.channels * geometry.patch**2
        wide = config.content_hidden
        self.hidden = nn.Sequential(nn.Linear(size, wide), nn.GELU()) if wide else nn.Identity()
        self.out = nn.Linear(wide or size, geometry.width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, content: torch.Tensor) -> torch.Tensor:
        """content [B, C, h, w] -> [B, L, I], patches row by row as the transformer cuts them."""
        cells = F.pixel_unshuffle(content.to(self.out.weight.dtype), self.patch)  # [B, C·p·p, h/p, w/p]
        return self.out(self.hidden(cells.flatten(2).transpose(1, 2)))  # type: ignore[no-any-return]


class StyleAdapter(nn.Module):
    """All that is trained: purification (of CLIP's embedding, where the tokens are made of it), style tokens, one
    `StyleLayer` a block, and in mode `latent` a content path.

    Raises RequestError when the configuration names blocks that the transformer doesn't have, or patch tokens whose
    number and width the geometry doesn't tell.
    """

    def __init__(self, config: AdapterConfig, geometry: Geometry, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self.geometry = geometry
        self.blocks = resolve_layers(config.layers, geometry.blocks)
        self.reads_patches = config.token_source == "patch"
        if self.reads_patches and not (geometry.clip_tokens and geometry.clip_token_width):
            raise RequestError(
                "token_source: patch needs the number and the width of CLIP's patch tokens, the geometry has "
                f"{geometry.clip_tokens} and {geometry.clip_token_width}; give clip_tokens and clip_token_width"
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "adapter"))
            self.purification = None if self.reads_patches else Purification.of(config, geometry.clip_width)
            self.tokens = StyleTokens(geometry, config)
            self.layers = nn.ModuleList(StyleLayer(geometry, config) for _ in self.blocks)
            self.content = ContentPath(geometry, config) if config.content_mode == "latent" else None

    @classmethod
    def beside(cls, transformer: Any, config: AdapterConfig, geometry: Geometry, *, seed: int = 0) -> StyleAdapter:
        """A new adapter whose maps begin as those of the transformer's own cross-attention."""
        adapter = cls(config, geometry, seed=seed)
        for block, layer in zip(adapter.blocks, adapter.style_layers(), strict=True):
            layer.start_from(transformer.transformer_blocks[block].attn2)
        return adapter

    @property
    def scene_removal(self) -> Removal | None:
        """What takes out of a style what its picture shows; None where nothing does."""
        return None if self.purification is None else self.purification.scene

    def style_layers(self) -> list[StyleLayer]:
        """The layers in the order of `blocks`."""
        return [layer for layer in self.layers if isinstance(layer, StyleLayer)]

    @property
    def first_block(self) -> int:
        """The first block that differs from the base model: all before it are a frozen prefix."""
        return self.blocks[0]

    def style(
        self,
        style: torch.Tensor,
        content: torch.Tensor | None,
        dropped: torch.Tensor,
        caption: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What `token_source` asks for of the style, dropped bool [B] -> tokens [B, N, X], and the cosines of
        `Purification.purify`, [B] each.

        style: unit CLIP embeddings [B, D] (pooled), or CLIP's patch tokens [B, T, V] (patch). content, caption: unit
        CLIP embeddings [B, D] of the content picture, and of what the style picture shows; noughts where not known.
        With patch tokens neither is looked at, and there are no cosines.
        RequestError for the other kind of style, or another CLIP's.
        """
        g = self.geometry
        wanted = (g.clip_tokens, g.clip_token_width) if self.reads_patches else (g.clip_width,)
        if tuple(style.shape[1:]) != wanted:
            call = "ClipEncoder.patches" if self.reads_patches else "ClipEncoder.image"
            raise RequestError(
                f"an adapter with token_source {self.config.token_source} reads a style as [B, "
                f"{', '.join(map(str, wanted))}], got {list(style.shape)}; pass what {call} gives for the CLIP that "
                "the adapter's header names"
            )
        if self.purification is None:
            return self.tokens(style, dropped), {}
        if content is None:
            raise RequestError("an adapter with token_source pooled needs the content's CLIP embedding too; pass it")
        purified, cosines = self.purification.purify(style, content, caption)
        return self.tokens(purified, dropped), cosines

    def injection(
        self, tokens: torch.Tensor, timesteps: torch.Tensor, cells: tuple[int, int], style_scale: float = 1.0
    ) -> Injection:
        """What the layers add at these timesteps, int [B], to a picture of so many rows and columns of tokens;
        style_scale multiplies every gate."""
        factor = style_factor(self.config.step_schedule, timesteps, self.geometry.timesteps).to(tokens.device)
        places = place_features(cells, self.config.place_octaves).to(tokens)
        return Injection(tokens, (style_scale * factor).reshape(-1, 1, 1).to(tokens.dtype), places)

    def gates(self) -> dict[str, float]:
        """The gates by name, for the log."""
        layers = zip(self.blocks, self.style_layers(), strict=True)
        values = {f"gate_{block}": float(layer.gate.detach()) for block, layer in layers}
        removals = {"gate_purification": self.purification, "gate_scene": self.scene_removal}
        shares = {name: None if removal is None else removal.gate() for name, removal in removals.items()}
        return values | {name: share for name, share in shares.items() if share is not None}

    def parameter_groups(self, weight_decay: float, gate_lr_multiplier: float) -> list[dict[str, Any]]:
        """Matrices with decay; vectors without; gates without decay and with a learning rate of their own.

        Weight decay on a gate would pull it back to nought.
        """
        named = list(self.named_parameters())
        gates = [p for name, p in named if name.rpartition(".")[2] in ("gate", "gate_logit")]
        matrices = [p for name, p in named if p.ndim >= 2 and not name.endswith((".null", ".queries"))]
        taken = {id(p) for p in (*gates, *matrices)}
        vectors = [p for _, p in named if id(p) not in taken]
        return [
            {"params": matrices, "weight_decay": weight_decay, "lr_multiplier": 1.0},
            {"params": vectors, "weight_decay": 0.0, "lr_multiplier": 1.0},
            {"params": gates, "weight_decay": 0.0, "lr_multiplier": gate_lr_multiplier},
        ]

    def description(self) -> dict[str, Any]:
        """Configuration and geometry as JSON, for the header and the fingerprint."""
        return {"adapter": self.config.model_dump(mode="json"), "geometry": self.geometry.described()}


PLACE_SIZE = 16.0
"""Amplitude of the place's features. The map from them begins at zero and AdamW moves it by the learning rate a step,
beside a query whose entries have a mean square of 1: with features of 1 it is too late (docs/log.md)."""


def place_width(octaves: int) -> int:
    """F, the number of a token's place's features: for rows and columns a cosine and a sine an octave, but for the
    first, whose sine is nought everywhere."""
    return max(0, 2 * (2 * octaves - 1))


def place_features(cells: tuple[int, int], octaves: int) -> torch.Tensor:
    """Where each token lies: waves of 2, 4, … 2^octaves tokens along rows and columns, [L, F], row by row.

    PixArt's own sines have no wave shorter than 2π tokens, so no linear map of them alternates from token to token.
    """
    waves = []
    for axis, count in enumerate(cells):
        turns = 2 * torch.pi * torch.arange(count)[:, None] / 2.0 ** torch.arange(1, octaves + 1)  # [count, octaves]
        wave = torch.cat([turns.cos(), turns[:, 1:].sin()], dim=1)  # [count, F/2]
        waves.append((wave[:, None] if axis == 0 else wave[None]).expand(*cells, -1))
    return PLACE_SIZE * torch.cat(waves, dim=-1).flatten(0, 1)


def resolve_layers(layers: str | int | Sequence[int], blocks: int) -> tuple[int, ...]:
    """Block indices, rising, that `layers` (last K, "all", or a list) means in a transformer of `blocks` blocks."""
    if layers == "all":
        return tuple(range(blocks))
    if isinstance(layers, int):
        if layers > blocks:
            raise RequestError(
                f"adapter.layers = {layers}: the transformer has {blocks} blocks; ask for at most {blocks}"
            )
        return tuple(range(blocks - layers, blocks))
    chosen = tuple(sorted(int(i) for i in layers))
    if chosen[-1] >= blocks:
        raise RequestError(f"adapter.layers names block {chosen[-1]}: the transformer's blocks are 0…{blocks - 1}")
    return chosen
