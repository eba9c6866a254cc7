"""StyleAdapter: decoupled cross-attention to style tokens in some blocks of a stock PixArtTransformer2DModel.

    h ← h + attn2(h, text) + g · f(t) · W_o · Attention(norm(W_q h) + W_p P, W_k S, W_v S)

S [B, N, X] are the style tokens, made from CLIP's embedding [B, D] or from its patch tokens [B, T, V]. W_k and W_v are
the adapter's own and start as the layer's. g is a learned gate that starts small: one small factor, because with two of
them the gradients of everything else are small in its square, and with two zeros nothing ever moves. f(t) is the step
schedule. P [L, F] are features of the token's coordinates, where `place_octaves` asks for them.

After Ye et al. 2023 (IP-Adapter), on PixArt-α (Chen et al. 2023), whose cross-attention norms no query and has no gate.

Legend: B samples, L picture tokens, N style tokens, I the transformer's inner width, X the width of its
cross-attention, H heads of width E, D width of CLIP's joint space, T patch tokens of CLIP's of width V, F coordinate
features of a token. Names of layers are keys of the adapter's file, so they never change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import nn

from bottega.runtime.errors import RequestError
from bottega.runtime.seeds import derive
from bottega.student.config import AdapterConfig
from bottega.student.purification import Purification, Removal
from bottega.student.resampler import Resampler
from bottega.student.steps import style_factor
from bottega.training.workload import ParameterGroup

COORD_AMPLITUDE = 16.0
"""Of the coordinate features. The map from them starts at zero, AdamW moves it by about the learning rate a step, and
it adds to a query whose entries have a mean square of 1: features of 1 come too late (measured, docs/log.md)."""


_Side = Annotated[int, Field(gt=0, le=65_536)]
"""A size of a network. A file names it, so it has a limit: beyond it nothing is a transformer."""


@dataclass(frozen=True)
class Geometry:
    """The sizes of the transformer that an adapter was made for; another transformer is refused.

    clip_tokens and clip_token_width describe CLIP's patch tokens: 0 where the adapter does not read them, and in files
    that were written before it could.
    """

    blocks: Annotated[int, Field(gt=0, le=1000)]
    width: _Side
    cross_width: _Side
    heads: _Side
    patch: _Side
    channels: _Side
    timesteps: _Side
    clip_width: _Side
    clip_tokens: Annotated[int, Field(ge=0, le=65_536)] = 0
    clip_token_width: Annotated[int, Field(ge=0, le=65_536)] = 0

    @classmethod
    def of(
        cls, transformer: Any, timesteps: int, clip_width: int, clip_tokens: int = 0, clip_token_width: int = 0
    ) -> Geometry:
        """Read from a PixArtTransformer2DModel's configuration."""
        config = transformer.config
        width = config.num_attention_heads * config.attention_head_dim
        return cls(
            blocks=config.num_layers,
            width=width,
            cross_width=config.cross_attention_dim or width,
            heads=config.num_attention_heads,
            patch=config.patch_size,
            channels=config.in_channels,
            timesteps=timesteps,
            clip_width=clip_width,
            clip_tokens=clip_tokens,
            clip_token_width=clip_token_width,
        )

    def described(self) -> dict[str, int]:
        """As JSON, without what is 0: these are the names that a pooled adapter has always had."""
        return {name: value for name, value in asdict(self).items() if value}


@dataclass
class Injection:
    """What the adapted layers read in one forward pass.

    Args:
        tokens: style tokens [B, N, X].
        scale: factor on all gates [B, 1, 1].
        coords: coordinate features of the picture tokens [L, F].
    """

    tokens: torch.Tensor
    scale: torch.Tensor
    coords: torch.Tensor


class StyleLayer(nn.Module):
    """The style branch of one block's cross-attention."""

    def __init__(self, geometry: Geometry, config: AdapterConfig) -> None:
        super().__init__()
        width = geometry.width
        self.heads = geometry.heads
        self.to_k = nn.Linear(geometry.cross_width, width)
        self.to_v = nn.Linear(geometry.cross_width, width)
        self.to_q = nn.Linear(width, width) if config.own_query else None
        self.norm_q = _query_norm(config.query_norm, width // geometry.heads)
        self.to_place = None
        if config.place_octaves:
            self.to_place = nn.Linear(coord_width(config.place_octaves), width, bias=False)
            nn.init.zeros_(self.to_place.weight)  # so coordinates enter only as they are learned
        self.to_out = nn.Linear(width, width, bias=False) if config.out_projection == "full" else None
        self.out_down = None
        self.out_up = None
        if config.out_projection == "low_rank":
            self.out_down = nn.Linear(width, config.out_rank, bias=False)
            self.out_up = nn.Linear(config.out_rank, width, bias=False)
            nn.init.zeros_(self.out_up.weight)  # so the low-rank change starts as none
        self.gate = nn.Parameter(torch.tensor(config.initial_gate))

    @torch.no_grad()
    def start_from(self, attention: Any) -> None:
        """Copy the layer's own maps, a diffusers Attention's, into the trained ones."""
        _copy(attention.to_k, self.to_k)
        _copy(attention.to_v, self.to_v)
        if self.to_q is not None:
            _copy(attention.to_q, self.to_q)
        if self.to_out is not None:
            self.to_out.weight.copy_(attention.to_out[0].weight)

    def forward(self, attention: Any, hidden: torch.Tensor, injection: Injection) -> torch.Tensor:
        """What is added to the block's cross-attention: hidden [B, L, I] -> [B, L, I] in hidden's dtype."""
        h = hidden.to(self.gate.dtype)  # [B, L, I]
        query = self.to_q(h) if self.to_q is not None else attention.to_q(hidden).to(h.dtype)
        query = self.norm_q(self._split(query))  # [B, H, L, E]
        if self.to_place is not None:
            query = query + self._split(self.to_place(injection.coords)[None])
        key = self._split(self.to_k(injection.tokens))  # [B, H, N, E]
        value = self._split(self.to_v(injection.tokens))  # [B, H, N, E]
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)  # [B, L, I]
        projected = self._project(attention, mixed, hidden.dtype)
        return (self.gate * injection.scale * projected).to(hidden.dtype)

    def _project(self, attention: Any, mixed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """W_o: a trained copy, or the layer's frozen map with or without a low-rank change."""
        if self.to_out is not None:
            return self.to_out(mixed)  # type: ignore[no-any-return]
        out = F.linear(mixed.to(dtype), attention.to_out[0].weight).to(mixed.dtype)  # [B, L, I]
        if self.out_up is not None and self.out_down is not None:
            out = out + self.out_up(self.out_down(mixed))
        return out

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(*x.shape[:-1], self.heads, -1).transpose(1, 2)  # [B, ., I] -> [B, H, ., E]


def _query_norm(kind: str, width: int) -> nn.Module:
    if kind == "rms":
        return nn.RMSNorm(width, eps=1e-6)
    if kind == "layer":
        return nn.LayerNorm(width)
    return nn.Identity()


def _copy(source: nn.Linear, target: nn.Linear) -> None:
    target.weight.copy_(source.weight)
    if source.bias is None:
        target.bias.zero_()
    else:
        target.bias.copy_(source.bias)


class StyleTokens(nn.Module):
    """What CLIP sees of a style -> N style tokens.

    The null tokens mean "no style"; they are learned from samples whose style is dropped.
    """

    def __init__(self, geometry: Geometry, config: AdapterConfig) -> None:
        super().__init__()
        self.count = config.tokens
        self.map = self._map(geometry, config)
        self.norm = nn.LayerNorm(geometry.cross_width)
        self.null = nn.Parameter(torch.randn(config.tokens, geometry.cross_width))  # [N, X]

    @staticmethod
    def _map(geometry: Geometry, config: AdapterConfig) -> nn.Module:
        if config.token_source == "patch":
            return Resampler(
                geometry.clip_token_width,
                geometry.cross_width,
                count=config.tokens,
                depth=config.resampler_depth,
                width=config.resampler_width,
                heads=config.resampler_heads,
            )
        hidden = config.token_hidden
        out = config.tokens * geometry.cross_width
        if hidden:
            return nn.Sequential(nn.Linear(geometry.clip_width, hidden), nn.GELU(), nn.Linear(hidden, out))
        return nn.Linear(geometry.clip_width, out)

    def forward(self, style: torch.Tensor, dropped: torch.Tensor) -> torch.Tensor:
        """style, unit [B, D] or patch tokens [B, T, V]; dropped bool [B] -> tokens [B, N, X]."""
        if isinstance(self.map, Resampler):
            mapped = self.map(style)  # [B, N, X]
        else:
            scaled = style * style.shape[-1] ** 0.5  # entries of unit variance, as a linear map's start expects
            mapped = self.map(scaled).unflatten(-1, (self.count, -1))  # [B, N, X]
        return torch.where(dropped[:, None, None], self.norm(self.null)[None], self.norm(mapped))  # [B, N, X]


class ContentPath(nn.Module):
    """Content latents -> what is added to the picture tokens before the first adapted block; starts as exactly zero."""

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
        patches = F.pixel_unshuffle(content.to(self.out.weight.dtype), self.patch)  # [B, C·p·p, h/p, w/p]
        return self.out(self.hidden(patches.flatten(2).transpose(1, 2)))  # type: ignore[no-any-return]


class StyleAdapter(nn.Module):
    """All that is trained.

    That is the purification of CLIP's embedding (where the tokens are made from it), the style tokens, one `StyleLayer`
    a block, and in mode `latent` a content path.

    Args:
        config: the architecture.
        geometry: of the transformer.
        seed: of the weights.

    Raises:
        RequestError: the configuration names blocks that the transformer does not have, or patch tokens whose number
            and width the geometry does not say.
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
        # Forked: weights follow from the seed alone, and torch's global generator is left as it was.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "adapter"))
            self.purification = None if self.reads_patches else Purification.of(config, geometry.clip_width)
            self.tokens = StyleTokens(geometry, config)
            self.layers = nn.ModuleList(StyleLayer(geometry, config) for _ in self.blocks)
            self.content = ContentPath(geometry, config) if config.content_mode == "latent" else None

    @classmethod
    def from_transformer(
        cls, transformer: Any, config: AdapterConfig, geometry: Geometry, *, seed: int = 0
    ) -> StyleAdapter:
        """A new adapter whose maps start as those of the transformer's own cross-attention."""
        adapter = cls(config, geometry, seed=seed)
        for block, layer in zip(adapter.blocks, adapter.style_layers(), strict=True):
            layer.start_from(transformer.transformer_blocks[block].attn2)
        return adapter

    @property
    def scene_removal(self) -> Removal | None:
        """What takes out of a style what its picture shows; None where nothing does."""
        return None if self.purification is None else self.purification.scene

    def reads(self, kind: str) -> bool:
        """Whether the adapter reads this kind of feature: adding another kind to a cache changes nothing."""
        if kind == "patch":
            return self.reads_patches
        if kind == "caption":
            return self.config.scene_removal != "none"
        return True

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
        """Make the style tokens.

        Args:
            style: unit CLIP embeddings [B, D] (token_source pooled), or CLIP's patch tokens [B, T, V] (patch).
            content: unit CLIP embeddings [B, D] of the content pictures; not read with patch tokens.
            dropped: bool [B], where the null tokens take the style's place.
            caption: unit CLIP embeddings [B, D] of what the style pictures show, zeros where not known; not read with
                patch tokens.

        Returns:
            Tokens [B, N, X], and the cosines [B] of `Purification.purify`; none with patch tokens.

        Raises:
            RequestError: a style of the other kind or of another CLIP, or no content where it is needed.
        """
        self._check_style(style)
        if self.purification is None:
            return self.tokens(style, dropped), {}
        if content is None:
            raise RequestError("an adapter with token_source pooled needs the content's CLIP embedding too; pass it")
        purified, cosines = self.purification.purify(style, content, caption)
        return self.tokens(purified, dropped), cosines

    def _check_style(self, style: torch.Tensor) -> None:
        geometry = self.geometry
        expected: tuple[int, ...] = (geometry.clip_width,)
        source = "ClipEncoder.image"
        if self.reads_patches:
            expected = (geometry.clip_tokens, geometry.clip_token_width)
            source = "ClipEncoder.patches"
        if tuple(style.shape[1:]) != expected:
            raise RequestError(
                f"an adapter with token_source {self.config.token_source} reads a style as [B, "
                f"{', '.join(map(str, expected))}], got {list(style.shape)}; pass what {source} gives for the CLIP "
                "that the adapter's header names"
            )

    def injection(
        self, tokens: torch.Tensor, timesteps: torch.Tensor, cells: tuple[int, int], style_scale: float = 1.0
    ) -> Injection:
        """What the layers read in one pass.

        Args:
            tokens: style tokens [B, N, X].
            timesteps: int [B].
            cells: rows and columns of picture tokens.
            style_scale: factor on every gate; `with_content` takes the same.
        """
        factor = style_factor(self.config.step_schedule, timesteps, self.geometry.timesteps).to(tokens.device)
        scale = (style_scale * factor).reshape(-1, 1, 1).to(tokens.dtype)  # [B, 1, 1]
        coords = token_coord_features(cells, self.config.place_octaves).to(tokens)
        return Injection(tokens, scale, coords)

    def with_content(
        self, hidden: torch.Tensor, content: torch.Tensor | None, style_scale: float = 1.0
    ) -> torch.Tensor:
        """The picture tokens that enter the first adapted block, with what the content path adds.

        Args:
            hidden: [B, L, I].
            content: scaled latents [B, C, h, w], read in mode `latent` alone.
            style_scale: below 1 it weakens the path as it does the gates, so that 0 is the base model. Above 1 the path
                stays as it was trained: more of the content than there is draws nothing better.

        Returns:
            [B, L, I] in hidden's dtype.
        """
        if self.content is None or content is None or style_scale == 0.0:
            return hidden
        added: torch.Tensor = min(style_scale, 1.0) * self.content(content)  # [B, L, I]
        return hidden + added.to(hidden.dtype)

    def gates(self) -> dict[str, float]:
        """The gates by name, for the log."""
        gates = {}
        for block, layer in zip(self.blocks, self.style_layers(), strict=True):
            gates[f"gate_{block}"] = float(layer.gate.detach())
        removals = {"gate_purification": self.purification, "gate_scene": self.scene_removal}
        for name, removal in removals.items():
            gate = None if removal is None else removal.gate()
            if gate is not None:
                gates[name] = gate
        return gates

    def parameter_groups(self, weight_decay: float, gate_lr_multiplier: float) -> list[ParameterGroup]:
        """AdamW's groups: matrices with decay; vectors without; gates without decay, with a learning rate of their
        own."""
        gates = []
        matrices = []
        vectors = []
        for name, parameter in self.named_parameters():
            if name.rpartition(".")[2] in ("gate", "gate_logit"):
                # Weight decay on a gate would pull it back to zero, where the adapter does nothing.
                gates.append(parameter)
            elif parameter.ndim >= 2 and not name.endswith((".null", ".queries")):
                matrices.append(parameter)
            else:
                vectors.append(parameter)
        return [
            {"params": matrices, "weight_decay": weight_decay, "lr_multiplier": 1.0},
            {"params": vectors, "weight_decay": 0.0, "lr_multiplier": 1.0},
            {"params": gates, "weight_decay": 0.0, "lr_multiplier": gate_lr_multiplier},
        ]

    def description(self) -> dict[str, object]:
        """Configuration and geometry as JSON, for the header and the fingerprint."""
        return {"adapter": self.config.model_dump(mode="json"), "geometry": self.geometry.described()}


def coord_width(octaves: int) -> int:
    """F: for rows and columns each a cosine and a sine an octave, but no sine in the first, where it is zero
    everywhere."""
    return max(0, 2 * (2 * octaves - 1))


def token_coord_features(cells: tuple[int, int], octaves: int) -> torch.Tensor:
    """Fourier features of each token's row and column, periods of 2, 4, … 2^octaves tokens: [L, F], row by row.

    PixArt's own position embedding has no period shorter than 2π tokens, so no linear map of it alternates from token
    to token.
    """
    features = []
    for axis, count in enumerate(cells):
        periods = 2.0 ** torch.arange(1, octaves + 1)  # [octaves]
        angles = 2 * torch.pi * torch.arange(count)[:, None] / periods  # [count, octaves]
        feature = torch.cat([angles.cos(), angles[:, 1:].sin()], dim=1)  # [count, F/2]
        along = feature[:, None] if axis == 0 else feature[None]  # [rows, 1, F/2] or [1, columns, F/2]
        features.append(along.expand(*cells, -1))  # [rows, columns, F/2]
    return COORD_AMPLITUDE * torch.cat(features, dim=-1).flatten(0, 1)  # [L, F]


def resolve_layers(layers: str | int | Sequence[int], blocks: int) -> tuple[int, ...]:
    """Block indices, rising, that `layers` (last K, "all", or a list) means in a transformer of `blocks` blocks.

    Raises:
        RequestError: it names a block that is not there.
    """
    if layers == "all":
        return tuple(range(blocks))
    if isinstance(layers, int):
        if layers > blocks:
            raise RequestError(
                f"adapter.layers = {layers}: the transformer has {blocks} blocks; ask for at most {blocks}"
            )
        return tuple(range(blocks - layers, blocks))
    chosen = tuple(sorted(int(index) for index in layers))
    if chosen[-1] >= blocks:
        raise RequestError(f"adapter.layers names block {chosen[-1]}: the transformer's blocks are 0…{blocks - 1}")
    return chosen
