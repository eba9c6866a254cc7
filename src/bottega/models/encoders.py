"""What judges pictures: encoders as plain callables that quality control and evaluation are handed.

All take uint8 pictures [N, H, W, 3] (or N arrays of different sizes), prepare them as their folder says, and answer in
float32. A picture's answer does not depend on what it is batched with (1e-5). Models run in float32 where nothing else
is asked for, on a GPU too: they are small, and thresholds are calibrated on their numbers.

Symbols: N pictures or texts, D width of an embedding, K labels, T tokens, E hidden width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bottega.models.libraries import prepare
from bottega.models.loading import choose_device, choose_dtype, load_tokenizer, load_transformers
from bottega.models.preprocessing import Pictures, Preprocessing
from bottega.models.weights import read_config
from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
LOGGER = logging.getLogger(__name__)


class _Encoder:
    """A model in a folder with the preparation of its pictures, run batch by batch without gradients."""

    def __init__(self, folder: Path, kind: str, device: str, dtype: str, batch_size: int, **options: Any) -> None:
        prepare()
        import transformers

        self.folder, self.batch_size = folder, batch_size
        self.preprocessing = Preprocessing.read(folder)
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype)
        self.model = load_transformers(getattr(transformers, kind), folder, self.dtype, **options)
        self.model.to(self.device).requires_grad_(False)

    def _run(self, pictures: Pictures, call: Callable[[torch.Tensor], torch.Tensor]) -> Floats:
        """`call` on batches of prepared pictures [B, 3, S, S]; its results, as float32, one after the other."""
        import torch

        if len(pictures) == 0:
            raise ValueError("an encoder needs at least one picture, received none; leave the call out")
        results = []
        with torch.inference_mode():
            for start in range(0, len(pictures), self.batch_size):
                pixels = torch.from_numpy(self.preprocessing(pictures[start : start + self.batch_size]))
                results.append(call(pixels.to(self.device, self.dtype)).float().cpu().numpy())
        return np.concatenate(results)

    @property
    def _labels(self) -> list[str]:
        named = self.model.config.id2label
        return [str(named[index]) for index in sorted(named)]


class ClipEncoder(_Encoder):
    """CLIP's two towers. `folder` holds a CLIPModel, its preprocessing and its tokenizer."""

    def __init__(self, folder: Path, device: str = "auto", dtype: str = "float32", batch_size: int = 32) -> None:
        super().__init__(folder, "CLIPModel", device, dtype, batch_size)
        self.tokenizer = load_tokenizer(folder)

    @property
    def width(self) -> int:
        """D: width of the joint space."""
        return int(self.model.config.projection_dim)

    @property
    def token_width(self) -> int:
        """E: width of the picture tokens."""
        return int(self.model.config.vision_config.hidden_size)

    @property
    def tokens(self) -> int:
        """T: tokens a picture, the class token included."""
        vision = self.model.config.vision_config
        return int((vision.image_size // vision.patch_size) ** 2 + 1)

    def image(self, pictures: Pictures) -> Floats:
        """Embeddings [N, D] of unit norm in the space that pictures and texts share."""
        return self._run(pictures, lambda pixels: _unit(_pooled(self.model.get_image_features(pixel_values=pixels))))

    def patches(self, pictures: Pictures) -> Floats:
        """Hidden states [N, T, E] of the picture tower after its last block but one, class token first, not
        normalised: what the last block gathers into the embedding is here still spread over the picture.

        Source: Ye et al. 2023, whose IP-Adapter Plus reads these.
        """
        caught: list[torch.Tensor] = []

        def catch(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            caught[:] = [args[0] if args else kwargs["hidden_states"]]

        def call(pixels: torch.Tensor) -> torch.Tensor:
            self.model.vision_model(pixel_values=pixels)
            return caught[0]

        # What enters the last block; asking for all hidden states would keep those of every block.
        hook = self.model.vision_model.encoder.layers[-1].register_forward_pre_hook(catch, with_kwargs=True)
        try:
            return self._run(pictures, call)
        finally:
            hook.remove()

    def text(self, texts: Sequence[str]) -> Floats:
        """Embeddings [N, D] of unit norm. What exceeds the encoder's tokens (77 in OpenAI's) is cut, and logged."""
        import torch

        if not texts:
            raise ValueError("an encoder needs at least one text, received none; leave the call out")
        limit = int(self.model.config.text_config.max_position_embeddings)
        results = []
        with torch.inference_mode():
            for start in range(0, len(texts), self.batch_size):
                batch = list(texts[start : start + self.batch_size])
                self._log_cuts(batch, limit)
                tokens = self.tokenizer(
                    batch, padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
                )
                inputs = {name: tokens[name].to(self.device) for name in ("input_ids", "attention_mask")}
                results.append(_unit(_pooled(self.model.get_text_features(**inputs))).float().cpu().numpy())
        return np.concatenate(results)

    def _log_cuts(self, texts: list[str], limit: int) -> None:
        lengths = [len(ids) for ids in self.tokenizer(texts, verbose=False)["input_ids"]]
        if cut := sum(length > limit for length in lengths):
            LOGGER.warning("%s: %d of %d texts exceed %d tokens and are cut", self.folder.name, cut, len(texts), limit)


class StyleClassifier(_Encoder):
    """A picture classifier whose labels are style names: any class that AutoModelForImageClassification knows."""

    def __init__(self, folder: Path, device: str = "auto", dtype: str = "float32", batch_size: int = 32) -> None:
        super().__init__(folder, "AutoModelForImageClassification", device, dtype, batch_size)
        self.labels = self._labels

    def probabilities(self, pictures: Pictures) -> Floats:
        """Softmax over the labels, [N, K]."""
        return self._run(pictures, lambda pixels: self.model(pixel_values=pixels).logits.float().softmax(dim=-1))


class StructureEncoder(_Encoder):
    """The keys of a ViT's last block: what lies where, with little of how it looks.

    Source: Tumanyan et al. 2022 (Splice), whose structure distance is the mean squared difference of the tokens'
    self-similarity matrices; the caller computes it.
    """

    def __init__(self, folder: Path, device: str = "auto", dtype: str = "float32", batch_size: int = 32) -> None:
        # A ViT's pooling layer is not used here, and published weights (DINO's) lack it.
        plain = read_config(folder / "config.json").get("model_type") == "vit"
        options = {"add_pooling_layer": False} if plain else {}
        super().__init__(folder, "ViTModel" if plain else "AutoModel", device, dtype, batch_size, **options)
        self._key_layer = _key_layers(self.model)[-1]

    def keys(self, pictures: Pictures) -> Floats:
        """Keys [N, T, D] of the last block, heads side by side, class token first, each of unit norm."""
        caught: list[torch.Tensor] = []
        hook = self._key_layer.register_forward_hook(lambda module, inputs, output: caught.append(output))

        def call(pixels: torch.Tensor) -> torch.Tensor:
            caught.clear()
            self.model(pixel_values=pixels)
            return _unit(caught[0])

        try:
            return self._run(pictures, call)
        finally:
            hook.remove()


class SceneReader(_Encoder):
    """Says of each pixel which class it belongs to: any class that AutoModelForSemanticSegmentation knows."""

    def __init__(self, folder: Path, device: str = "auto", dtype: str = "float32", batch_size: int = 32) -> None:
        super().__init__(folder, "AutoModelForSemanticSegmentation", device, dtype, batch_size)
        self.labels = self._labels
        if len(self.labels) > 256:
            raise RequestError(
                f"{folder}: class ids are kept in a byte, so at most 256 classes are read, received "
                f"{len(self.labels)}; name another model"
            )

    def segment(self, pictures: Pictures) -> NDArray[np.uint8]:
        """Class ids [N, H, W] at the pictures' own size, which all must share: logits enlarged, then the highest."""
        import torch

        sizes = {picture.shape[:2] for picture in pictures}
        if len(sizes) > 1:
            raise ValueError(f"pictures must share one size, received {sorted(sizes)}; segment them apart")
        if self.preprocessing.crop is not None and any(height != width for height, width in sizes):
            raise ValueError(
                f"{self.folder.name} crops, so only square pictures keep their places, received {sizes}; "
                "crop them first"
            )

        def call(pixels: torch.Tensor) -> torch.Tensor:
            logits = self.model(pixel_values=pixels).logits.float()  # [B, K, h, w]
            full = torch.nn.functional.interpolate(logits, size=next(iter(sizes)), mode="bilinear", align_corners=False)
            return full.max(dim=1).indices  # [B, H, W]; argmax over this dimension takes four times as long

        return self._run(pictures, call).astype(np.uint8)


def _key_layers(model: Any) -> list[torch.nn.Module]:
    """The key projection of each block, whose name differs between versions of transformers."""
    found = [module for name, module in model.named_modules() if name.endswith(("k_proj", ".key"))]
    blocks = int(model.config.num_hidden_layers)
    if len(found) != blocks:
        raise RequestError(
            f"{type(model).__name__}: {blocks} blocks but {len(found)} key projections (named *k_proj or "
            "*.key); name a ViT, or use a version of transformers that is tested"
        )
    return found


def _pooled(features: Any) -> torch.Tensor:
    """transformers 4 answers with the embedding itself, 5 with an output that holds it as `pooler_output`."""
    pooled: torch.Tensor = getattr(features, "pooler_output", features)
    return pooled


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(vectors.float(), dim=-1)
