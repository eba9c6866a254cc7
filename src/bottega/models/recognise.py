"""What lies in a model's place where it is another form than the one that is read, and the command that helps.

People have models as one file, in ComfyUI's folders, as their authors' own release, one folder too high, or as a clone
without git-lfs. "Fetch it again" mends none of these. Names, sizes and headers are looked at; nothing is loaded.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from bottega.models.identify import CheckpointIdentity, identify
from bottega.models.weights import PICKLED, pickled_cure
from bottega.runtime.errors import BottegaError

_TYPICAL = {"sdxl": "unet", "pixart": "transformer"}
"""The folder that tells a pipeline's."""

_PUBLISHED = {
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sdxl_vae": "madebyollin/sdxl-vae-fp16-fix",
    "ip_adapter": "h94/IP-Adapter/sdxl_models",
    "pixart": "PixArt-alpha/PixArt-XL-2-512x512",
    "clip": "openai/clip-vit-large-patch14",
}
"""What a role is fetched as, for a person who has its weights in a form that lacks the rest."""

_SEARCHED = 400  # folders below a place that are looked into: a home folder named by mistake has a million
_DEEP = 2  # levels: a repository's folder in a folder of clones; a commit's in an entry of the Hub's cache


def explain(role: str, place: Path) -> str | None:
    """What lies at a role's place, and what to do, where it is not the form that is read.

    Args:
        role: as in the section `models`.
        place: a file or folder that exists.

    Returns:
        One line; None for the form that is read, and for what is not recognised either.
    """
    if _is_read(role, place):
        return None
    if place.is_file():
        return _explain_file(role, place)
    nested = _nested(role, place)
    if nested is not None:
        what = "the whole repository" if role == "ip_adapter" else "a folder above the model's"
        return f"{place}: {what}; name the folder inside it: {nested}"
    return _explain_contents(role, place)


def _is_read(role: str, place: Path) -> bool:
    """Whether a place has the form that the role is read from, whatever is missing in it."""
    if role in _TYPICAL:
        return (place / _TYPICAL[role] / "config.json").exists() or (place / "model_index.json").exists()
    if role == "ip_adapter":
        return _has_encoder(place) if place.is_file() else bool(_adapters(place))
    return (place / "config.json").exists()


def _adapters(folder: Path) -> list[Path]:
    return sorted(folder.glob("ip[-_]adapter*.safetensors"))


def _has_encoder(file: Path) -> bool:
    if file.suffix != ".safetensors":
        return False
    places = (file.parent / "image_encoder", file.parent.parent / "models" / "image_encoder")
    return any((place / "config.json").exists() for place in places)


# --- a file ---------------------------------------------------------------------------------------------------------


def _explain_file(role: str, file: Path) -> str | None:
    if file.suffix.lower() in PICKLED:
        if role == "pixart":
            return _pixart_release(file)
        return f"{file}: a pickled file, which could run code, and only safetensors are read; {pickled_cure(file)}"
    if role == "ip_adapter":
        return _lone_adapter(file)
    if (file.parent / "config.json").exists():
        return f"{file}: the weights of a model whose folder is meant; name the folder: {file.parent}"
    return _explain_weights(role, file)


def _explain_weights(role: str, file: Path) -> str | None:
    """A safetensors file where a folder is wanted."""
    try:
        identity = identify(file)
    except BottegaError as error:
        return str(error)
    # The family is unknown where tensors are absent, which `convert` then names.
    if role == "sdxl" and identity.layout == "original" and identity.family in ("sdxl", "unknown"):
        return (
            f"{file}: a single-file checkpoint, and a folder in diffusers' layout is read here; make one of it: "
            f"bottega models convert {shlex.quote(str(file))} {shlex.quote(file.stem)}; or get SDXL's base whole: "
            f"bottega models fetch {_PUBLISHED[role]}"
        )
    return f"{file}: a single file ({_kind(identity)}), and {role} is read from a folder{_or_fetch(role)}"


def _kind(identity: CheckpointIdentity) -> str:
    if identity.layout == "original" and len(identity.parts) > 1:
        return f"a single-file checkpoint of {identity.family}"
    return f"{identity.family}, in the layout `{identity.layout}`"


def _lone_adapter(file: Path) -> str | None:
    """An IP-Adapter's file without its image encoder beside it, as ComfyUI keeps them apart."""
    try:
        tensors_say = identify(file)
    except BottegaError as error:
        return str(error)
    if tensors_say.layout == "original":
        return f"{file}: a checkpoint ({_kind(tensors_say)}) and no IP-Adapter{_or_fetch('ip_adapter')}"
    kept = "as in ComfyUI's folder ipadapter/, " if file.parent.name == "ipadapter" else ""
    return (
        f"{file}: {kept}an IP-Adapter's file without its image encoder: no image_encoder/ with a config.json beside it"
        f"{_or_fetch('ip_adapter')}"
    )


def _pixart_release(file: Path) -> str:
    return (
        f"{file}: the authors' own release of PixArt, a pickled transformer whose text encoder and autoencoder lie "
        f"elsewhere; a folder in diffusers' layout is read here{_or_fetch('pixart')}"
    )


def _or_fetch(role: str) -> str:
    name = _PUBLISHED.get(role)
    return "; name its folder" if name is None else f"; name its folder, or get it: bottega models fetch {name}"


# --- a folder -------------------------------------------------------------------------------------------------------


def _nested(role: str, place: Path) -> Path | None:
    """The folder below a place that has the form that is read: SDXL's own adapters before those of other models."""
    found = [folder for folder in _folders_below(place) if _is_model_of(role, folder)]
    if role == "ip_adapter":
        found.sort(key=lambda folder: "sdxl" not in folder.name)
    return found[0] if found else None


def _is_model_of(role: str, folder: Path) -> bool:
    if role in _TYPICAL or role == "ip_adapter":
        if role == "ip_adapter" and folder.name == "ipadapter":
            return False  # ComfyUI's, without the encoder
        return _is_read(role, folder)
    return False  # any folder with a config.json could be meant


def _folders_below(place: Path) -> Iterator[Path]:
    """Folders down to a depth, the upper ones first, sorted; links are followed, and no more than a few hundred."""
    level = [place]
    count = 0
    for _ in range(_DEEP):
        below: list[Path] = []
        for folder in level:
            below += _folders_in(folder)
        for folder in below:
            count += 1
            if count > _SEARCHED:
                return
            yield folder
        level = below


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return []  # one that may not be read explains nothing


def _explain_contents(role: str, place: Path) -> str | None:
    """A folder of single files: a release of its own, ComfyUI's, or one where somebody put a download."""
    files = _files_in(place)
    if role == "ip_adapter":
        files = [file for file in files if "adapter" in file.name.lower()]
    if not files:
        return None
    return _explain_file(role, _most_telling(role, files))


def _most_telling(role: str, files: Sequence[Path]) -> Path:
    """The first file that can be looked into, else the first; for PixArt the first pickled one, else the first."""
    # The pickled files are what PixArt's authors released: safetensors beside them belong to something else.
    wanted = PICKLED if role == "pixart" else (".safetensors",)
    for file in files:
        if file.suffix in wanted:
            return file
    return files[0]


def _files_in(place: Path) -> list[Path]:
    """Files with weights in a folder, then those in the folders below, where ComfyUI keeps each kind by itself."""
    found: list[Path] = []
    for folder in (place, *_folders_below(place)):
        if (folder / "config.json").exists():
            continue  # the weights of a part that is where it belongs
        for file in sorted(folder.glob("*.*")):
            if file.suffix in (".safetensors", *PICKLED) and file.is_file():
                found.append(file)
    # ComfyUI's folder of whole models first: a LoRA beside them explains nothing.
    return sorted(found, key=lambda file: file.parent.name != "checkpoints")
