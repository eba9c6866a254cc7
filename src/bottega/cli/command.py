"""`bottega command`: another command in this process, whose error goes to the process that started it.

The rehearsal calls it; people need not.
"""

from __future__ import annotations

from typing import Annotated

import typer

from bottega.cli.main import explain, run_verb
from bottega.runtime.children import attached
from bottega.runtime.errors import RequestError


def command(
    arguments: Annotated[str, typer.Argument(help="the command's words after `bottega`, as a JSON list")],
    parent: Annotated[int | None, typer.Option(help="inherited socket to the process that waits")] = None,
) -> None:
    """Run a command and hand back its error."""
    import json

    with attached(parent, explain):
        words = json.loads(arguments)
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise RequestError(
                f'a command must be a JSON list of texts, received {arguments[:80]}; for instance ["run"]'
            )
        code = run_verb(words)
        if code:
            raise SystemExit(code)
