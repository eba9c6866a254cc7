"""What a checkpoint is, from its headers and configurations: family, size, prediction type, what lacks or is foreign.

Read are diffusers folders, entries of the Hugging Face cache, single `.safetensors` files in the original key layout,
single networks in either layout, a run of `bottega train ldm`, adapters and LoRAs. No tensor is loaded and nothing is
unpickled; a file of 7 GB takes milliseconds. What a header says of a model's training may be wrong, so it is
reported as a statement with its place, never as a fact.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

from bottega.models import checkpoint_keys as keys
from bottega.models.names import resolve
from bottega.models.weights import (
    PICKLED,
    TensorInfo,
    find_weights,
    pickled_cure,
    read_config,
    read_header,
    read_headers,
)
from bottega.runtime.errors import BottegaError, MissingError, RequestError, StorageError
from bottega.runtime.paths import open_file

Family = Literal[
    "sdxl", "sdxl_refiner", "sdxl_inpaint", "sd1", "sd2", "pixart", "flux", "sd3", "ldm", "style_adapter", "lora",
    "vae", "text_encoder", "unknown",
]  # fmt: skip
Layout = Literal["diffusers", "component", "original", "ldm_run", "adapter", "lora", "unknown"]
"""diffusers: a pipeline's folder. component: one network, as a folder or a file in diffusers' names. original: a single
file with a prefix for each part, or one network in the names of the original code."""

Size = Literal["published", "miniature", "other"]
StatedType = Literal["epsilon", "v_prediction", "flow", "sample"]

_TYPES: Mapping[str, StatedType] = {
    "epsilon": "epsilon", "eps": "epsilon", "v_prediction": "v_prediction", "v": "v_prediction",
    "v-prediction": "v_prediction", "vpred": "v_prediction", "velocity": "v_prediction", "flow_prediction": "flow",
    "flow": "flow",
    "flow_matching": "flow", "rectified_flow": "flow", "sample": "sample",
}  # fmt: skip

_PUBLISHED: Mapping[str, tuple[int, int]] = {
    "sdxl": (320, 70), "sdxl_inpaint": (320, 70), "sdxl_refiner": (384, 44), "sd1": (320, 16), "sd2": (320, 16),
    "pixart": (1152, 28),
}  # fmt: skip
"""Width and transformer blocks of the models as published."""

_REQUIRED: Mapping[str, tuple[str, ...]] = {
    "sdxl": ("unet", "text_encoder", "text_encoder_2", "vae"),
    "sdxl_inpaint": ("unet", "text_encoder", "text_encoder_2", "vae"),
    "sdxl_refiner": ("unet", "text_encoder_2", "vae"),
    "sd1": ("unet", "text_encoder", "vae"),
    "sd2": ("unet", "text_encoder", "vae"),
    "pixart": ("transformer", "text_encoder", "vae"),
}
"""What it takes to draw with a family."""

_TRUTH_VALUES = {"true": True, "false": False}

_NETWORKS = ("unet", "transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")

_NAME_HINTS: tuple[tuple[re.Pattern[str], StatedType], ...] = (
    (re.compile(r"v[-_ ]?pred", re.IGNORECASE), "v_prediction"),
    (re.compile(r"(?<![a-z])(eps|epsilon)([-_ ]?pred)?(?![a-z])", re.IGNORECASE), "epsilon"),
    (re.compile(r"rectified[-_ ]?flow|flow[-_ ]?match", re.IGNORECASE), "flow"),
)
_KEPT_METADATA = re.compile(
    r"modelspec\.(?!thumbnail|hash)\w+|ss_(base_model_version|sd_model_name|output_name|v_\w+|zero_\w+)"
)
_SHOWN = 200  # characters of a text from a file: a title of a megabyte is an attack, or an accident


@dataclass(frozen=True)
class Statement:
    """One place that says what the network predicts.

    weak: a name, or the default of a library where a file says nothing.
    """

    type: StatedType
    where: str
    weak: bool = False


@dataclass(frozen=True)
class Part:
    """One network of a checkpoint.

    Attributes:
        name: unet, transformer, vae, text_encoder, text_encoder_2, text_encoder_3, adapter, lora.
        parameters: numbers in its tensors.
        tensors: how many there are.
        dtypes: numbers by type, such as {"F16": 2567463684}, the most frequent first.
        gaps: tensors that it lacks; `layers.3.*` means all of that block.
    """

    name: str
    parameters: int
    tensors: int
    dtypes: dict[str, int]
    gaps: tuple[str, ...] = ()


@dataclass(frozen=True)
class Foreign:
    """Tensors that belong to no part: how many, of which kinds, and the first few names."""

    count: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckpointIdentity:
    """What a checkpoint is, and what says so.

    Attributes:
        path: the file or folder that was read.
        family: the architecture.
        variant: what differs from the family's plain model: inpaint, instruct-pix2pix, edm, sigma; "" for nothing.
        layout: how it is stored.
        why: what in it says that it is of this family.
        parts: its networks.
        size: whether it is as large as the published model, a miniature, or of another size; None where none is known.
        width: channels of the first level, or of a transformer's tokens; None where there is no denoiser.
        depth: its transformer blocks.
        in_channels: channels that the denoiser takes; None where they are not known.
        native_side: pixels of a side that it was trained for, where the checkpoint says so.
        pixels_per_cell: pixels of a side to one latent cell, where there is an autoencoder.
        stated: what it says of its prediction type, the most trustworthy place first.
        zero_terminal_snr: whether it says that its last timestep is pure noise; None where nothing speaks of it.
        missing: parts that drawing needs and that are not in it.
        foreign: tensors that belong to no part.
        title: from its metadata; "" for none.
        names: (where, name) of all that it is called, the most trustworthy first.
        metadata: the part of its metadata that describes the model; shortened, and free of control characters.
        not_judged: (what, why) of all that headers cannot tell.
    """

    path: Path
    family: Family
    layout: Layout
    why: str
    variant: str = ""
    parts: tuple[Part, ...] = ()
    size: Size | None = None
    width: int | None = None
    depth: int | None = None
    in_channels: int | None = None
    native_side: int | None = None
    pixels_per_cell: int | None = None
    stated: tuple[Statement, ...] = ()
    zero_terminal_snr: bool | None = None
    missing: tuple[str, ...] = ()
    foreign: Foreign = field(default_factory=Foreign)
    title: str = ""
    names: tuple[tuple[str, str], ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    not_judged: tuple[tuple[str, str], ...] = ()

    @property
    def miniature(self) -> bool:
        """Whether its networks are far narrower than the published ones."""
        return self.size == "miniature"

    @property
    def prediction(self) -> Statement | None:
        """The most trustworthy statement of the prediction type; None where there is none."""
        if not self.stated:
            return None
        return self.stated[0]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The number types of all parts, the most frequent first."""
        counts: dict[str, int] = {}
        for part in self.parts:
            for dtype, count in part.dtypes.items():
                counts[dtype] = counts.get(dtype, 0) + count
        return tuple(sorted(counts, key=lambda dtype: -counts[dtype]))

    @property
    def contradictions(self) -> tuple[Statement, ...]:
        """Statements, names aside, that disagree with the first one."""
        first = self.prediction
        if first is None or first.weak:
            return ()
        found = []
        for other in self.stated[1:]:
            if not other.weak and other.type != first.type:
                found.append(other)
        return tuple(found)


@dataclass(frozen=True)
class _Origin:
    """Where tensors come from, and what is said of them beside their names and shapes.

    Attributes:
        path: the file or folder.
        names: (where, name) of all that it is called, the most trustworthy first.
        metadata: the part of a file's metadata that describes the model.
        markers: marker tensors among the weights, of `checkpoint_keys.MARKERS`.
    """

    path: Path
    names: tuple[tuple[str, str], ...]
    metadata: dict[str, str] = field(default_factory=dict)
    markers: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """From the metadata; "" for none."""
        return self.metadata.get("modelspec.title", "")

    def stated(self, family: str) -> tuple[Statement, ...]:
        """What says which prediction type it is, the most trustworthy place first."""
        by_file = _stated_by_file(self.markers, self.metadata)
        return _stated_by_family(family) + by_file + _stated_by_names(self.names)

    def zero_terminal_snr(self) -> bool | None:
        """Whether a marker or the metadata says that the last timestep is pure noise; None where neither speaks."""
        if "ztsnr" in self.markers:
            return True
        said = self.metadata.get("ss_zero_terminal_snr", "").strip().lower()
        return _TRUTH_VALUES.get(said)

    def variant(self, by_shape: str) -> str:
        """`edm` where a marker says so, else what the shapes say."""
        if "edm_mean" in self.markers:
            return "edm"
        return by_shape


def identify(path: Path) -> CheckpointIdentity:
    """Say what a checkpoint is, by its headers and configurations alone.

    Args:
        path: a diffusers folder, an entry of the Hugging Face cache (`models--org--name`), a folder of one network, a
            run directory or checkpoint of `bottega train ldm`, or a `.safetensors` file.

    Raises:
        MissingError: there is nothing at `path`, or a part that its index names is absent.
        RequestError: it is pickled, or a folder with nothing in it that is known here.
        StorageError: a file is torn, or its header is not one that the format allows.
    """
    if not path.exists():
        raise MissingError(f"{path}: there is no such file or folder; name a .safetensors file or a model's folder")
    if not path.is_dir():
        return _file(path)
    if path.name.startswith("models--") and (path / "snapshots").is_dir():
        repository = path.name.removeprefix("models--").replace("--", "/", 1)
        path = resolve(repository, cache=str(path.parent))
    return _folder(path)


def _folder(path: Path) -> CheckpointIdentity:
    if (path / "model_index.json").exists():
        return _pipeline(path)
    state = _newest_state(path)
    if state is not None:
        return _ldm(path, state)
    if (path / "config.json").exists():
        return _network_folder(path)
    return _file(_only_file(path))


def _only_file(path: Path) -> Path:
    """The one `.safetensors` file of a folder that has neither an index nor a configuration.

    Raises:
        RequestError: it holds several, pickled ones alone, or nothing that is known here.
    """
    single = sorted(file for file in path.glob("*.safetensors") if file.is_file())
    if len(single) == 1:
        return single[0]
    if single:
        names = ", ".join(file.name for file in single[:4])
        raise RequestError(f"{path}: holds {len(single)} safetensors files; name one of them, such as {names}")
    pickled = sorted(file.name for file in path.iterdir() if file.suffix.lower() in PICKLED)
    if pickled:
        raise _pickled(path / pickled[0])
    raise RequestError(
        f"{path}: no model of a known layout in it (model_index.json, config.json, one .safetensors file, or a run of "
        "`bottega train ldm`); name the folder that holds one of them"
    )


# --- a pipeline in folders ---------------------------------------------------------------------------------------


def _pipeline(path: Path) -> CheckpointIdentity:
    index = read_config(path / "model_index.json")
    # 1. The parts whose weights are here.
    part_names = _parts_named(path, index)
    tensors: dict[str, dict[str, TensorInfo]] = {}
    absent = []
    for name in part_names:
        try:
            tensors[name] = read_headers(find_weights(path / name).files)
        except MissingError:
            absent.append(name)
    denoiser_name = "transformer" if "transformer" in part_names else "unet"
    encoders = [name for name in tensors if name.startswith("text_encoder")]
    denoiser = keys.describe_denoiser(tensors.get(denoiser_name, {}), encoders)
    family, variant, why = _family_of(denoiser, f"no network known here in {denoiser_name}/")

    # 2. What the configurations add.
    config = _config(path / denoiser_name)
    vae = _config(path / "vae")
    factor = _pixels_per_cell(vae, tensors.get("vae", {}))
    scheduler = _config(path / "scheduler", "scheduler_config.json")
    if family == "pixart" and "Sigma" in str(index.get("_class_name")):
        variant = "sigma"
    if str(scheduler.get("_class_name", "")).startswith("EDM"):
        variant = "edm"
    names = _folder_names(path, config)
    measures = _measures(family, denoiser)
    return CheckpointIdentity(
        path=path,
        family=family,
        layout="diffusers",
        why=why,
        variant=variant,
        parts=_parts(tensors, vae),
        size=measures.size,
        width=measures.width,
        depth=measures.depth,
        in_channels=measures.in_channels,
        native_side=_native(config, factor),
        pixels_per_cell=factor,
        stated=_stated_by_scheduler(scheduler) + _stated_by_names(names),
        zero_terminal_snr=scheduler.get("rescale_betas_zero_snr"),
        missing=tuple(dict.fromkeys([*_missing(family, tensors), *absent])),
        names=names,
        not_judged=_not_judged(bool(scheduler)),
    )


def _parts_named(path: Path, index: Mapping[str, Any]) -> list[str]:
    """The networks that a pipeline's index names, and those that lie beside it."""
    return [name for name in _NETWORKS if _is_part(path, index, name)]


def _is_part(path: Path, index: Mapping[str, Any], name: str) -> bool:
    if name not in index:
        return (path / name / "config.json").exists()
    return index[name] not in (None, [None, None])


def _config(folder: Path, name: str = "config.json") -> Mapping[str, Any]:
    """A configuration, or nothing where there is none."""
    if not (folder / name).exists():
        return {}
    return read_config(folder / name)


def _native(config: Mapping[str, Any], factor: int | None) -> int | None:
    cells = config.get("sample_size")
    if isinstance(cells, int) and factor is not None:
        return cells * factor
    return None


def _stated_by_scheduler(scheduler: Mapping[str, Any]) -> tuple[Statement, ...]:
    if not scheduler:
        return ()
    where = "scheduler/scheduler_config.json"
    if str(scheduler.get("_class_name", "")).startswith("FlowMatch") or scheduler.get("use_flow_sigmas"):
        return (Statement("flow", where),)
    said = scheduler.get("prediction_type")
    known = _TYPES.get(str(said))
    if known is not None:
        return (Statement(known, where),)
    return (Statement("epsilon", f"{where} does not say; diffusers then takes ε", weak=True),)


def _folder_names(path: Path, config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    names = []
    origin = config.get("_name_or_path")
    if isinstance(origin, str) and origin:
        names.append(("its configuration", _plain(origin)))
    on_the_hub = _name_on_the_hub(path)
    if on_the_hub is not None:
        names.append(("its name on the Hub", on_the_hub))
    else:
        names.append(("the folder's name", path.absolute().name))
    return tuple(names)


def _name_on_the_hub(path: Path) -> str | None:
    """`org/name` where a path lies in the Hugging Face cache, by its nearest folder `models--org--name`."""
    for folder in reversed(path.absolute().parts):
        if folder.startswith("models--"):
            return folder.removeprefix("models--").replace("--", "/", 1)
    return None


# --- one network -------------------------------------------------------------------------------------------------


def _network_folder(path: Path) -> CheckpointIdentity:
    config = read_config(path / "config.json")
    found = find_weights(path)
    names = _folder_names(path, config)
    return _network(_Origin(path, names), read_headers(found.files), config)


def _network(origin: _Origin, tensors: dict[str, TensorInfo], config: Mapping[str, Any]) -> CheckpointIdentity:
    """One network without the prefixes of the original layout."""
    markers = tuple(name for name in keys.MARKERS if name in tensors)
    own = {name: info for name, info in tensors.items() if name not in markers}
    denoiser = keys.describe_denoiser(own)
    if denoiser is not None:
        return _bare_denoiser(replace(origin, markers=markers), own, denoiser)
    part, family, why = _other_network(own)
    layout: Layout = "component"
    if family == "unknown":
        layout = "unknown"
    factor = None
    if family == "vae":
        factor = _pixels_per_cell(config, own)
    return CheckpointIdentity(
        path=origin.path,
        family=family,
        layout=layout,
        why=why,
        parts=(_part(part, own, _kind(part, own, config)),),
        pixels_per_cell=factor,
        names=origin.names,
        metadata=origin.metadata,
        title=origin.title,
        not_judged=_WEIGHTS,
    )


def _bare_denoiser(origin: _Origin, tensors: Mapping[str, TensorInfo], denoiser: keys.Denoiser) -> CheckpointIdentity:
    """A denoiser without the rest of its pipeline."""
    family, variant, why = _family_of(denoiser, "")
    part = _denoiser_name(family)
    layout: Layout = "component"
    if denoiser.layout == "original":
        layout = "original"
    measures = _measures(family, denoiser)
    return CheckpointIdentity(
        path=origin.path,
        family=family,
        layout=layout,
        why=why,
        variant=origin.variant(variant),
        parts=(_part(part, tensors, _kind(part, tensors, {})),),
        size=measures.size,
        width=measures.width,
        depth=measures.depth,
        in_channels=measures.in_channels,
        native_side=_native_of_tokens(denoiser),
        stated=origin.stated(family),
        zero_terminal_snr=origin.zero_terminal_snr(),
        missing=_missing(family, (part,)),
        names=origin.names,
        metadata=origin.metadata,
        title=origin.title,
        not_judged=_not_judged(False),
    )


def _other_network(tensors: Mapping[str, TensorInfo]) -> tuple[str, Family, str]:
    """Part, family and reason of a network that is no denoiser."""
    names = tensors.keys()
    if _is_autoencoder(names):
        return "vae", "vae", "a decoder to pictures"
    if _is_clip(names):
        return "text_encoder", "text_encoder", "CLIP's table of tokens"
    if _is_t5(names):
        return "text_encoder", "text_encoder", "T5's table of tokens"
    first = ", ".join(_plain(name) for name in sorted(names)[:3]) or "none"
    return "network", "unknown", f"no network known here has such tensors (first: {first})"


def _is_autoencoder(names: Set[str]) -> bool:
    is_tiny = "decoder.layers.0.weight" in names
    return is_tiny or {"decoder.conv_in.weight", "decoder.conv_out.weight"} <= names


def _is_clip(names: Set[str]) -> bool:
    by_openai = any(name.endswith("embeddings.token_embedding.weight") for name in names)
    by_open_clip = "token_embedding.weight" in names
    return by_openai or by_open_clip


def _is_t5(names: Set[str]) -> bool:
    return "shared.weight" in names and any(name.startswith("encoder.block.0.") for name in names)


# --- one file ----------------------------------------------------------------------------------------------------


def _file(path: Path) -> CheckpointIdentity:
    if path.suffix.lower() in PICKLED or _begins_as_pickle(path):
        raise _pickled(path)
    header = read_header(path)
    metadata = _kept_metadata(header.metadata)
    origin = _Origin(path, _file_names(path, metadata), metadata)
    adapter = _adapter_header(header.metadata)
    if adapter is not None:
        return _style_adapter(origin, header.tensors, adapter)
    if keys.is_lora(header.tensors):
        return CheckpointIdentity(
            path=path,
            family="lora",
            layout="lora",
            why="most of its tensors are factors of a LoRA or one of its relatives",
            parts=(_part("lora", header.tensors, ""),),
            stated=origin.stated("lora"),
            names=origin.names,
            metadata=metadata,
            title=origin.title,
            not_judged=(("whether it fits a model", "that takes the model, too"), *_WEIGHTS),
        )
    if keys.is_original(header.tensors):
        return _original(origin, header.tensors)
    return _network(origin, header.tensors, {})


def _kept_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """What of a file's metadata describes the model, each text as a short line."""
    kept = {}
    for name, text in metadata.items():
        if _KEPT_METADATA.fullmatch(name):
            kept[name] = _plain(text)
    return kept


def _original(origin: _Origin, tensors: dict[str, TensorInfo]) -> CheckpointIdentity:
    """A whole pipeline, or what is there of it, in one file."""
    # 1. The parts, and what the denoiser among them is.
    split = keys.split_original(tensors)
    encoders = [name for name in split.parts if name.startswith("text_encoder")]
    denoiser = keys.describe_denoiser(split.parts.get("denoiser", {}), encoders)
    family, variant, why = _family_of(denoiser, "no denoiser known here under model.diffusion_model")
    if "denoiser" not in split.parts:
        family, why = _family_without_denoiser(sorted(split.parts))

    # 2. The parts by diffusers' names.
    diffusers_names = {"denoiser": _denoiser_name(family)}
    parts = {}
    for name, found in split.parts.items():
        parts[diffusers_names.get(name, name)] = found

    origin = replace(origin, markers=split.markers)
    measures = _measures(family, denoiser)
    return CheckpointIdentity(
        path=origin.path,
        family=family,
        layout="original",
        why=why,
        variant=origin.variant(variant),
        parts=_parts(parts, {}, family),
        size=measures.size,
        width=measures.width,
        depth=measures.depth,
        in_channels=measures.in_channels,
        native_side=_native_of_tokens(denoiser),
        pixels_per_cell=_pixels_per_cell({}, parts.get("vae", {})),
        stated=origin.stated(family),
        zero_terminal_snr=origin.zero_terminal_snr(),
        missing=_missing(family, parts),
        foreign=_foreign(split.foreign),
        title=origin.title,
        names=origin.names,
        metadata=origin.metadata,
        not_judged=_not_judged(False),
    )


def _family_without_denoiser(parts: list[str]) -> tuple[Family, str]:
    """Family of a file in the original layout that holds other parts alone, and what says so."""
    why = f"it holds {', '.join(parts)} alone, under the prefixes of a whole checkpoint"
    if parts == ["vae"]:
        return "vae", why
    if "vae" not in parts:
        return "text_encoder", why
    return "unknown", why


def _foreign(found: Mapping[str, str]) -> Foreign:
    kinds: dict[str, int] = {}
    for kind in found.values():
        kinds[kind] = kinds.get(kind, 0) + 1
    return Foreign(len(found), kinds, tuple(_plain(name, 80) for name in sorted(found)[:5]))


def _native_of_tokens(denoiser: keys.Denoiser | None) -> int | None:
    """Pixels of a side, from a stored position embedding of square pictures: 8 pixels a cell, 2 cells a token."""
    if denoiser is None or denoiser.native_tokens is None:
        return None
    return math.isqrt(denoiser.native_tokens) * 16


def _stated_by_family(family: str) -> tuple[Statement, ...]:
    """FLUX and SD3 exist as rectified flow alone."""
    if family in ("flux", "sd3"):
        return (Statement("flow", "its architecture"),)
    return ()


def _stated_by_file(markers: tuple[str, ...], metadata: Mapping[str, str]) -> tuple[Statement, ...]:
    found = []
    for name in ("v_pred", "edm_vpred.sigma_max"):
        if name in markers:
            found.append(Statement("v_prediction", f"the marker tensor `{name}`"))
            break
    for place in ("modelspec.prediction_type", "ss_v_parameterization"):
        said = metadata.get(place, "").strip().lower()
        # Trainers write ss_v_parameterization as a Python truth value; False says ε.
        if place == "ss_v_parameterization":
            said = {"true": "v", "false": "epsilon"}.get(said, said)
        if said in _TYPES:
            found.append(Statement(_TYPES[said], f"the metadata `{place}`"))
    return tuple(found)


def _stated_by_names(names: tuple[tuple[str, str], ...]) -> tuple[Statement, ...]:
    for where, name in names:
        for pattern, kind in _NAME_HINTS:
            if pattern.search(name):
                return (Statement(kind, f"{where} ({name}), a weak hint", weak=True),)
    return ()


def prediction_hint(folder: Path) -> Statement | None:
    """What a folder's names say of the prediction type, a weak hint; None where they say nothing."""
    hints = _stated_by_names(_folder_names(folder, {}))
    return hints[0] if hints else None


def _file_names(path: Path, metadata: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    names = []
    for place in ("modelspec.title", "ss_output_name", "modelspec.merged_from"):
        if metadata.get(place):
            names.append((f"the metadata `{place}`", metadata[place]))
    on_the_hub = _name_on_the_hub(path)
    if on_the_hub is not None:
        names.append(("its name on the Hub", on_the_hub))
    names.append(("the file's name", _plain(path.name)))
    return tuple(names)


def _begins_as_pickle(path: Path) -> bool:
    """Whether a file's first bytes are a pickle's, or those of the archive that torch puts one into."""
    try:
        with open_file(path) as stream:
            first = stream.read(9)
    except OSError as error:
        raise StorageError(
            f"{path}: the file can't be read ({error.strerror}); check the link or its rights"
        ) from error
    # 0x80 is the opcode PROTO, but a safetensors file may begin with it, too: as the length of its header, which then
    # begins with a brace.
    is_pickle = first[:1] == b"\x80" and first[1:2] in (b"\2", b"\3", b"\4", b"\5") and first[8:9] != b"{"
    return is_pickle or first.startswith(b"PK\x03\x04")


def _pickled(path: Path) -> RequestError:
    return RequestError(
        f"{path}: checkpoints are read from safetensors only, received a pickled one, which could run code; "
        f"{pickled_cure(path)}"
    )


# --- our own -----------------------------------------------------------------------------------------------------


def _adapter_header(metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """The header of a StyleAdapter; None where it is another file. See `student.export`."""
    try:
        header = json.loads(metadata.get("bottega", ""))
    except (ValueError, RecursionError):
        return None
    if isinstance(header, dict) and header.get("format") == "bottega-style-adapter":
        return header
    return None


def _style_adapter(origin: _Origin, tensors: dict[str, TensorInfo], header: Mapping[str, Any]) -> CheckpointIdentity:
    geometry = _section(header, "geometry")
    width = _whole(geometry.get("width"))
    depth = _whole(geometry.get("blocks"))
    size = None
    if width is not None and depth is not None:
        size = _size("pixart", width, depth)
    return CheckpointIdentity(
        path=origin.path,
        family="style_adapter",
        layout="adapter",
        why="its header is that of a StyleAdapter",
        parts=(_part("adapter", tensors, ""),),
        size=size,
        width=width,
        depth=depth,
        pixels_per_cell=_whole(header.get("pixels_per_cell")),
        stated=_stated_as(header.get("prediction_type"), "the adapter's header"),
        missing=("its base model, PixArt, and CLIP",),
        names=origin.names,
        not_judged=_WEIGHTS,
    )


def _stated_as(said: object, where: str) -> tuple[Statement, ...]:
    """The statement of a place that names a prediction type; none where the name is not known."""
    known = _TYPES.get(str(said))
    if known is None:
        return ()
    return (Statement(known, where),)


def _newest_state(path: Path) -> Path | None:
    """The newest checkpoint of `bottega train ldm` in a folder: itself, or one in its `checkpoints`."""
    if (path / "state.json").exists():
        return path
    found: list[tuple[int, Path]] = []
    for file in (path / "checkpoints").glob("*/state.json"):
        try:
            found.append((int(read_config(file)["step"]), file.parent))
        except (BottegaError, KeyError, TypeError, ValueError):
            continue  # torn by a kill: an older one is taken, as the trainer itself does
    if not found:
        return None
    return max(found)[1]


def _ldm(path: Path, folder: Path) -> CheckpointIdentity:
    remembered = read_config(folder / "state.json").get("remembered")
    if not isinstance(remembered, dict) or not isinstance(remembered.get("recipe"), dict):
        return _checkpoint_of_another_trainer(path, folder)
    recipe = remembered["recipe"]
    tensors = read_header(folder / "model.safetensors").tensors
    name = str(recipe.get("name") or path.absolute().name)
    # A person may have edited the recipe: each value is taken only where it is of the right kind.
    return CheckpointIdentity(
        path=path,
        family="ldm",
        layout="ldm_run",
        why=f"a checkpoint of `bottega train ldm` ({folder.name})",
        parts=_ldm_parts(tensors),
        size="other",
        width=_first_level(_section(recipe, "unet").get("channels")),
        in_channels=_channels(remembered.get("shape")),
        native_side=_whole(_section(recipe, "data").get("size")),
        stated=_stated_as(_section(recipe, "diffusion").get("prediction_type"), "the recipe in state.json"),
        names=(("the run's name", _plain(name)),),
        not_judged=_WEIGHTS,
    )


def _ldm_parts(tensors: Mapping[str, TensorInfo]) -> tuple[Part, ...]:
    """The denoiser, and the encoder of words that learned with it."""
    parts = []
    for name, prefix in (("unet", "unet."), ("text_encoder", "words.")):
        own = {key.removeprefix(prefix): info for key, info in tensors.items() if key.startswith(prefix)}
        if own:
            parts.append(_part(name, own, ""))
    return tuple(parts)


def _first_level(channels: object) -> int | None:
    """Of a list of channels by level, the first."""
    if not isinstance(channels, list) or not channels:
        return None
    return _whole(channels[0])


def _channels(shape: object) -> int | None:
    """Of a shape [C, H, W], the channels."""
    if not isinstance(shape, list) or len(shape) != 3:
        return None
    if not all(isinstance(number, int) for number in shape):
        return None
    return _whole(shape[0])


def _whole(value: object) -> int | None:
    """A whole number; None for anything else."""
    if isinstance(value, int):
        return value
    return None


def _section(recipe: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object inside another; empty where there is none of that name, or something else."""
    section = recipe.get(name)
    if isinstance(section, dict):
        return section
    return {}


def _checkpoint_of_another_trainer(path: Path, folder: Path) -> CheckpointIdentity:
    exported = path / "adapter.safetensors"
    if exported.exists():
        return _file(exported)
    raise RequestError(
        f"{folder}: a checkpoint to resume a training from, no model to draw with; name the run's adapter.safetensors"
    )


# --- shared ------------------------------------------------------------------------------------------------------

_WEIGHTS = (("whether its weights are finite and unharmed", "only headers were read"),)


def _not_judged(has_scheduler: bool) -> tuple[tuple[str, str], ...]:
    measured = ("what the network predicts", "what a file says of it is no measurement")
    if has_scheduler:
        return (measured, *_WEIGHTS)
    return (measured, ("its noise schedule and the spacing of its timesteps", "it has no scheduler"), *_WEIGHTS)


def _family_of(denoiser: keys.Denoiser | None, otherwise: str) -> tuple[Family, str, str]:
    if denoiser is None:
        return "unknown", "", otherwise
    return cast("Family", denoiser.family), denoiser.variant, denoiser.why


def _is_unet(family: str) -> bool:
    return family.startswith("sd") and family != "sd3"


def _denoiser_name(family: str) -> str:
    """What diffusers calls the denoiser of a family."""
    if _is_unet(family):
        return "unet"
    return "transformer"


def _missing(family: str, there: Container[str]) -> tuple[str, ...]:
    """The parts that drawing with a family needs and that are not there."""
    return tuple(name for name in _REQUIRED.get(family, ()) if name not in there)


class _Measures(NamedTuple):
    """Of a denoiser, as `CheckpointIdentity` has them; None where there is no denoiser."""

    size: Size | None = None
    width: int | None = None
    depth: int | None = None
    in_channels: int | None = None


def _measures(family: str, denoiser: keys.Denoiser | None) -> _Measures:
    if denoiser is None:
        return _Measures()
    size = _size(family, denoiser.width, denoiser.depth)
    return _Measures(size, denoiser.width, denoiser.depth, denoiser.in_channels)


def _size(family: str, width: int, depth: int) -> Size | None:
    published = _PUBLISHED.get(family)
    if published is None:
        return None
    if (width, depth) == published:
        return "published"
    if 2 * width <= published[0]:
        return "miniature"
    return "other"


def _parts(
    tensors: Mapping[str, Mapping[str, TensorInfo]], vae: Mapping[str, Any], family: str = ""
) -> tuple[Part, ...]:
    """All parts of a pipeline; `vae` is the autoencoder's configuration."""
    found = []
    for name, own in tensors.items():
        found.append(_part(name, own, _kind(name, own, vae, family)))
    return tuple(found)


def _part(name: str, tensors: Mapping[str, TensorInfo], kind: str) -> Part:
    counts: dict[str, int] = {}
    for info in tensors.values():
        counts[info.dtype] = counts.get(info.dtype, 0) + math.prod(info.shape)
    dtypes = dict(sorted(counts.items(), key=lambda item: -item[1]))
    gaps: tuple[str, ...] = ()
    if kind:
        gaps = tuple(_plain(gap, 120) for gap in keys.gaps(kind, tensors))
    return Part(name, sum(counts.values()), len(tensors), dtypes, gaps)


def _kind(name: str, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], family: str = "") -> str:
    """Which network in which layout, as `checkpoint_keys.gaps` wants it; "" for one that it does not judge.

    Args:
        name: of the part.
        tensors: of the part alone.
        config: the autoencoder's configuration, where the part is one.
        family: of the checkpoint; "" where it is not known.
    """
    if name == "vae":
        return _kind_of_vae(tensors, config)
    if name == "unet":
        return "unet original" if "input_blocks.0.0.weight" in tensors else "unet diffusers"
    if name == "transformer" and family in ("", "pixart"):
        return _kind_of_transformer(tensors)
    if name.startswith("text_encoder"):
        return name
    return ""


def _kind_of_vae(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> str:
    if "decoder.layers.0.weight" in tensors or config.get("_class_name") == "AutoencoderTiny":
        return "vae tiny"
    if "decoder.conv_norm_out.weight" in tensors:
        return "vae diffusers"
    return "vae original"


def _kind_of_transformer(tensors: Mapping[str, TensorInfo]) -> str:
    if "adaln_single.linear.weight" in tensors:
        return "pixart diffusers"
    if "t_block.1.weight" in tensors:
        return "pixart original"
    return ""


def _pixels_per_cell(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> int | None:
    """How many pixels of a side an autoencoder makes of one latent cell."""
    widths = config.get("encoder_block_out_channels") or config.get("block_out_channels")
    if isinstance(widths, list) and 1 <= len(widths) <= 8:
        return int(2 ** (len(widths) - 1))
    halvings = sum(1 for name in tensors if _UPSAMPLER.fullmatch(name)) or _tiny_halvings(tensors)
    if halvings == 0:
        return None
    return int(2**halvings)


def _tiny_halvings(tensors: Mapping[str, TensorInfo]) -> int:
    """Times that an AutoencoderTiny doubles: only the convolutions after its upsampling have no bias."""
    halvings = 0
    for name in tensors:
        if _TINY_CONVOLUTION.fullmatch(name) and name.replace(".weight", ".bias") not in tensors:
            halvings += 1
    return halvings


_TINY_CONVOLUTION = re.compile(r"decoder\.layers\.\d+\.weight")
_UPSAMPLER = re.compile(r"decoder\.up(_blocks)?\.\d+\.upsample(rs\.0)?\.conv\.weight")


def _plain(text: str, length: int = _SHOWN) -> str:
    """A text from a file as one short line: a title may hold the codes by which a terminal is taken over."""
    letters = []
    for letter in text[: length + 1]:
        letters.append(letter if letter.isprintable() else " ")
    shown = "".join(letters)
    if len(shown) > length:
        return f"{shown[: length - 1]}…"
    return shown
