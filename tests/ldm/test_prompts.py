"""A prompt from its parts."""

from __future__ import annotations

import pytest

from bottega.ldm.prompts import compose
from bottega.runtime.errors import RequestError


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ({"subject": "a red fox"}, "a red fox"),
        (
            {"style": "oil painting", "setting": "in the snow", "subject": "a red fox", "details": "thick fur"},
            "a red fox, thick fur, in the snow, oil painting",
        ),
        ({"subject": " a  red\nfox , ", "setting": ", in the snow,"}, "a red fox, in the snow"),
        ({"subject": "fox", "details": "  ", "style": " , "}, "fox"),
        ({"subject": "一只狐狸", "style": "水墨"}, "一只狐狸, 水墨"),
    ],
)
def test_the_parts_stand_in_the_order_of_captions_with_single_commas(parts: dict[str, str], wanted: str) -> None:
    assert compose(**parts) == wanted


@pytest.mark.parametrize("subject", ["", "  \n", " , "])
def test_without_a_subject_there_is_no_prompt(subject: str) -> None:
    with pytest.raises(RequestError, match="give --subject"):
        compose(subject, "thick fur")
