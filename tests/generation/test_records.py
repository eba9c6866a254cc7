"""What a request may hold."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from bottega.generation.records import GenerationRequest


def test_every_picture_of_a_request_has_a_seed_that_can_be_asked_for_again() -> None:
    assert GenerationRequest(seed=2**63 - 2, count=2).seed == 2**63 - 2
    with pytest.raises(ValidationError, match="the last picture's seed is below 2\\^63"):
        GenerationRequest(seed=2**63 - 1, count=2)


def test_a_prompt_holds_no_nul_which_would_end_the_text_in_the_file() -> None:
    with pytest.raises(ValidationError, match="NUL"):
        GenerationRequest(prompt="a\x00b")
