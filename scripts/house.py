"""Figures of how the code reads: density, complexity, comments, types, names.

    python scripts/house.py [--before REVISION] [--list] [FOLDER …]

The default folder is `src`. `--before` prints the figures of an earlier commit beside today's; `--list` also names the
functions of high complexity, the class names that stand more than once, and the import circles. They serve the
reading, not the other way round: where a figure and a reader disagree, the reader is right.

How each is counted:

    tokens a code line      Python's own tokens without comments, line ends and docstrings, by lines with such a token
    comprehensions …        list, set, dict and generator comprehensions, and `a if b else c`, by 1 000 lines of file
    complexity              McCabe 1976: 1 + branches, loops, handlers, assertions, `and`/`or`, comprehensions and
                            their conditions; of a function with everything inside it
    literal-key subscripts  `x["key"]` in the text, key of lower-case letters, digits and underscores
    comment lines           lines with a comment, of all lines; docstring lines likewise
    import circles          groups of modules that import each other, wherever in the file the import stands
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HIGH = 10
"""Complexity above which a function needs a reason (ruff's C901 has the same default)."""

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert, ast.match_case)


@dataclass
class Counts:
    """What is counted over all files."""

    files: int = 0
    lines: int = 0
    code_lines: int = 0
    tokens: int = 0
    comment_lines: int = 0
    docstring_lines: int = 0
    comprehensions: int = 0
    ternaries: int = 0
    untyped_dicts: int = 0
    literal_keys: int = 0
    lengths: list[int] = field(default_factory=list)
    complexity: dict[str, int] = field(default_factory=dict)
    classes: Counter[str] = field(default_factory=Counter)
    imports: dict[str, set[str]] = field(default_factory=dict)

    def high(self) -> dict[str, int]:
        """Functions whose complexity is above `HIGH`, the worst first."""
        worst_first = sorted(self.complexity.items(), key=lambda item: -item[1])
        return {name: value for name, value in worst_first if value > HIGH}

    def twice(self) -> list[str]:
        """Class names that stand more than once."""
        return sorted(name for name, count in self.classes.items() if count > 1)

    def circles(self) -> list[list[str]]:
        """Groups of modules that import each other."""
        return [group for group in _components(self.imports) if len(group) > 1]

    def figures(self) -> dict[str, str]:
        """The table: name -> figure."""
        per_thousand = 1000 * (self.comprehensions + self.ternaries) / self.lines
        return {
            "files": str(self.files),
            "lines": f"{self.lines:,}",
            "function lines, median / p90 / max": _spread(self.lengths),
            "complexity, median / p90 / max": _spread(list(self.complexity.values())),
            f"functions of complexity above {HIGH}": str(len(self.high())),
            "tokens a code line": f"{self.tokens / self.code_lines:.1f}",
            "comprehensions and ternaries / 1 000 lines": f"{per_thousand:.1f}",
            "dict[str, Any]": str(self.untyped_dicts),
            "literal-key subscripts": str(self.literal_keys),
            "comment lines, %": f"{100 * self.comment_lines / self.lines:.1f}",
            "docstring lines, %": f"{100 * self.docstring_lines / self.lines:.1f}",
            "class names that stand twice": str(len(self.twice())),
            "import circles": str(len(self.circles())),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", default=["src"], metavar="FOLDER")
    parser.add_argument("--before", metavar="REVISION", help="also the figures of this commit")
    parser.add_argument("--list", action="store_true", help="name the functions, classes and circles")
    options = parser.parse_args()
    now = measure(Path(), options.folders)
    if not now.files:
        print(f"no Python file in {', '.join(options.folders)}; run from the repository's root", file=sys.stderr)
        return 2
    columns = {"now": now.figures()}
    if options.before:
        columns = {options.before: measure_revision(options.before, options.folders).figures(), **columns}
    print("\n".join(_table(columns)))
    if options.list:
        print(f"\nfunctions of complexity above {HIGH}:")
        print("\n".join(f"  {value:3d}  {name}" for name, value in now.high().items()) or "  none")
        print("\nclass names that stand twice:", ", ".join(now.twice()) or "none")
        print("import circles:", "; ".join(" - ".join(group) for group in now.circles()) or "none")
    return 0


def measure_revision(revision: str, folders: Sequence[str]) -> Counts:
    """The counts of a commit, unpacked beside the checkout."""
    packed = subprocess.run(["git", "archive", "--format=tar", revision, *folders], check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as place:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(place, filter="data")
        return measure(Path(place), folders)


def measure(root: Path, folders: Sequence[str]) -> Counts:
    """The counts of all Python files below these folders of `root`."""
    counts = Counts()
    for folder in folders:
        for path in sorted((root / folder).rglob("*.py")):
            _add_file(counts, path, path.relative_to(root / folder))
    for module, wanted in counts.imports.items():
        named = {_nearest_module(name, counts.imports) for name in wanted}
        counts.imports[module] = {name for name in named if name in counts.imports and name != module}
    return counts


def _add_file(counts: Counts, path: Path, name: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    prose = {line for node in ast.walk(tree) if _is_bare_text(node) for line in range(node.lineno, node.end_lineno + 1)}
    counts.files += 1
    counts.lines += text.count("\n")
    counts.docstring_lines += len(_docstring_lines(tree))
    counts.untyped_dicts += text.count("dict[str, Any]")
    counts.literal_keys += len(re.findall(r'\["[a-z_0-9]+"\]', text))
    _add_tokens(counts, text, prose)
    for node in ast.walk(tree):
        counts.comprehensions += isinstance(node, _COMPREHENSIONS)
        counts.ternaries += isinstance(node, ast.IfExp)
        if isinstance(node, ast.ClassDef):
            counts.classes[node.name] += 1
        if isinstance(node, _FUNCTIONS):
            counts.lengths.append(node.end_lineno - node.lineno + 1)
            counts.complexity[f"{name}:{node.lineno} {node.name}"] = complexity(node)
    module = _module(name)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    counts.imports[module] = set(_imports(tree, package))


def _add_tokens(counts: Counts, text: str, prose: set[int]) -> None:
    """Tokens and lines of code; `prose` are the lines of docstrings."""
    code_lines, comment_lines = set(), set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            comment_lines.add(line)
        if token.type in _NO_CODE or line in prose:
            continue
        counts.tokens += 1
        code_lines.add(line)
    counts.code_lines += len(code_lines)
    counts.comment_lines += len(comment_lines)


def _is_bare_text(node: ast.AST) -> bool:
    """A docstring, also one below a constant or a field."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _docstring_lines(tree: ast.Module) -> set[int]:
    """Lines of the docstrings of the module, its classes and functions."""
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | _FUNCTIONS[0] | _FUNCTIONS[1]):
            first = node.body[0] if node.body else None
            if first is not None and _is_bare_text(first):
                lines.update(range(first.lineno, first.end_lineno + 1))
    return lines


def complexity(function: ast.AST) -> int:
    """Cyclomatic complexity of a function with everything inside it."""
    total = 1
    for node in ast.walk(function):
        if isinstance(node, _BRANCHES):
            total += 1
        elif isinstance(node, ast.comprehension):
            total += 1 + len(node.ifs)
        elif isinstance(node, ast.BoolOp):
            total += len(node.values) - 1
    return total


def _module(name: Path) -> str:
    parts = name.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(tree: ast.Module, package: str) -> Iterator[str]:
    """What is imported, at the top or in a function: modules, and `x.y` for `from x import y`, module or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _nearest_module(name: str, modules: Mapping[str, set[str]]) -> str:
    """`x.y` itself where it is a module, else x, from which y was taken."""
    return name if name in modules else name.rpartition(".")[0]


def _components(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected components: modules of which each reaches each other."""
    reached = {module: _reach(graph, module) for module in graph}
    groups = {frozenset(other for other in reached[m] if m in reached[other]) | {m} for m in graph}
    return sorted(sorted(group) for group in groups)


def _reach(graph: Mapping[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for module in graph[waiting.pop()]:
            if module not in seen:
                seen.add(module)
                waiting.append(module)
    return seen


def _spread(values: list[int]) -> str:
    values = sorted(values)
    if not values:
        return "-"
    return f"{values[len(values) // 2]} / {values[int(0.9 * len(values))]} / {values[-1]}"


def _table(columns: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    names = list(next(iter(columns.values())))
    width = max(map(len, names))
    yield " " * width + "".join(f"  {title:>12}" for title in columns)
    for name in names:
        yield f"{name:<{width}}" + "".join(f"  {column[name]:>12}" for column in columns.values())


if __name__ == "__main__":
    sys.exit(main())
