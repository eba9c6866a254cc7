"""The comparison of checkpoints as Markdown for people: a row a checkpoint, value [interval]."""

from __future__ import annotations

from collections.abc import Mapping

from bottega.evaluation.checkpoint_records import CheckpointCell, CheckpointsRecord
from bottega.evaluation.table import ARROWS, short, table_head, table_row


def markdown(record: CheckpointsRecord) -> str:
    """`checkpoints.md` from what `checkpoints.json` holds."""
    metrics = record["metrics"]
    reasons: dict[str, int] = {}
    titles = [f"{metric['title']} {ARROWS[metric['better']]} ({metric['unit']})" for metric in metrics.values()]
    lines = table_head("step", *titles, "validation loss")
    for found in record["rows"]:
        cells = [_cell(found["metrics"].get(name), reasons) for name in metrics]
        loss = "" if found["val_loss"] is None else f"{found['val_loss']:.4g}"
        lines.append(table_row("0 (frozen base)" if found["step"] == 0 else f"{found['step']:,}", *cells, loss))
    by = metrics[record["by"]]
    behind = table_head("step", f"the best minus it, {by['title']} ({by['unit']})")
    for found in record["rows"][1:]:
        gap = found["behind"].get(record["by"])
        behind.append(table_row(f"{found['step']:,}", "the best" if gap is None else _cell(gap, reasons)))
    text = [
        "# Checkpoints",
        "",
        *record["sentences"],
        "",
        f"{record['pairs']} pairs of the split {record['split']}: {record['contents']} contents × {record['styles']} "
        f"styles of {record['labels']} labels, every row from the same noise. In brackets the {record['level']:.0%} "
        f"interval ({record['interval']}).",
        "",
        *lines,
        "",
        f"Paired, at {record['corrected_level']:.2%}, so that all of them hold together at {record['level']:.0%}:",
        "",
        *behind,
        "",
        *_notes(reasons, record["not_measured"]),
    ]
    return "\n".join(text).rstrip() + "\n"


def _cell(cell: CheckpointCell | None, reasons: dict[str, int]) -> str:
    if cell is None:
        return "—"
    if cell["low"] is None or cell["high"] is None:
        note = reasons.setdefault(f"no interval: {cell['no_interval']}", len(reasons) + 1)
        return f"{short(cell['value'])} [no interval ({note})]"
    return f"{short(cell['value'])} [{short(cell['low'])}, {short(cell['high'])}]"


def _notes(reasons: Mapping[str, int], not_measured: Mapping[str, str]) -> list[str]:
    notes = [f"({number}) {reason}  " for reason, number in reasons.items()]  # two blanks: Markdown's line break
    notes += [f"Not measured: {name}: {why}  " for name, why in not_measured.items()]
    return notes
