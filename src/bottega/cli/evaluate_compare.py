"""`bottega evaluate compare` and `bottega evaluate plan`: evaluations of several runs, read together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bottega.cli.common import print_json

if TYPE_CHECKING:
    from bottega.evaluation.runs import EvaluatedRun

COMPARE = "compare"
PLAN = "plan"

_RUNS = "run directories, or folders of their evaluations; seeds of one recipe are one method"


def compare(
    runs: Annotated[list[Path] | None, typer.Argument(help=_RUNS)] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="a method and its trainings, such as --method plain=runs/a,runs/b")
    ] = None,
    row: Annotated[str, typer.Option(help="row of the evaluations' tables to compare")] = "student",
    level: Annotated[float, typer.Option(help="coverage of the intervals, a share")] = 0.95,
    output: Annotated[Path, typer.Option(help="folder for compare.json, compare.md and compare.csv")] = Path(
        "comparison"
    ),
    json_: Annotated[bool, typer.Option("--json", help="print compare.json on stdout")] = False,
) -> None:
    """Compare runs side by side: what each differs by from the first, and whether that shows beyond the noise.

    Runs whose recipes differ in seeds alone are trainings of one method; pairs that not all runs have are left out.
    """
    from bottega.data.given import require_room_for_folder
    from bottega.evaluation.compare import compare as compared
    from bottega.evaluation.compare import markdown, write
    from bottega.evaluation.runs import read_run

    _require_share("--level", level)
    require_room_for_folder("--output", output)
    found = compared([read_run(path) for path in runs or []], _named(method or []), row=row, level=level)
    write(found, output)
    if json_:
        print_json(found)
        return
    typer.echo(markdown(found), nl=False)
    typer.echo(f"\n{output / 'compare.md'}")


def plan(
    pilot: Annotated[list[Path], typer.Argument(help=_RUNS)],
    metric: Annotated[str, typer.Option(help="such as truth or kind_gain")],
    difference: Annotated[float, typer.Option(help="the smallest one that is to be seen, in the metric's unit")],
    rows: Annotated[tuple[str, str], typer.Option(help="rows whose difference it is, of a pilot of one method")] = (
        "student",
        "base",
    ),
    power: Annotated[float, typer.Option(help="share of repetitions in which it is to be seen")] = 0.8,
    level: Annotated[float, typer.Option(help="coverage of the interval, a share")] = 0.95,
    json_: Annotated[bool, typer.Option("--json", help="print the plan as JSON")] = False,
) -> None:
    """Say how many contents, styles and trainings a wanted difference needs, from a pilot's variances.

    The pilot is one method, better with three trainings or more, or two methods that are to be compared.
    """
    from bottega.evaluation.design import Wanted, markdown
    from bottega.evaluation.design import plan as planned
    from bottega.evaluation.runs import read_run

    _require_share("--level", level)
    _require_share("--power", power)
    found = planned([read_run(path) for path in pilot], Wanted(metric, difference, power, level), rows)
    if json_:
        print_json(found)
    else:
        typer.echo(markdown(found), nl=False)


def _require_share(option: str, value: float) -> None:
    from bottega.runtime.errors import RequestError

    if not 0.5 < value < 1:
        raise RequestError(f"{option} must be above 0.5 and below 1, received {value}")


def _named(methods: list[str]) -> dict[str, list[EvaluatedRun]]:
    """`NAME=RUN,RUN` as runs by name."""
    from bottega.evaluation.runs import read_run
    from bottega.runtime.errors import RequestError

    found: dict[str, list[EvaluatedRun]] = {}
    for text in methods:
        name, equals, paths = text.partition("=")
        if not name or not equals or not paths:
            raise RequestError(f"--method is written NAME=RUN,RUN, received {text!r}")
        if name in found:
            raise RequestError(f"each --method has a name of its own, received {name!r} twice")
        found[name] = [read_run(Path(path)) for path in paths.split(",")]
    return found
