"""`bottega lora`: what a LoRA file is, and whether it fits a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.cli.common import print_json
from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bottega.generation.lora import LoRAReport

app = typer.Typer(no_args_is_help=True, help="What a LoRA file is, and whether it fits a model.")


@app.callback()
def _group() -> None:
    """What a LoRA file is, and whether it fits a model."""


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="the LoRA's .safetensors file; a pickle is never opened")],
    model: Annotated[
        str | None,
        typer.Option(help="also say whether it fits this model: a diffusers folder, or org/name in the cache"),
    ] = None,
    model_cache: Annotated[
        Path | None, typer.Option("--model-cache", help="the Hugging Face cache  [default: HF_HUB_CACHE, HF_HOME]")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="print JSON on stdout")] = False,
) -> None:
    """Say what a LoRA file is; no model is loaded. Exit code 2 where it can't be used."""
    from bottega.generation.lora import Architecture, inspect_lora
    from bottega.models.names import resolve

    architecture = None
    if model is not None:
        architecture = Architecture.of_folder(resolve(model, cache=None if model_cache is None else str(model_cache)))
    report = inspect_lora(file, architecture)
    if json_:
        print_json(report.record())
    else:
        typer.echo("\n".join(_lines(report, model)))
    if report.problem is not None:
        raise RequestError(f"{file}: {report.problem}")


def _lines(report: LoRAReport, model: str | None) -> list[str]:
    """The report for people: a line for each thing that there is to say."""
    told = report.metadata
    rows = [
        ("file", f"{report.file}, {report.size / 1e6:.1f} MB, sha256 {report.sha256[:12]}…"),
        ("made for", report.family + (f" (it says {told.base_model!r})" if told.base_model else "")),
        ("layout", report.layout),
        ("modules", _counts(report.algorithms)),
        ("rank", _counts(report.ranks)),
        ("alpha", _counts(report.alphas) or "none given: full scale"),
        ("numbers", _counts(report.dtypes)),
        ("parts", ", ".join(f"{name} {part.modules}" for name, part in report.components.items())),
        ("name", told.name),
        ("trigger words", ", ".join(told.trigger_words)),
        ("frequent tags", ", ".join(tag for tag, _ in told.top_tags)),
    ]
    if report.share is not None:
        rows.append(("fits", f"{report.matched_keys} of {report.keys} keys match {model} ({report.share:.1%})"))
    rows += [("no place for", key) for key in report.unmatched]
    rows += [("other shape", misfit) for misfit in report.misfits]
    rows += [("note", note) for note in report.notes]
    return [f"{title:<13}  {text}" for title, text in rows if text]


def _counts(counts: Mapping[str, int] | Mapping[int, int] | Mapping[float, int]) -> str:
    return ", ".join(f"{value} ({count} ×)" if len(counts) > 1 else f"{value}" for value, count in counts.items())
