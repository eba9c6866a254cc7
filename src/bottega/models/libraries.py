"""Setting up the model libraries before their first use: no network, no broken torchvision, no progress bars."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys

LOGGER = logging.getLogger(__name__)
_FORBID = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")


def go_offline() -> None:
    """Forbid the network to the model libraries, for this process and those that it starts; calling it again is free.

    Models are read from folders alone, with or without it. This makes sure of it: a library that would ask the Hub all
    the same fails at once, and data sets are not fetched either.
    """
    for variable in _FORBID:
        os.environ[variable] = "1"
    constants = sys.modules.get("huggingface_hub.constants")
    if constants is not None:  # read when it was imported
        setattr(constants, "HF_HUB_OFFLINE", True)  # noqa: B010 (a module's attribute that mypy can't know)
        setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)  # noqa: B010
    hub = sys.modules.get("transformers.utils.hub")
    if hub is not None and hasattr(hub, "_is_offline_mode"):  # transformers 4 keeps its own copy
        setattr(hub, "_is_offline_mode", True)  # noqa: B010


def prepare() -> None:
    """Call before the first import of transformers or diffusers; calling it again costs nothing.

    transformers uses a torchvision that is installed, whether it can be imported or not, and a torchvision built for
    another torch breaks every import after it. bottega needs none, so one that can't be imported is hidden.
    """
    if "transformers" not in sys.modules:
        _hide_broken_torchvision()
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    diffusers_logging.disable_progress_bar()
    # transformers makes its own handler late: asked for its level, it does. Where it has none, or hands on what it was
    # told, the process's own handlers show it.
    transformers_logging.get_verbosity()
    for handler in logging.getLogger("transformers").handlers + logging.getLogger().handlers:
        if _is_worth_showing not in handler.filters:
            handler.addFilter(_is_worth_showing)


_NEEDLESS = (
    # Advice to install torchvision: bottega prepares pictures itself and must do without it.
    "requires torchvision (not installed); falling back",
    # The table of weights that were not asked for, such as those of CLIP's picture tower where only its text is read:
    # thirty lines that look like a fault. What a file lacks is an error of `loading`.
    " LOAD REPORT",
    "weights of the model checkpoint at",
)


def _is_worth_showing(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(text in message for text in _NEEDLESS)


def _hide_broken_torchvision() -> None:
    if "torchvision" in sys.modules or importlib.util.find_spec("torchvision") is None:
        return
    try:
        importlib.import_module("torchvision")
    except Exception as error:  # noqa: BLE001 (any: a foreign build fails with RuntimeError, OSError or ImportError alike)
        LOGGER.warning("torchvision is installed but can't be imported (%s); continuing without it", error)
        for module in list(sys.modules):
            if module == "torchvision" or module.startswith("torchvision."):
                del sys.modules[module]
        sys.modules["torchvision"] = None  # type: ignore[assignment]  # find_spec then says: not installed
