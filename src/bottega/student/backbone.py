"""The frozen transformer, run in two parts: a prefix that no gradient can reach, and the suffix with the adapter.

Legend: B samples, L picture tokens, I inner width, C latent channels, h × w latent cells, M text tokens, P width of T5.
The parts are the transformer's own submodules in the order of its own forward; with a gate of 0 the result is that
forward's to the bit, which a test asserts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.checkpoint import checkpoint

from bottega.diffusion.process import as_epsilon
from bottega.diffusion.schedule import NoiseSchedule, from_scheduler_config
from bottega.models.agreement import foreign_process
from bottega.runtime.errors import RequestError
from bottega.student.attach import Attachment

if TYPE_CHECKING:
    pass

BlockCall = Callable[..., Any]
"""(block, hidden, **conditions) -> hidden: how a block is called."""


def _plainly(block: Any, hidden: torch.Tensor, **conditions: torch.Tensor) -> Any:
    return block(hidden, **conditions)


@dataclass
class Prefix:
    """The state before a block: no tensor in it has a graph.

    Args:
        hidden: picture tokens [B, L, I].
        text: [B, M, I], after the caption projection.
        bias: of the cross-attention [B, 1, M], 0 or -10000.
        modulation: adaLN's [B, 6 I].
        embedded: of the timesteps [B, I].
        cells: rows and columns of picture tokens, (h/p, w/p).
        blocks: how many blocks have run.
    """

    hidden: torch.Tensor
    text: torch.Tensor
    bias: torch.Tensor
    modulation: torch.Tensor
    embedded: torch.Tensor
    cells: tuple[int, int]
    blocks: int


class Backbone:
    """A frozen PixArtTransformer2DModel, its noise schedule, and how many pixels a latent cell spans."""

    def __init__(self, transformer: Any, schedule: NoiseSchedule, pixels_per_cell: int) -> None:
        self.transformer = transformer.eval().requires_grad_(False)
        self.schedule = schedule
        self.pixels_per_cell = pixels_per_cell

    @classmethod
    def load(cls, folder: Path, *, dtype: str = "auto", device: str = "auto", pixels_per_cell: int) -> Backbone:
        """Load transformer and scheduler from a folder in PixArtAlphaPipeline's layout, with its own prediction type
        and betas."""
        from bottega.models.loading import load_pixart_parts

        parts = load_pixart_parts(folder, ("transformer", "scheduler"), dtype, device)
        return cls(parts["transformer"], read_schedule(parts["scheduler"]), pixels_per_cell)

    @property
    def device(self) -> torch.device:
        """The transformer's device."""
        device: torch.device = next(self.transformer.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The transformer's dtype; the adapter's is float32."""
        dtype: torch.dtype = next(self.transformer.parameters()).dtype
        return dtype

    def twin(self) -> Backbone:
        """Another backbone with the very same parameters in memory: an adapter attached to it is not attached here."""
        own = chain(self.transformer.parameters(), self.transformer.buffers())
        # What a deep copy finds in its memo it takes over as it is.
        memo = {id(tensor): tensor for tensor in own}
        return Backbone(copy.deepcopy(self.transformer, memo), self.schedule, self.pixels_per_cell)

    @torch.no_grad()
    def prefix(
        self, latents: torch.Tensor, timesteps: torch.Tensor, text: torch.Tensor, mask: torch.Tensor, blocks: int
    ) -> Prefix:
        """Run everything up to block `blocks`, without a graph.

        Args:
            latents: [B, C, h, w].
            timesteps: int [B].
            text: T5 states [B, M, P].
            mask: [B, M], 1 = keep.
            blocks: how many blocks to run.
        """
        t = self.transformer
        dtype = self.dtype
        size = len(latents)
        patch = t.config.patch_size
        cells = (latents.shape[-2] // patch, latents.shape[-1] // patch)
        bias = ((1 - mask.to(dtype)) * -10000.0).unsqueeze(1)  # [B, 1, M]
        hidden = t.pos_embed(latents.to(dtype))  # [B, L, I]
        modulation, embedded = t.adaln_single(
            timesteps, self.added_conditions(latents), batch_size=size, hidden_dtype=dtype
        )
        if t.caption_projection is not None:
            text = t.caption_projection(text.to(dtype)).view(size, -1, hidden.shape[-1])  # [B, M, I]
        state = Prefix(hidden, text, bias, modulation, embedded, cells, blocks=0)
        return self._run_blocks(state, blocks)

    @torch.no_grad()
    def prolonged(self, state: Prefix, blocks: int) -> Prefix:
        """A prefix continued from `state` up to block `blocks`: what `prefix` with so many blocks gives."""
        return self._run_blocks(state, blocks)

    def suffix(
        self,
        state: Prefix,
        attachment: Attachment | None,
        tokens: torch.Tensor | None = None,
        timesteps: torch.Tensor | None = None,
        content: torch.Tensor | None = None,
        style_scale: float = 1.0,
        *,
        checkpointed: bool = False,
    ) -> torch.Tensor:
        """Run the rest, from a prefix on.

        Args:
            state: the prefix.
            attachment: the adapter; with None, with tokens None, or with style_scale 0 this is the base model.
            tokens: style tokens [B, N, X].
            timesteps: int [B].
            content: latents [B, C, h, w], read in mode `latent` only, where they enter before the next block.
            style_scale: factor on every gate, and up to 1 on the content path.
            checkpointed: keep only the input of each block, and run the block again for its gradient.

        Returns:
            The network's whole output [B, C_out, h, w].
        """
        count = len(self.transformer.transformer_blocks)
        if attachment is None or tokens is None or timesteps is None or style_scale == 0.0:
            return self._output(self._run_blocks(state, count))
        adapter = attachment.adapter
        state = replace(state, hidden=adapter.with_content(state.hidden, content, style_scale))
        injection = adapter.injection(tokens, timesteps, state.cells, style_scale)

        def injected(block: Any, hidden: torch.Tensor, **conditions: torch.Tensor) -> torch.Tensor:
            # Around each block, not around the pass: when the gradient runs a block again, the pass has ended.
            with attachment.injecting(injection):
                result: torch.Tensor = block(hidden, **conditions)
            return result

        call: BlockCall = injected
        if checkpointed:
            call = partial(checkpoint, injected, use_reentrant=False, preserve_rng_state=False)
        return self._output(self._run_blocks(state, count, call))

    def epsilon(self, output: torch.Tensor, noised: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """ε, float32 [B, C, h, w], from the network's output: its first half where it also learned the variance."""
        prediction = self.prediction(output)
        alpha, sigma = self.schedule.coefficients(timesteps, prediction)  # each [B, 1, 1, 1]
        return as_epsilon(self.schedule.prediction_type, prediction, noised, alpha, sigma)

    def prediction(self, output: torch.Tensor) -> torch.Tensor:
        """The half of the output [B, C_out, h, w] that predicts the mean, float32 [B, C, h, w]."""
        if output.shape[1] == 2 * self.transformer.config.in_channels:  # the other half is the variance
            output = output.chunk(2, dim=1)[0]  # [B, C, h, w]
        return output.float()

    def added_conditions(self, latents: torch.Tensor) -> dict[str, torch.Tensor | None]:
        """`added_cond_kwargs` as the model's configuration needs them: picture size and aspect ratio, or neither."""
        if not self.transformer.use_additional_conditions:
            return {"resolution": None, "aspect_ratio": None}
        height = latents.shape[-2] * self.pixels_per_cell
        width = latents.shape[-1] * self.pixels_per_cell
        resolution = torch.tensor([height, width], dtype=self.dtype, device=latents.device)  # [2]
        ratio = torch.tensor([height / width], dtype=self.dtype, device=latents.device)  # [1]
        return {
            "resolution": resolution.repeat(len(latents), 1),  # [B, 2]
            "aspect_ratio": ratio.repeat(len(latents), 1),  # [B, 1]
        }

    def _run_blocks(self, state: Prefix, last: int, call: BlockCall = _plainly) -> Prefix:
        """Run the blocks after those of the state, up to `last`, each by call(block, hidden, …)."""
        hidden = state.hidden
        for block in self.transformer.transformer_blocks[state.blocks : last]:
            hidden = call(
                block,
                hidden,
                encoder_hidden_states=state.text,
                encoder_attention_mask=state.bias,
                timestep=state.modulation,
            )
        return replace(state, hidden=hidden, blocks=last)

    def _output(self, state: Prefix) -> torch.Tensor:
        t = self.transformer
        modulation = t.scale_shift_table[None] + state.embedded[:, None]  # [B, 2, I]
        shift, scale = modulation.chunk(2, dim=1)  # each [B, 1, I]
        hidden = t.norm_out(state.hidden) * (1 + scale) + shift  # [B, L, I]
        patches = t.proj_out(hidden)  # [B, L, p·p·C_out]
        rows, columns = state.cells
        p = t.config.patch_size
        patches = patches.reshape(-1, rows, columns, p, p, t.out_channels)  # [B, h/p, w/p, p, p, C_out]
        return torch.einsum("nhwpqc->nchpwq", patches).reshape(-1, t.out_channels, rows * p, columns * p)


def read_schedule(scheduler: Any) -> NoiseSchedule:
    """The schedule of a diffusers scheduler as its folder states it.

    Raises:
        RequestError: it is of another process than one of betas, or its betas are not known here.
    """
    foreign = foreign_process({**scheduler.config, "_class_name": type(scheduler).__name__})
    if foreign is not None:  # its betas are a default of the library that the model never saw
        raise RequestError(
            f"pixart/scheduler: a noise schedule of betas is needed, received {foreign}; name a PixArt-α"
        )
    return from_scheduler_config(dict(scheduler.config), name="pixart/scheduler")
