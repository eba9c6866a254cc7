"""Loading: the teacher's pipeline and PixArt's parts, from folders, offline, from safetensors only.

Every component is loaded by its own class with `local_files_only` and `use_safetensors`, and a weight that the file
lacks is an error: the libraries would fill it with random numbers and say so in a log line.
torch and the model libraries are imported inside the functions, because `missing` serves `--dry-run`.
"""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bottega.models import ip_adapter as adapters
from bottega.models.agreement import precision_cautions, require_teacher
from bottega.models.layout import SENTENCEPIECE, inspect, locate, missing, needs_sentencepiece, weight_files
from bottega.models.libraries import prepare
from bottega.models.names import resolve
from bottega.models.weights import FETCH_AGAIN, TensorInfo, find_weights, read_config, read_headers
from bottega.runtime.errors import BottegaError, MissingError, RequestError
from bottega.runtime.mapped import giving_back
from bottega.runtime.memory import is_out_of_memory

if TYPE_CHECKING:
    import torch
    from diffusers import StableDiffusionXLImg2ImgPipeline

LOGGER = logging.getLogger(__name__)

__all__ = [
    "PIXART_PARTS", "choose_device", "choose_dtype", "encoder_class", "inspect", "load_diffusers", "load_pixart_parts",
    "load_scheduler", "load_teacher_pipeline", "load_tokenizer", "load_transformers", "load_vae", "locate",
    "missing", "refused_parts", "require_loadable", "resolve", "weight_files",
]  # fmt: skip
PIXART_PARTS = ("transformer", "text_encoder", "tokenizer", "vae", "scheduler")
FULL_SIZE = 500_000_000
"""Weights beyond which a network must not run in float32: PixArt-α has 600 million, SDXL's U-Net 2.6 billion, the
miniature's networks a few million."""
_AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device that a setting means: "auto" is the first CUDA device where there is one, else the CPU.

    In one of several processes of `accelerate launch`, "auto" and "cuda" are the device with that process's number.

    Raises:
        MissingError: a CUDA device was set that this machine doesn't have.
        RequestError: torch doesn't know the name.
    """
    import torch

    local_rank = os.environ.get("LOCAL_RANK")
    if device == "auto":
        device = f"cuda:{local_rank or 0}" if torch.cuda.is_available() else "cpu"
    elif device == "cuda" and local_rank is not None:
        device = f"cuda:{local_rank}"
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise RequestError(f"device: {device!r} is none that torch knows; use auto, cpu, cuda or cuda:1") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise MissingError(
            f"device: {device} asked for, {torch.cuda.device_count()} CUDA devices here; use auto or cpu"
        )
    return chosen


def choose_dtype(dtype: str | torch.dtype = "auto", device: str | torch.device = "auto") -> torch.dtype:
    """The dtype that a setting means: "auto" is float32 on the CPU, bfloat16 on a GPU that computes in it, float16 on
    an older one.

    Raises:
        RequestError: another name.
    """
    import torch

    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        if choose_device(device).type == "cpu":
            return torch.float32
        ampere_or_later = torch.cuda.get_device_capability()[0] >= 8  # older GPUs emulate bfloat16, slowly
        return torch.bfloat16 if ampere_or_later else torch.float16
    by_name = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in by_name:
        raise RequestError(f"dtype: {dtype!r} is not one of auto, {', '.join(by_name)}; use one of them")
    return by_name[dtype]


def load_teacher_pipeline(
    sdxl: Path,
    ip_adapter: Path,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
    vae: Path | None = None,
) -> StableDiffusionXLImg2ImgPipeline:
    """diffusers' SDXL image-to-image pipeline with an IP-Adapter in it, in evaluation mode on `device`.

    The scheduler is the folder's own: the teacher's protocol sets the one it needs. No watermark is drawn on the
    pictures.

    Args:
        sdxl: folder in the layout of StableDiffusionXLPipeline.
        ip_adapter: folder or file of the adapter, with its image encoder beside it.
        dtype: of all parts; see `choose_dtype`.
        device: where the pipeline ends up; see `choose_device`.
        vae: another autoencoder's folder in place of sdxl/vae.

    Raises:
        RequestError: adapter, image encoder and U-Net don't belong together, or the U-Net is of another diffusion
            process than the teacher samples; found before anything is loaded.
        MissingError, StorageError: a file is absent or incomplete.
    """
    # Refuse what does not belong together, by headers alone, before gigabytes are read.
    adapter = adapters.adapter_file(ip_adapter)
    encoder = adapters.encoder_folder(adapter)
    adapters.check(adapter, encoder, sdxl / "unet")
    for caution in (*require_teacher(sdxl), *precision_cautions("sdxl", find_weights(sdxl / "unet").files)):
        LOGGER.warning("%s", caution)
    target, kind = choose_device(device), choose_dtype(dtype, device)
    refuse_fp32(sdxl / "unet", kind)
    prepare()
    from diffusers import StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPVisionModelWithProjection

    index_file = sdxl / "model_index.json"
    index = read_config(index_file) if index_file.exists() else {}
    # Each part by its own loader: the pipeline's would fill a weight that is absent with random numbers.
    pipeline = StableDiffusionXLImg2ImgPipeline(
        vae=load_vae(vae or sdxl / "vae", kind),
        text_encoder=load_transformers(CLIPTextModel, sdxl / "text_encoder", kind),
        text_encoder_2=load_transformers(CLIPTextModelWithProjection, sdxl / "text_encoder_2", kind),
        tokenizer=load_tokenizer(sdxl / "tokenizer"),
        tokenizer_2=load_tokenizer(sdxl / "tokenizer_2"),
        unet=load_diffusers(UNet2DConditionModel, sdxl / "unet", kind),
        scheduler=load_scheduler(sdxl / "scheduler"),
        image_encoder=load_transformers(CLIPVisionModelWithProjection, encoder, kind),
        feature_extractor=_feature_extractor(encoder),
        force_zeros_for_empty_prompt=bool(index.get("force_zeros_for_empty_prompt", True)),
        add_watermarker=False,
    )
    _load_adapter(pipeline, adapter)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(target)


def refuse_fp32(folder: Path, dtype: torch.dtype) -> None:
    """Refuse float32 for a network of full size, by its headers: twice the memory and a third of the speed, for no
    better picture.

    Raises:
        RequestError: the network has more than `FULL_SIZE` weights.
    """
    refuse_fp32_tensors(folder, read_headers(find_weights(folder).files), dtype)


def refuse_fp32_tensors(path: Path, tensors: Mapping[str, TensorInfo], dtype: torch.dtype) -> None:
    """As `refuse_fp32`, for a network whose header is read already; `path` is named in the message."""
    import torch

    if dtype != torch.float32:
        return
    num_weights = sum(math.prod(tensor.shape) for tensor in tensors.values())
    if num_weights > FULL_SIZE:
        raise RequestError(
            f"{path}: a network of full size must run in bfloat16 or float16, received float32 for "
            f"{num_weights / 1e9:.1f} billion weights ({num_weights * 4 / 1e9:.0f} GB); set models.dtype to bfloat16"
        )


def _load_adapter(pipeline: StableDiffusionXLImg2ImgPipeline, adapter: Path) -> None:
    """The image encoder and its preprocessing are in the pipeline already, so only the adapter's file is read."""
    with _silent_libraries():  # diffusers casts the U-Net to the dtype that it has already, and warns of that
        pipeline.load_ip_adapter(str(adapter.parent), subfolder="", weight_name=adapter.name, local_files_only=True)


def load_pixart_parts(
    folder: Path,
    parts: Iterable[str] = PIXART_PARTS,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "auto",
) -> Mapping[str, Any]:
    """Parts of a folder in the layout of PixArtAlphaPipeline, by name: only what is asked for is read.

    While an adapter trains, T5 (9 GB in bfloat16) and the autoencoder need not be in memory. Models are in evaluation
    mode, without gradients, on `device`.

    Args:
        folder: the pipeline's folder.
        parts: of `PIXART_PARTS`.
        dtype: of the models; see `choose_dtype`.
        device: see `choose_device`.

    Raises:
        RequestError: an unknown part.
        MissingError, StorageError: a file is absent or incomplete.
    """
    names = tuple(parts)
    for name in names:
        if name not in PIXART_PARTS:
            raise RequestError(f"parts: {name!r} is not a part of PixArt; use some of {', '.join(PIXART_PARTS)}")
    target, kind = choose_device(device), choose_dtype(dtype, device)
    prepare()
    return {name: _pixart_part(folder / name, name, kind, target) for name in names}


def _pixart_part(folder: Path, part: str, dtype: torch.dtype, device: torch.device) -> Any:
    from diffusers import PixArtTransformer2DModel
    from transformers import T5EncoderModel

    if part == "tokenizer":
        return load_tokenizer(folder)
    if part == "scheduler":
        return load_scheduler(folder)
    if part == "vae":
        model = load_vae(folder, dtype)
    elif part == "text_encoder":
        model = load_transformers(T5EncoderModel, folder, dtype)
    else:
        model = load_diffusers(PixArtTransformer2DModel, folder, dtype)
    return model.to(device).requires_grad_(False)


def load_vae(folder: Path, dtype: str | torch.dtype = "float32") -> Any:
    """An AutoencoderKL or AutoencoderTiny, as its config.json says, in evaluation mode on the CPU."""
    prepare()
    return load_diffusers(_autoencoder_class(folder), folder, choose_dtype(dtype))


def _autoencoder_class(folder: Path) -> Any:
    import diffusers

    name = read_config(folder / "config.json").get("_class_name")
    if name not in _AUTOENCODERS:
        raise RequestError(
            f"{folder}: an autoencoder must be one of {', '.join(_AUTOENCODERS)}, received {name}; name another folder"
        )
    return getattr(diffusers, name)


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, of whichever published form.

    Raises:
        MissingError: the folder is absent, or the tokenizer's reader is not installed.
    """
    prepare()
    from transformers import AutoTokenizer

    if not folder.is_dir():
        raise MissingError(f"{folder}: the tokenizer's folder is missing; fetch the model again, whole")
    if needs_sentencepiece(folder):
        raise MissingError(f"{folder}: {SENTENCEPIECE}")
    with _naming(folder, "its files don't make a tokenizer", FETCH_AGAIN):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def load_scheduler(folder: Path) -> Any:
    """The scheduler that a folder names, with its configuration."""
    import diffusers

    name = read_config(folder / "scheduler_config.json").get("_class_name")
    kind: Any = getattr(diffusers, str(name), None)
    is_scheduler = isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)
    if not is_scheduler:
        raise RequestError(
            f"{folder}: scheduler_config.json names {name!r:.60}, no scheduler of diffusers; {FETCH_AGAIN}"
        )
    with _naming(folder, f"scheduler_config.json doesn't make a {kind.__name__}", FETCH_AGAIN):
        return kind.from_pretrained(folder, local_files_only=True)


def _feature_extractor(encoder: Path) -> Any:
    """How pictures are prepared for the IP-Adapter's encoder: as its folder says, else as for CLIP, at its own size.

    The published IP-Adapter repositories come without a preprocessor_config.json.
    """
    from transformers import CLIPImageProcessor

    if (encoder / "preprocessor_config.json").exists():
        with _naming(encoder, "preprocessor_config.json can't be used", FETCH_AGAIN):
            return CLIPImageProcessor.from_pretrained(encoder, local_files_only=True)
    side = read_config(encoder / "config.json").get("image_size", 224)
    with _naming(encoder, "image_size in config.json can't be used", FETCH_AGAIN):
        return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def refused_parts(role: str, folder: Path) -> list[str]:
    """What loading a role's model would refuse, in the words in which it would.

    The libraries build each network and match every tensor by name and shape, without memory for weights and without
    reading them: SDXL takes a second.

    Args:
        role: as in the section `models`.
        folder: of the model, or the IP-Adapter's file or folder; every file of it is known to be whole.
    """
    prepare()
    faults = []
    for part, load in _part_loaders(role, folder).items():
        if not (part / "config.json").exists():
            continue
        try:
            load(part)
        except RequestError as error:
            faults.append(str(error))
    return faults


def require_loadable(role: str, folder: Path) -> None:
    """Refuse a model that loading would refuse, before the work that comes before loading it; see `refused_parts`.

    Raises:
        RequestError: with the first reason.
    """
    faults = refused_parts(role, folder)
    if faults:
        raise RequestError(faults[0])


def _part_loaders(role: str, folder: Path) -> Mapping[Path, Callable[[Path], Any]]:
    """A role's networks by their folders, each with what loads it without its weights."""
    import diffusers
    import transformers

    def of(kind: Any, **options: Any) -> Callable[[Path], Any]:
        return lambda part: _from_pretrained(kind, part, device_map="meta", **options)

    def autoencoder(part: Path) -> Any:
        return _from_pretrained(_autoencoder_class(part), part, device_map="meta")

    if role == "sdxl":
        return {
            folder / "unet": of(diffusers.UNet2DConditionModel),
            folder / "text_encoder": of(transformers.CLIPTextModel),
            folder / "text_encoder_2": of(transformers.CLIPTextModelWithProjection),
            folder / "vae": autoencoder,
        }
    if role == "pixart":
        return {
            folder / "transformer": of(diffusers.PixArtTransformer2DModel),
            folder / "text_encoder": of(transformers.T5EncoderModel),
            folder / "vae": autoencoder,
        }
    if role == "sdxl_vae":
        return {folder: autoencoder}
    if role == "ip_adapter":
        encoder = adapters.encoder_folder(adapters.adapter_file(folder))
        return {encoder: of(transformers.CLIPVisionModelWithProjection)}
    chosen, options = encoder_class(role, folder)
    return {folder: of(getattr(transformers, chosen), **options)}


def encoder_class(role: str, folder: Path) -> tuple[str, dict[str, Any]]:
    """The class of transformers that a role's model is loaded by, with its options.

    Args:
        role: clip, style_classifier, structure_encoder, scene_reader or style_encoder.
        folder: of the model.
    """
    if role == "structure_encoder":
        # A ViT's pooling layer is not used here, and published weights (DINO's) lack it: loading would refuse them.
        if read_config(folder / "config.json").get("model_type") == "vit":
            return "ViTModel", {"add_pooling_layer": False}
        return "AutoModel", {}
    return _CLASSES[role], {}


_CLASSES = {
    "clip": "CLIPModel",
    "style_classifier": "AutoModelForImageClassification",
    "scene_reader": "AutoModelForSemanticSegmentation",
    "style_encoder": "CLIPVisionModel",
}


def load_transformers(kind: Any, folder: Path, dtype: torch.dtype, **options: Any) -> Any:
    """A model of the transformers class `kind` from a folder's safetensors, complete or not at all, for evaluation."""
    return _from_pretrained(kind, folder, dtype=dtype, trust_remote_code=False, **options)


def load_diffusers(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A model of the diffusers class `kind` from a folder's safetensors, complete or not at all, for evaluation."""
    return _from_pretrained(kind, folder, torch_dtype=dtype)


def _from_pretrained(kind: Any, folder: Path, **options: Any) -> Any:
    weights = find_weights(folder)
    headers = read_headers(weights.files)  # an incomplete file is refused before gigabytes are read
    converted = weights.files if _is_converted(headers, options) else ()
    what = f"config.json and weights don't make a {kind.__name__}"
    # What the libraries would log of absent tensors is refused below.
    with _naming(folder, what, "name a folder of this class"), _silent_libraries(), giving_back(converted):
        model, report = kind.from_pretrained(
            folder,
            variant=weights.variant,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **options,
        )
    absent = sorted(report.get("missing_keys") or ())
    if absent:  # the libraries would fill these with random numbers, and say so in a log line
        raise RequestError(
            f"{folder}: the weights lack {len(absent)} of the tensors that {kind.__name__} needs by config.json, first "
            f"{absent[0]}; take configuration and weights from one repository, or name a folder of this class"
        )
    _refuse_unused(folder, kind, report.get("unexpected_keys") or ())
    return model.eval()


_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Names of dtypes in a safetensors header, and torch's."""


def _is_converted(headers: Mapping[str, TensorInfo], options: Mapping[str, Any]) -> bool:
    """Whether weights get another dtype than their files have: what the library maps is then read once and copied."""
    dtype = options.get("dtype", options.get("torch_dtype"))
    if dtype is None:
        return False
    wanted = str(dtype).removeprefix("torch.")
    return any(_DTYPES.get(tensor.dtype, wanted) != wanted for tensor in headers.values())


@contextmanager
def _naming(folder: Path, what: str, cure: str) -> Iterator[None]:
    """A library's error at loading as one that names the folder, what does not work, and what to do."""
    try:
        yield
    except (BottegaError, MemoryError):
        raise
    except Exception as error:  # a file of the wrong shape ends in whatever the library stumbles over
        # An OSError that transformers makes up has no errno.
        is_of_the_disk = isinstance(error, OSError) and error.errno is not None
        if is_of_the_disk or is_out_of_memory(error):
            raise
        reason = next(iter(str(error).splitlines()), "") or "no reason given"
        if isinstance(error, KeyError | TypeError | AttributeError | IndexError):  # its message alone says too little
            reason = f"{type(error).__name__}: {reason}"
        raise RequestError(f"{folder}: {what}: {reason}; {cure}") from error


def _refuse_unused(folder: Path, kind: Any, unused: Iterable[str]) -> None:
    """Refuse weights of diffusers that its configuration has no place for: another network would run, in silence.

    The models of transformers are parts of larger ones, whose other half is left out on purpose.
    """
    if not kind.__module__.startswith("diffusers."):
        return
    extra = sorted(name for name in unused if _HARMLESS.fullmatch(name) is None)
    if extra:
        raise RequestError(
            f"{folder}: the weights have {len(extra)} tensors that {kind.__name__} has no place for by config.json, "
            f"first {extra[0]}; take configuration and weights from one repository"
        )


_HARMLESS = re.compile(r"pos_embed(\.pos_embed)?|(y_embedder|caption_projection)\.y_embedding|.*num_batches_tracked")
"""Tensors that published files have and diffusers computes, or asks for no more. PixArt-α's transformers hold
`caption_projection.y_embedding`, the text of a dropped caption, which diffusers dropped after 0.22 saved it."""


@contextmanager
def _silent_libraries() -> Iterator[None]:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    levels = {library: library.get_verbosity() for library in (diffusers_logging, transformers_logging)}
    for library in levels:
        library.set_verbosity_error()
    try:
        yield
    finally:
        for library, level in levels.items():
            library.set_verbosity(level)
