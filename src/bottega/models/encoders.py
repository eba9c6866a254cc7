"""Encoders that judge pictures, as plain callables that quality control and evaluation receive.

All take uint8 pictures [N, H, W, 3] (or N arrays of different sizes), prepare them as their folder says, and return
float32. A picture's result does not depend on what it is batched with (1e-5). Models run in float32 unless another
dtype is given, on a GPU too: they are small, and thresholds are calibrated on their numbers.

Symbols: N pictures or texts, D width of an embedding, K labels, T tokens, E hidden width.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bottega.models.layout import STYLE_PROJECTION
from bottega.models.libraries import prepare
from bottega.models.loading import choose_device, choose_dtype, encoder_class, load_tokenizer, load_transformers
from bottega.models.preprocessing import Pictures, Preprocessing
from bottega.models.weights import read_headers
from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    import torch

Floats = NDArray[np.float32]
MAX_CLASSES = 256  # class ids are kept in a byte
LOGGER = logging.getLogger(__name__)


class _Encoder:
    """A model in a folder with the preparation of its pictures, run batch by batch without gradients."""

    def __init__(self, folder: Path, role: str, device: str, dtype: str, batch_size: int) -> None:
        prepare()
        import transformers

        kind, options = encoder_class(role, folder)
        self.folder = folder
        self.batch_size = batch_size
        self.preprocessing = Preprocessing.read(folder)  # before the weights: it fails in milliseconds
        self.device = choose_device(device)
        self.dtype = choose_dtype(dtype)
        self.model = load_transformers(getattr(transformers, kind), folder, self.dtype, **options)
        self.model.to(self.device).requires_grad_(False)

    def _channels_last(self) -> None:
        """Store the weights with the channels innermost: convolutions and pooling then take about half as long."""
        import torch

        self.model.to(memory_format=torch.channels_last)

    def _run(self, pictures: Pictures, call: Callable[[torch.Tensor], torch.Tensor]) -> Floats:
        """`call` on batches of prepared pictures [B, 3, S, S]; its results, as float32, one after the other."""
        import torch

        if len(pictures) == 0:
            raise ValueError("an encoder needs at least one picture, received none; leave the call out")
        results = []
        with torch.inference_mode():
            for start in range(0, len(pictures), self.batch_size):
                batch = self.preprocessing(pictures[start : start + self.batch_size])
                pixels = torch.from_numpy(batch).to(self.device, self.dtype)
                results.append(call(pixels).float().cpu().numpy())
        return np.concatenate(results)

    @property
    def _labels(self) -> list[str]:
        by_index = self.model.config.id2label
        return [str(by_index[index]) for index in sorted(by_index)]


class ClipEncoder(_Encoder):
    """CLIP's two towers. `folder` holds a CLIPModel, its preprocessing and its tokenizer."""

    def __init__(self, folder: Path, device: str = "auto", dtype: str = "float32", batch_size: int = 32) -> None:
        super().__init__(folder, "clip", device, dtype, batch_size)
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

        def embed(pixels: torch.Tensor) -> torch.Tensor:
            return _unit(_pooled(self.model.get_image_features(pixel_values=pixels)))

        return self._run(pictures, embed)

    def patches(self, pictures: Pictures) -> Floats:
        """Hidden states [N, T, E] of the picture tower after its last block but one, class token first, not
        normalised: what the last block gathers into the embedding is here still spread over the picture.

        Source: Ye et al. 2023, whose IP-Adapter Plus reads these.
        """
        captured: list[torch.Tensor] = []

        def capture_input(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            captured[:] = args[:1] or [kwargs["hidden_states"]]  # transformers 5 passes it by name

        def hidden_states(pixels: torch.Tensor) -> torch.Tensor:
            self.model.vision_model(pixel_values=pixels)
            return captured[0]

        # A hook on what enters the last block: `output_hidden_states=True` would keep those of every block in memory.
        last_block = self.model.vision_model.encoder.layers[-1]
        hook = last_block.register_forward_pre_hook(capture_input, with_kwargs=True)
        try:
            return self._run(pictures, hidden_states)
        finally:
            hook.remove()

    def text(self, texts: Sequence[str]) -> Floats:
        """Embeddings [N, D] of unit norm. A text beyond the encoder's tokens (77 in OpenAI's) is cut, and logged."""
        import torch

        if not texts:
            raise ValueError("an encoder needs at least one text, received none; leave the call out")
        limit = int(self.model.config.text_config.max_position_embeddings)
        results = []
        with torch.inference_mode():
            for start in range(0, len(texts), self.batch_size):
                batch = list(texts[start : start + self.batch_size])
                self._log_cuts(batch, limit)
                # One length for all: padded to the longest of a batch, a text's last bits would depend on the others.
                tokens = self.tokenizer(
                    batch, padding="max_length", truncation=True, max_length=limit, return_tensors="pt"
                )
                features = self.model.get_text_features(
                    input_ids=tokens["input_ids"].to(self.device),
                    attention_mask=tokens["attention_mask"].to(self.device),
                )
                results.append(_unit(_pooled(features)).float().cpu().numpy())
        return np.concatenate(results)

    def _log_cuts(self, texts: list[str], limit: int) -> None:
        lengths = [len(ids) for ids in self.tokenizer(texts, verbose=False)["input_ids"]]
        num_cut = sum(length > limit for length in lengths)
        if num_cut:
            LOGGER.warning(
                "%s: %d of %d texts exceed %d tokens and are cut", self.folder.name, num_cut, len(texts), limit
            )


class StyleClassifier(_Encoder):
    """A picture classifier whose labels are style names: any class that AutoModelForImageClassification knows."""

    def __init__(self, folder: Path, device: str = "auto", dtype: str = "float32", batch_size: int = 32) -> None:
        super().__init__(folder, "style_classifier", device, dtype, batch_size)
        self._channels_last()
        self.labels = self._labels

    def probabilities(self, pictures: Pictures) -> Floats:
        """Softmax over the labels, [N, K]."""

        def classify(pixels: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.model(pixel_values=pixels).logits  # [B, K]
            return logits.float().softmax(dim=-1)

        return self._run(pictures, classify)


class StyleEncoder(_Encoder):
    """Contrastive style descriptors: how a picture is painted, with little of what it shows.

    The pooled output of CLIP's picture tower, without CLIP's own projection, times one matrix.

    Source: Somepalli et al. 2024 (CSD), section 4.
    """

    def __init__(self, folder: Path, device: str = "auto", dtype: str = "float32", batch_size: int = 32) -> None:
        super().__init__(folder, "style_encoder", device, dtype, batch_size)
        self._projection = self._read_projection(folder / STYLE_PROJECTION)

    def embedding(self, pictures: Pictures) -> Floats:
        """Descriptors [N, D] of unit norm."""

        def embed(pixels: torch.Tensor) -> torch.Tensor:
            pooled: torch.Tensor = self.model(pixel_values=pixels).pooler_output  # [B, E]
            return _unit(pooled.float() @ self._projection)

        return self._run(pictures, embed)

    def _read_projection(self, file: Path) -> torch.Tensor:
        from safetensors.torch import load_file

        read_headers((file,))  # a damaged file is named here, and not by the library
        tensors: dict[str, torch.Tensor] = load_file(file)
        width = int(self.model.config.hidden_size)
        matrix = tensors.get("style")
        if matrix is None or matrix.ndim != 2 or len(matrix) != width:
            shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
            raise RequestError(
                f"{file} must hold the tensor `style` of shape [{width}, D], received {shapes}; save CSD's "
                "last_layer_style under that name"
            )
        return matrix.float().to(self.device)


class StructureEncoder(_Encoder):
    """The keys of a ViT's last block: what is where, with little of how it looks.

    Source: Tumanyan et al. 2022 (Splice), whose structure distance is the mean squared difference of the tokens'
    self-similarity matrices; the caller computes it.
    """

    def __init__(self, folder: Path, device: str = "auto", dtype: str = "float32", batch_size: int = 32) -> None:
        super().__init__(folder, "structure_encoder", device, dtype, batch_size)
        self._key_layer = _key_layers(self.model)[-1]

    def keys(self, pictures: Pictures) -> Floats:
        """Keys [N, T, D] of the last block, heads side by side, class token first, each of unit norm."""
        return self.keys_and_embedding(pictures)[:, :-1]

    def embedding(self, pictures: Pictures) -> Floats:
        """The class token after the last block and its normalisation, [N, D], of unit norm: what the picture shows."""
        return self.keys_and_embedding(pictures)[:, -1]

    def keys_and_embedding(self, pictures: Pictures) -> Floats:
        """Both of one pass, [N, T + 1, D]: the T keys, then the embedding."""
        captured: list[torch.Tensor] = []

        def capture_output(module: Any, inputs: Any, output: torch.Tensor) -> None:
            captured[:] = [output]

        def both(pixels: torch.Tensor) -> torch.Tensor:
            import torch

            hidden = self.model(pixel_values=pixels).last_hidden_state  # [B, T, D]
            return torch.cat([_unit(captured[0]), _unit(hidden[:, :1])], dim=1)

        hook = self._key_layer.register_forward_hook(capture_output)
        try:
            return self._run(pictures, both)
        finally:
            hook.remove()


class SceneReader(_Encoder):
    """Semantic segmentation, the class of each pixel: any model that AutoModelForSemanticSegmentation knows."""

    def __init__(self, folder: Path, device: str = "auto", dtype: str = "float32", batch_size: int = 32) -> None:
        super().__init__(folder, "scene_reader", device, dtype, batch_size)
        self._channels_last()
        self.labels = self._labels
        if len(self.labels) > MAX_CLASSES:
            raise RequestError(
                f"{folder}: class ids are kept in a byte, so at most {MAX_CLASSES} classes are read, received "
                f"{len(self.labels)}; name another model"
            )

    def segment(self, pictures: Pictures) -> NDArray[np.uint8]:
        """Class ids [N, H, W] at the pictures' own size, which all must share: logits enlarged, then the highest."""
        import torch

        sizes = {picture.shape[:2] for picture in pictures}
        if len(sizes) > 1:
            raise ValueError(
                f"pictures must share one size, received {sorted(sizes)}; segment each size in its own call"
            )
        height, width = next(iter(sizes), (0, 0))
        if self.preprocessing.crop is not None and height != width:
            raise ValueError(
                f"{self.folder.name} crops, so only square pictures keep their positions, received {height}x{width}; "
                "crop them first"
            )

        def classes(pixels: torch.Tensor) -> torch.Tensor:
            logits = self.model(pixel_values=pixels).logits.float()  # [B, K, h, w]
            enlarged = torch.nn.functional.interpolate(
                logits, size=(height, width), mode="bilinear", align_corners=False
            )  # [B, K, H, W]
            return enlarged.max(dim=1).indices  # [B, H, W]; argmax over this dimension takes four times as long

        return self._run(pictures, classes).astype(np.uint8)


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
    """transformers 4 returns the embedding itself, 5 an output that holds it as `pooler_output`."""
    pooled: torch.Tensor = getattr(features, "pooler_output", features)
    return pooled


def _unit(vectors: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(vectors.float(), dim=-1)
