"""How the student draws: from the noise at the start of the use, by DDIM, to the latents of a picture.

Legend: B pictures of a batch, C × h × w latents, M text tokens, P T5's width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from bottega.diffusion.process import add_noise, ddim_step
from bottega.runtime.errors import RequestError
from bottega.runtime.seeds import torch_generator
from bottega.student.attach import Attachment
from bottega.student.backbone import Backbone
from bottega.student.config import SamplingConfig
from bottega.student.store import pad_text


class Sampler:
    """One batch on its way down the schedule: conditions are prepared once, the prefix is shared by the guided
    branches.

    styles, contents_clip, captions_clip: what `StyleAdapter.style` is shown; none is looked at without an adapter.
    prompts: T5 states of each caption's own tokens, [m_i, P]; null_prompt [1, P], needed for text guidance.
    Raises RequestError where the adapter needs what is not given.
    """

    def __init__(
        self,
        backbone: Backbone,
        attachment: Attachment | None,
        sampling: SamplingConfig,
        styles: torch.Tensor | None,
        contents_clip: torch.Tensor | None,
        prompts: Sequence[torch.Tensor],
        null_prompt: torch.Tensor | None,
        captions_clip: torch.Tensor | None = None,
    ) -> None:
        self.backbone, self.attachment, self.sampling = backbone, attachment, sampling
        device = backbone.device
        self.text = tuple(x.to(device) for x in pad_text([p.float() for p in prompts]))
        self.null = None
        if sampling.text_guidance != 1.0 and null_prompt is not None:
            self.null = tuple(x.to(device) for x in pad_text([null_prompt.float()] * len(prompts)))
        self.content: torch.Tensor | None = None
        self.tokens = self.null_tokens = None
        if attachment is not None:
            if styles is None or (contents_clip is None and not attachment.adapter.reads_patches):
                raise RequestError(
                    "an adapter needs the CLIP embeddings of style and content, or the patch tokens of the style if "
                    "its token_source is patch; pass styles_clip, and contents_clip with embeddings"
                )
            contents = None if contents_clip is None else contents_clip.to(device)
            shown = None if captions_clip is None else captions_clip.to(device)
            dropped = torch.zeros(len(styles), dtype=torch.bool, device=device)
            with torch.no_grad():
                self.tokens, self.null_tokens = (
                    attachment.adapter.style(styles.to(device), contents, without, shown)[0]
                    for without in (dropped, ~dropped)
                )

    @torch.no_grad()
    def draw(self, content: torch.Tensor, seeds: Sequence[int], start: int) -> torch.Tensor:
        """Content latents [B, C, h, w] -> the drawn picture's latents, float32."""
        backbone, schedule = self.backbone, self.backbone.schedule
        self.content = content.to(backbone.device)
        noise = torch.stack(
            [torch.randn(content.shape[1:], generator=torch_generator("student", seed)) for seed in seeds]
        )
        noise = noise.to(backbone.device)
        bar = schedule.alpha_bar_at(start)
        adapter = None if self.attachment is None else self.attachment.adapter
        blank = adapter is not None and adapter.config.start == "noise" and start == schedule.timesteps - 1
        x = noise if blank else add_noise(self.content, noise, bar**0.5, (1.0 - bar) ** 0.5)
        times = [*schedule.sampling_timesteps(start, self.sampling.steps), -1]
        for now, after in itertools.pairwise(times):
            epsilon = self.epsilon(x, torch.full((len(x),), now, device=backbone.device))
            x = ddim_step(x, epsilon, schedule.alpha_bar_at(now), schedule.alpha_bar_at(after))
        return x

    def epsilon(self, x: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        """ε with guidance on text and on style, nested: ε(∅,∅) + g_t (ε(t,∅) - ε(∅,∅)) + g_s (ε(t,s) - ε(t,∅)).

        After Brooks et al. 2023, eq. 3. Only the terms with a scale other than 1 are computed; guidance on the text
        alone keeps the style on both sides, ε(∅,s) + g_t (ε(t,s) - ε(∅,s)).
        """
        text_scale = self.sampling.text_guidance
        style_scale = self.sampling.style_guidance if self.attachment is not None else 1.0
        if style_scale == 1.0:
            styled = self._branch(x, times, self.text, [self.tokens])[0]
            if self.null is None:
                return styled
            without = self._branch(x, times, self.null, [self.tokens])[0]  # one condition to guide: style on both sides
            return without + text_scale * (styled - without)
        styled, plain = self._branch(x, times, self.text, [self.tokens, self.null_tokens])
        guided = plain + style_scale * (styled - plain)
        if self.null is None:
            return guided
        bare = self._branch(x, times, self.null, [self.null_tokens])[0]
        return guided + (text_scale - 1.0) * (plain - bare)

    def _branch(
        self, x: torch.Tensor, times: torch.Tensor, text: tuple[torch.Tensor, ...], tokens: list[torch.Tensor | None]
    ) -> list[torch.Tensor]:
        """ε for one caption and each of several sets of style tokens, with one prefix for all."""
        backbone, attachment = self.backbone, self.attachment
        blocks = 0 if attachment is None else attachment.adapter.first_block
        state = backbone.prefix(x, times, text[0], text[1], blocks)
        outputs = [
            backbone.suffix(state, attachment, one, times, self.content, self.sampling.style_scale) for one in tokens
        ]
        return [backbone.epsilon(output, x, times) for output in outputs]
