"""`bottega evaluate protocol`: judge a folder of any tool's outputs by a published protocol."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.cli.common import locked, print_json, read_models

if TYPE_CHECKING:
    from bottega.evaluation.protocol_records import ProtocolSummary

PROTOCOL = "protocol"
OPTION = "--protocol"


def as_sub_verb(arguments: list[str]) -> list[str] | None:
    """`--protocol NAME FOLDER …` as `protocol NAME FOLDER …`; None where the option is not among the arguments."""
    for place, word in enumerate(arguments):
        if word == OPTION and place + 1 < len(arguments):
            return [PROTOCOL, arguments[place + 1], *arguments[:place], *arguments[place + 2 :]]
        if word.startswith(f"{OPTION}="):
            return [PROTOCOL, word.partition("=")[2], *arguments[:place], *arguments[place + 1 :]]
    return None


def protocol(
    name: Annotated[str, typer.Argument(help="styleid-800")],
    folder: Annotated[Path, typer.Argument(help="the outputs, such as 00_stylized_07.png")],
    data: Annotated[Path, typer.Option(help="the protocol's pictures: the folder `data` of StyleID's repository")],
    lpips: Annotated[
        str | None, typer.Option(help="folder with alexnet.safetensors and lpips_linear.safetensors")
    ] = None,
    inception: Annotated[str | None, typer.Option(help="safetensors file of ArtFID's Inception")] = None,
    vgg19: Annotated[str | None, typer.Option(help="safetensors file of VGG19, for CFSD")] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="an output's name without its ending, such as {style}/{content}  [default: found out]"),
    ] = None,
    controls: Annotated[
        bool, typer.Option(help="also measure content itself, style itself and colour transfer; takes 3 times as long")
    ] = True,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="leave pairs without an output out of every row")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="folder to write to  [default: FOLDER with -styleid-800 behind its name]")
    ] = None,
    recipe: Annotated[Path | None, typer.Option(help="recipe (YAML) whose section `models` names the networks")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="override, such as models.device=cuda")] = None,
    json_: Annotated[bool, typer.Option("--json", help="print summary.json on stdout")] = False,
) -> None:
    """Measure 20 contents × 40 styles by StyleID's protocol: LPIPS, FID, ArtFID, CFSD, beside controls.

    Stopped, it goes on with the same command. It says whether the numbers may be set beside published ones.
    """
    from bottega.data.given import require_file, require_folder, require_room_for_folder
    from bottega.evaluation.protocol import ROWS, ProtocolRequest, run_protocol

    require_folder("FOLDER", folder)
    require_folder("--data", data)
    require_file("--recipe", recipe)
    # Beside the outputs and not among them: what is written must not be taken for an output.
    place = output or folder.absolute().parent / f"{folder.absolute().name}-{name}"
    require_room_for_folder("--output", place)
    models = read_models(recipe, set_, lpips=lpips, inception=inception, vgg19=vgg19)
    request = ProtocolRequest(folder, data, pattern, tuple(ROWS) if controls else ("output",), allow_missing)
    with locked(models.device, place, "evaluate protocol"):
        summary = run_protocol(name, request, models, place)
    if json_:
        print_json(summary)
    else:
        _print(summary, place)


def _print(summary: ProtocolSummary, place: Path) -> None:
    from bottega.evaluation.protocol_table import verdict

    for name, cell in summary["rows"]["output"]["metrics"].items():
        title = summary["metrics"][name]["title"]
        typer.echo(f"{title:<15} {cell['value']:.3f}" if "value" in cell else f"{title:<15} {cell['status']}")
    if summary["other_files"]:
        typer.echo(f"{len(summary['other_files'])} pictures in the folder are of no pair; table.md names them")
    typer.echo(verdict(summary))
    typer.echo(f"{place / 'table.md'}")
