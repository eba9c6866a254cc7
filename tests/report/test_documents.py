"""The READMEs and the docs: links arrive, commands exist, both languages tell the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bottega.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"


def blocks(text: str) -> list[str]:
    """The code blocks, without the comment at the end of a line: those are translated."""
    found = re.findall(r"^```.*?^```", text, flags=re.DOTALL | re.MULTILINE)
    return [re.sub(r"(?<=\S) {2,}\S.*$|\s+#\s.*$", "", block, flags=re.MULTILINE) for block in found]


def prose(text: str) -> str:
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_arrives(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, part = target.partition("#")
        place = (document.parent / name).resolve() if name else document
        assert place.exists(), f"{document.relative_to(ROOT)} links to {target}"
        if part:
            headings = re.findall(r"^#+ (.+)$", place.read_text(encoding="utf-8"), flags=re.MULTILINE)
            assert part in {anchor(h) for h in headings}, f"{document.relative_to(ROOT)} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_bottega_command_is_a_verb_and_its_recipe_is_shipped(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    for verb in re.findall(r"(?:^|[`(] ?|\| )bottega ([a-z_]+)\b", text, flags=re.MULTILINE):
        assert verb in VERBS, f"{document.relative_to(ROOT)}: bottega {verb}"
    for recipe in re.findall(r"recipes/[\w.-]+\.yaml", text):
        assert (ROOT / recipe).is_file(), recipe


@pytest.mark.parametrize("document", [README, CHINESE], ids=["en", "zh"])
def test_every_option_in_a_command_of_the_readme_is_one_that_the_verb_knows(document: Path) -> None:
    import importlib

    import typer

    from bottega.cli.main import _application

    lines = [line for block in blocks(document.read_text(encoding="utf-8")) for line in block.splitlines()]
    commands = [line.split()[1:] for line in lines if line.startswith("bottega ")]
    assert len(commands) >= 8
    for verb, *words in commands:
        command = typer.main.get_command(_application(importlib.import_module(VERBS[verb][0])))
        if subs := getattr(command, "commands", None):
            assert words[0] in subs, f"bottega {verb} {words[0]}"
            command, words = subs[words[0]], words[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, f"bottega {verb} {words}"


@pytest.mark.parametrize("document", [README, CHINESE], ids=["en", "zh"])
def test_scripts_of_the_readme_are_there(document: Path) -> None:
    for script in re.findall(r"scripts/[\w]+\.(?:py|sh)", document.read_text(encoding="utf-8")):
        assert (ROOT / script).is_file(), script


def test_both_readmes_have_the_same_headings_blocks_tables_and_links() -> None:
    english, chinese = README.read_text(encoding="utf-8"), CHINESE.read_text(encoding="utf-8")
    assert [h.count("#") for h in re.findall(r"^#+", prose(english), re.MULTILINE)] == [
        h.count("#") for h in re.findall(r"^#+", prose(chinese), re.MULTILINE)
    ]
    assert blocks(english) == blocks(chinese)
    assert english.count("\n|") == chinese.count("\n|")
    assert english.count("\n- ") == chinese.count("\n- ")
    own = {"README.md", "README.zh-CN.md"}
    assert [t for t in re.findall(r"\]\(([^)]+)\)", english) if t not in own] == [
        t for t in re.findall(r"\]\(([^)]+)\)", chinese) if t not in own
    ]


def test_the_tree_of_the_readme_is_the_tree_of_the_repository() -> None:
    tree = next(
        block
        for block in re.findall(
            r"^```text\n(.*?)^```", README.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        )
        if "src/bottega/" in block
    )
    top = re.findall(r"^([\w./]+/) ", tree, flags=re.MULTILINE)
    inner = re.findall(r"^  ([\w.]+/?) ", tree, flags=re.MULTILINE)
    for name in (*top, *(f"src/bottega/{name}" for name in inner)):
        assert (ROOT / name).exists(), name
    package = ROOT / "src" / "bottega"
    there = {f"{p.name}/" for p in package.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert there == {name for name in inner if name.endswith("/")}


def test_the_licence_is_the_whole_apache_licence_2_0() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    for words in (
        "Version 2.0, January 2004",
        "TERMS AND CONDITIONS",
        "END OF TERMS AND CONDITIONS",
        "9. Accepting Warranty",
    ):
        assert words in text
