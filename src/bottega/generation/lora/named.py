"""The architecture of a model that is named: of a folder from its headers, of a single file from its configuration.

torch is imported for a single file only, whose names must be translated.
"""

from __future__ import annotations

from bottega.generation.lora.architecture import Architecture
from bottega.models.names import resolve


def architecture_of(name: str, *, configs: str | None = None, cache: str | None = None) -> Architecture:
    """The modules that LoRAs may change in a model; no weight is loaded.

    Args:
        name: a diffusers folder, a name in the model cache, `bottega:…`, or a `.safetensors` checkpoint of SDXL.
        configs: for a single file: the folder whose configuration it takes; None: SDXL base 1.0 from the model cache.
        cache: the model cache, if not the one that the environment names.

    Raises:
        MissingError: it is not on this machine.
        RequestError: the file is no whole checkpoint of SDXL, or of another architecture than its configuration.
        StorageError: a file is incomplete.
    """
    path = resolve(name, cache=cache)
    if not path.is_file():
        return Architecture.of_folder(path)
    from bottega.generation.modules import SDXL_CONFIGS, require_sdxl_checkpoint
    from bottega.generation.single_file import read_architecture
    from bottega.models.identify import identify

    require_sdxl_checkpoint(identify(path))
    return read_architecture(path, resolve(configs or SDXL_CONFIGS, cache=cache))
