"""The methods that draw, behind one small interface: pairs and their pictures in, pictures out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cachetools import LRUCache

from bottega.data.records import Pair
from bottega.runtime.caching import get_or_compute
from bottega.runtime.files import sha256_bytes
from bottega.visual.pictures import FloatPicture, Picture, Pictures

if TYPE_CHECKING:
    import torch

    from bottega.student.inference import StylizeInputs

LOGGER = logging.getLogger(__name__)
_KEPT_BYTES = 1_000_000_000  # of latents and CLIP features; a style's patch tokens take 1.3 MB, a latent 64 KB

Sources = Sequence[tuple[Picture, Picture]]
"""Content and style of each pair, uint8 squares of the painter's size."""


class PairPainter(Protocol):
    """A method that draws pictures of `size` pixels a side."""

    size: int

    def draw(self, pairs: Sequence[Pair], sources: Sources, seed: int) -> Sequence[Picture | FloatPicture]:
        """A picture of each pair: uint8 [H, W, 3], or float32 in 0..1, NaN where it failed."""


def load_painter(row: str, settings: Mapping[str, Any], captions: Sequence[str]) -> PairPainter:
    """The painter of a row, with its models loaded.

    Args:
        row: "student", "base" or "teacher"; "fill50k" is the student's too, "fill50k_base" the base's.
        settings: JSON: `models`, and `teacher` with `truth` (the folder), or `adapter` (the file) with
            `style_captions` (by path), where it takes out what a style picture shows, and `null_style`, where the null
            tokens take the style's place.
        captions: every caption that will be drawn.

    Raises:
        MissingError: weights are not on this machine.
    """
    if row == "teacher":
        return _Teacher(settings)
    return _Student(settings, captions, with_adapter=row in ("student", "fill50k"))


class _Teacher:
    """The teacher at its protocol, one try a picture."""

    # No retries, for a retry would be chosen by the judge.

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from bottega.models.config import ModelsConfig
        from bottega.teacher.config import TeacherConfig

        config = TeacherConfig.model_validate(settings["teacher"])
        self.size = config.size
        self._generator: Any
        if config.source == "oracle":
            from bottega.teacher.oracle import Oracle

            self._generator = Oracle(Path(settings["truth"]), config.size)
        else:
            from bottega.teacher.generator import load_generator

            self._generator = load_generator(ModelsConfig.model_validate(settings["models"]), config)

    def draw(self, pairs: Sequence[Pair], sources: Sources, seed: int) -> Sequence[FloatPicture]:
        from bottega.teacher.items import Item

        items: list[Item] = []
        for pair, (content, style) in zip(pairs, sources, strict=True):
            items.append(
                Item(
                    pair_id=pair.pair_id,
                    content_id=pair.content_id,
                    style_id=pair.style_id,
                    prompt=pair.prompt,
                    seed=seed,
                    content=content,
                    style=style,
                )
            )
        drawn: Sequence[FloatPicture] = self._generator.generate(items)
        return drawn


class _Student:
    """PixArt with the adapter, or without it: everything else the same, to the noise."""

    def __init__(self, settings: Mapping[str, Any], captions: Sequence[str], *, with_adapter: bool) -> None:
        import torch

        from bottega.generation.style import StyleEngine
        from bottega.models.config import ModelsConfig

        # Not judged: what a picture is worth is measured afterwards, by the metrics.
        self._engine = StyleEngine(
            Path(settings["adapter"]),
            ModelsConfig.model_validate(settings["models"]),
            with_adapter=with_adapter,
            judged=False,
        )
        self.size = self._engine.size
        encoder = self._engine.text_encoder()
        # The empty caption too: guidance on the text compares with it.
        self._texts = {caption: encoder.encode([caption])[0] for caption in {*captions, ""}}
        # T5 goes before the engine loads the transformer: the two are never in memory together.
        del encoder
        vae = self._engine.parts.vae
        if vae.device.type == "cpu":
            # Channels innermost: the decoder then takes half as long; a picture differs by rounding alone.
            vae.vae.to(memory_format=torch.channels_last)
        self._encode = vae.encode
        self._clip = self._engine.clip if with_adapter else None
        self._adapter = self._engine.adapter
        self._null_style = bool(settings.get("null_style", False))
        self._style_captions: Mapping[str, str] | None = settings.get("style_captions") if with_adapter else None
        self._known: LRUCache[tuple[str, str], torch.Tensor] = LRUCache(
            _KEPT_BYTES, getsizeof=lambda tensor: tensor.nbytes
        )

    def draw(self, pairs: Sequence[Pair], sources: Sources, seed: int) -> Sequence[Picture | FloatPicture]:
        import numpy as np

        from bottega.runtime.errors import NonFiniteError

        try:
            return self._draw(pairs, sources, seed)
        except NonFiniteError:
            if len(pairs) == 1:
                return [np.full((self.size, self.size, 3), np.nan, np.float32)]
        # One picture of the batch failed: the others are drawn one by one.
        drawn: list[Picture | FloatPicture] = []
        for pair, source in zip(pairs, sources, strict=True):
            drawn += self.draw([pair], [source], seed)
        return drawn

    def timed(self, pair: Pair, source: tuple[Picture, Picture], seed: int) -> dict[str, float]:
        self._known.clear()  # what a picture costs that is the first of its content and style
        began = time.perf_counter()
        inputs = self._inputs([pair], [source])
        seconds = {"encode": time.perf_counter() - began}
        return {**seconds, **self._engine.draw(inputs, self._seeds([pair], seed)).result.seconds}

    def parameters(self) -> tuple[int, int]:
        parts = self._engine.parts
        frozen = sum(one.numel() for one in parts.backbone.transformer.parameters())
        frozen += sum(one.numel() for one in parts.vae.vae.parameters())
        added = 0 if self._adapter is None else sum(one.numel() for one in self._adapter.parameters())
        return added, frozen

    def _draw(self, pairs: Sequence[Pair], sources: Sources, seed: int) -> Sequence[Picture]:
        drawn = self._engine.draw(self._inputs(pairs, sources), self._seeds(pairs, seed))
        for note in drawn.result.notes:
            LOGGER.warning(note)
        return drawn.pixels

    def _seeds(self, pairs: Sequence[Pair], seed: int) -> list[int]:
        """Of the noise. The base gets the student's: nothing but the adapter is between them."""
        from bottega.runtime.seeds import derive

        return [derive("evaluation noise", seed, pair.content_id, pair.style_id) for pair in pairs]

    def _inputs(self, pairs: Sequence[Pair], sources: Sources) -> StylizeInputs:
        import numpy as np

        from bottega.student.inference import StylizeInputs

        contents = np.stack([content for content, _ in sources])  # [N, S, S, 3]
        styles = np.stack([style for _, style in sources])
        styles_clip, contents_clip = self._clip_features(styles, contents)
        return StylizeInputs(
            self._each_once("latents", contents, lambda picture: self._encode(picture[None])[0]),
            styles_clip,
            contents_clip,
            [self._texts[pair.prompt] for pair in pairs],
            self._texts[""],
            self._captions(pairs),
            self._null_style,
        )

    def _captions(self, pairs: Sequence[Pair]) -> Any:
        """CLIP embeddings of what the style pictures show, [N, D]; zeros for a style without a caption.

        None where the adapter takes none.
        """
        import torch

        clip, by_path = self._clip, self._style_captions
        if clip is None or by_path is None:
            return None

        def embed(caption: str) -> torch.Tensor:
            embedded = torch.from_numpy(clip.text([caption])[0])
            return embedded if caption else torch.zeros_like(embedded)

        rows: list[torch.Tensor] = []
        for pair in pairs:
            caption = by_path.get(pair.style_path, "")
            rows.append(get_or_compute(self._known, ("caption", caption), partial(embed, caption)))
        return torch.stack(rows)

    def _clip_features(self, styles: Pictures, contents: Pictures) -> tuple[Any, Any]:
        """CLIP's features of styles and of contents that the adapter takes; None for what it does not."""
        import torch

        clip, adapter = self._clip, self._adapter
        if clip is None or adapter is None:
            return None, None

        def patches(picture: Picture) -> torch.Tensor:
            return torch.from_numpy(clip.patches(picture[None])[0])

        def embed(picture: Picture) -> torch.Tensor:
            return torch.from_numpy(clip.image(picture[None])[0])

        if adapter.reads_patches:
            return self._each_once("patches", styles, patches), None
        return self._each_once("clip", styles, embed), self._each_once("clip", contents, embed)

    def _each_once(self, what: str, pictures: Pictures, call: Callable[[Any], Any]) -> Any:
        """What `call` gives for each picture, stacked."""
        import torch

        # Each picture is passed to it once and alone, for the pairs of a crossed grid share theirs.
        found = []
        for picture in pictures:
            key = (what, sha256_bytes(picture.tobytes()))
            found.append(get_or_compute(self._known, key, partial(call, picture)))
        return torch.stack(found)
