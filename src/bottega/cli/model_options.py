"""Options that the verbs on a model and a LoRA share: one wording, wherever they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

LoRAFileArgument = Annotated[Path, typer.Argument(help="the LoRA's .safetensors file; a pickle is never opened")]
SeedOption = Annotated[int, typer.Option(help="of all pictures")]
ConfigsOption = Annotated[str | None, typer.Option(help="folder with the configuration of a single-file checkpoint")]
VAEOption = Annotated[str | None, typer.Option(help="another autoencoder's folder")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda")]
DTypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16")]
ModelCacheOption = Annotated[
    Path | None, typer.Option("--model-cache", help="the Hugging Face cache  [default: HF_HUB_CACHE, HF_HOME]")
]
