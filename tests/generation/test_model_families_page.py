"""The tables of docs/model-families.md are those of the profiles and of the symptoms.

`python tests/generation/test_model_families_page.py` writes them again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bottega.generation.profiles import load_profile, profile_names
from bottega.generation.records import PictureSettings
from bottega.generation.symptoms import likely_causes, load_symptoms
from bottega.generation.tables import limits_table, notes_table, sources_table, symptoms_table
from bottega.runtime.errors import RequestError

PAGE = Path(__file__).parents[2] / "docs" / "model-families.md"
TABLES = {"limits": limits_table, "notes": notes_table, "symptoms": symptoms_table, "sources": sources_table}


def filled(page: str) -> str:
    """The page with its tables as they are now."""
    for name, table in TABLES.items():
        begin, end = f"<!-- begin: {name} -->\n", f"<!-- end: {name} -->"
        before, found, rest = page.partition(begin)
        _, closed, after = rest.partition(end)
        assert found and closed, name
        page = f"{before}{begin}{table()}\n{end}{after}"
    return page


def test_the_page_shows_the_profiles_as_they_are() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == filled(page), "write it again: python tests/generation/test_model_families_page.py"


def test_every_profile_and_every_symptom_has_its_row() -> None:
    limits = limits_table().splitlines()[2:]
    assert [row.split("`")[1] for row in limits] == profile_names()
    assert "| `anime` |" in limits_table()
    assert "7 (6 … 10; best 6 … 9) ᵒ" in limits_table(["anime"])
    assert symptoms_table().count("**") == 2 * len(load_symptoms())


def test_the_symptoms_that_people_have_are_there() -> None:
    names = {symptom.name for symptom in load_symptoms()}
    assert names >= {"blurred", "lacking detail", "over-saturated", "dull", "LoRA too weak", "out of memory"}
    memory = next(symptom for symptom in load_symptoms() if symptom.name == "out of memory")
    assert "smaller batch" in memory.causes[0].cure
    assert "768²" in memory.causes[1].cure


SETTINGS = PictureSettings(
    prompt="", negative_prompt="", width=1024, height=1024, steps=25, guidance_scale=7.0, guidance_rescale=0.0,
    sampler="euler_a", seed=0, count=1, clip_skip=2, strength=None, prediction_type="epsilon", profile="anime",
)  # fmt: skip


@pytest.mark.parametrize(
    ("symptom", "changes", "first"),
    [
        ("blurred", {"steps": 6}, "fewer steps"),
        ("blurred", {"width": 512, "height": 512}, "a size far below"),
        ("over-saturated", {"guidance_scale": 15.0}, "guidance above"),
        ("dull", {"guidance_rescale": 0.9}, "guidance rescaled"),
        ("dull", {}, "guidance too low"),
        ("noise", {"clip_skip": 4}, "a clip skip"),
        ("out of memory", {"width": 1536, "height": 1536}, "too many pixels"),
    ],
)
def test_what_the_settings_show_comes_first(symptom: str, changes: dict[str, float], first: str) -> None:
    from dataclasses import replace

    suspicions = likely_causes(symptom, replace(SETTINGS, **changes), load_profile("anime"))  # type: ignore[arg-type]
    causes = [suspicion.cause for suspicion in suspicions]
    assert causes[0].cause.startswith(first)
    assert suspicions[0].shown == bool(changes)
    everything = next(each for each in load_symptoms() if each.name == symptom).causes
    assert sorted(causes, key=str) == sorted(everything, key=str)


def test_an_unknown_symptom_is_refused_with_those_that_exist() -> None:
    with pytest.raises(RequestError, match="there are blurred, lacking detail"):
        likely_causes("ugly", SETTINGS, load_profile("anime"))


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
