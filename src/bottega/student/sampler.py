"""How the student draws a batch: from noise at the start timestep, by DDIM, to the latents of pictures.

Legend: B pictures of a batch, C × h × w latents, M text tokens, N style tokens of width X, P T5's width.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from bottega.diffusion.process import add_noise, ddim_step
from bottega.runtime.errors import RequestError
from bottega.runtime.seeds import torch_generator
from bottega.student.attach import Attachment
from bottega.student.backbone import Backbone
from bottega.student.config import SamplingConfig
from bottega.student.store import pad_text

AfterStep = Callable[[int, int, int, torch.Tensor], None]
"""Called after each step: its index from 0, steps in all, its timestep, and the latents [B, C, h, w]. What it raises
ends the drawing."""


@dataclass(frozen=True)
class _PaddedText:
    """T5 states [B, M, P] and their mask [B, M], on the backbone's device."""

    states: torch.Tensor
    mask: torch.Tensor


class Sampler:
    """Draws one batch: conditions are prepared once, and guided branches share the prefix of the network.

    Args:
        backbone: the frozen transformer.
        attachment: the adapter in it; None draws with the base.
        sampling: steps, guidance and style scale.
        styles: as `StyleAdapter.style` reads them; not read without an adapter.
        contents_clip: CLIP embeddings [B, D] of the contents; None for an adapter that reads patch tokens.
        prompts: T5 states of each caption's own tokens, [m_i, P].
        null_prompt: T5 states of "" [1, P], needed for text guidance.
        captions_clip: CLIP embeddings [B, D] of what the style pictures show.
        null_style: take the null tokens in the styles' place.

    Raises:
        RequestError: the adapter needs what is not given.
    """

    def __init__(  # noqa: PLR0913 (each input of a batch has its own shape; a record would only rename them)
        self,
        backbone: Backbone,
        attachment: Attachment | None,
        sampling: SamplingConfig,
        styles: torch.Tensor | None,
        contents_clip: torch.Tensor | None,
        prompts: Sequence[torch.Tensor],
        null_prompt: torch.Tensor | None,
        captions_clip: torch.Tensor | None = None,
        *,
        null_style: bool = False,
    ) -> None:
        self.backbone = backbone
        self.attachment = attachment
        self.sampling = sampling
        self.text = self._padded(prompts)
        self.null: _PaddedText | None = None
        if sampling.text_guidance != 1.0 and null_prompt is not None:
            self.null = self._padded([null_prompt] * len(prompts))
        self.content: torch.Tensor | None = None
        self.tokens: torch.Tensor | None = None  # [B, N, X]
        self.null_tokens: torch.Tensor | None = None
        if attachment is not None:
            self._prepare_style(attachment, styles, contents_clip, captions_clip)
            if null_style:
                self.tokens = self.null_tokens

    def _padded(self, prompts: Sequence[torch.Tensor]) -> _PaddedText:
        states, mask = pad_text([prompt.float() for prompt in prompts])
        return _PaddedText(states.to(self.backbone.device), mask.to(self.backbone.device))

    @torch.no_grad()
    def _prepare_style(
        self,
        attachment: Attachment,
        styles: torch.Tensor | None,
        contents_clip: torch.Tensor | None,
        captions_clip: torch.Tensor | None,
    ) -> None:
        """Make the style tokens, and the null tokens for guidance on the style."""
        adapter = attachment.adapter
        if styles is None or (contents_clip is None and not adapter.reads_patches):
            raise RequestError(
                "an adapter needs the CLIP embeddings of style and content, or the patch tokens of the style if "
                "its token_source is patch; pass styles_clip, and contents_clip with embeddings"
            )
        device = self.backbone.device
        styles = styles.to(device)
        contents = None if contents_clip is None else contents_clip.to(device)
        captions = None if captions_clip is None else captions_clip.to(device)
        kept = torch.zeros(len(styles), dtype=torch.bool, device=device)  # [B]
        self.tokens, _ = adapter.style(styles, contents, kept, captions)  # [B, N, X]
        self.null_tokens, _ = adapter.style(styles, contents, ~kept, captions)

    @torch.no_grad()
    def draw(
        self, content: torch.Tensor, seeds: Sequence[int], start: int, after_step: AfterStep | None = None
    ) -> torch.Tensor:
        """Draw the batch.

        Args:
            content: latents [B, C, h, w].
            seeds: of the noise, one a picture.
            start: the first timestep.
            after_step: see `AfterStep`.

        Returns:
            Latents of the pictures, float32 [B, C, h, w].
        """
        schedule = self.backbone.schedule
        device = self.backbone.device
        self.content = content.to(device)
        # By picture and on the CPU: the noise depends neither on the batch nor on the device.
        draws = [torch.randn(content.shape[1:], generator=torch_generator("student", seed)) for seed in seeds]
        x = torch.stack(draws).to(device)  # [B, C, h, w]
        if not self._starts_from_noise(start):
            bar = schedule.alpha_bar_at(start)
            x = add_noise(self.content, x, bar**0.5, (1.0 - bar) ** 0.5)
        timesteps = [*schedule.sampling_timesteps(start, self.sampling.steps), -1]  # -1: the clean picture
        for index, (now, after) in enumerate(itertools.pairwise(timesteps)):
            epsilon = self.epsilon(x, torch.full((len(x),), now, device=device))  # [B, C, h, w]
            x = ddim_step(x, epsilon, schedule.alpha_bar_at(now), schedule.alpha_bar_at(after))
            if after_step is not None:
                after_step(index, len(timesteps) - 1, now, x)
        return x

    def _starts_from_noise(self, start: int) -> bool:
        """Whether the adapter was trained to begin from pure noise, and does so here."""
        if self.attachment is None:
            return False
        return self.attachment.adapter.config.start == "noise" and start == self.backbone.schedule.timesteps - 1

    def epsilon(self, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """ε with guidance on text and on style, nested: ε(∅,∅) + g_t (ε(t,∅) - ε(∅,∅)) + g_s (ε(t,s) - ε(t,∅)).

        After Brooks et al. 2023, eq. 3. Only the terms with a scale other than 1 are computed. Guidance on the text
        alone keeps the style on both sides: ε(∅,s) + g_t (ε(t,s) - ε(∅,s)).

        Args:
            x: latents [B, C, h, w].
            times: int [B].
        """
        text_scale = self.sampling.text_guidance
        style_scale = self.sampling.style_guidance if self.attachment is not None else 1.0
        if style_scale == 1.0:
            (styled,) = self._branches(x, times, self.text, [self.tokens])
            if self.null is None:
                return styled
            (without_text,) = self._branches(x, times, self.null, [self.tokens])
            return without_text + text_scale * (styled - without_text)
        styled, plain = self._branches(x, times, self.text, [self.tokens, self.null_tokens])
        guided = plain + style_scale * (styled - plain)
        if self.null is None:
            return guided
        (bare,) = self._branches(x, times, self.null, [self.null_tokens])
        return guided + (text_scale - 1.0) * (plain - bare)

    def _branches(
        self, x: torch.Tensor, times: torch.Tensor, text: _PaddedText, tokens: list[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """ε for one text and each of several sets of style tokens, with one prefix for all."""
        blocks = 0 if self.attachment is None else self.attachment.adapter.first_block
        state = self.backbone.prefix(x, times, text.states, text.mask, blocks)
        branches = []
        for style in tokens:
            output = self.backbone.suffix(state, self.attachment, style, times, self.content, self.sampling.style_scale)
            branches.append(self.backbone.epsilon(output, x, times))
        return branches
