"""What may be asked of a model that was trained from scratch, and what its recipe says where nothing is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bottega.runtime.errors import RequestError

if TYPE_CHECKING:
    from bottega.diffusion.plan import Sampling
    from bottega.ldm.checkpoint import Trained
    from bottega.ldm.config import LDMRecipe, LDMSamplingConfig
    from bottega.ldm.text import WordEncoder

UNGUIDED = "guidance_scale 0 draws the empty caption and leaves the prompt out; 1 follows it unguided"
"""What a person should know who asks for guidance 0."""

_WORDS_IN_MESSAGE = 12


def check_request(trained: Trained, config: LDMSamplingConfig, prompts: Sequence[str]) -> Sampling:
    """How to sample; refuses what the model cannot draw, or was not trained for, before anything is drawn.

    Raises:
        RequestError: prompts, guidance or sampler do not work with this model.
    """
    _check_prompts(trained.recipe, prompts)
    _check_guidance(trained.recipe, config)
    _check_vocabulary(trained.model.words, prompts)
    plan = config.plan(trained.absmax)
    plan.timesteps(trained.recipe.diffusion.noise_schedule)  # raises where the sampler does not work on this schedule
    return plan


def overridden(config: LDMSamplingConfig, values: Mapping[str, object]) -> LDMSamplingConfig:
    """The recipe's sampling with the request's values in its place.

    Raises:
        RecipeError: a value is not allowed.
    """
    from bottega.ldm.config import LDMSamplingConfig
    from bottega.runtime.config import parse

    given = {name: value for name, value in values.items() if value is not None}
    if given.get("scheduler", "ddim") != "ddim" and "eta" not in given:
        given["eta"] = 0.0  # the recipe's value is for its own sampler, ddim
    return parse(LDMSamplingConfig, {**config.model_dump(), **given}, "generate")


def _check_prompts(recipe: LDMRecipe, prompts: Sequence[str]) -> None:
    """Raise RequestError for prompts that the model was not trained for."""
    has_text = recipe.text.kind != "none"
    if not has_text and any(prompts):
        raise RequestError(f"{recipe.name} was trained without text, received the prompt {prompts[0]!r}; give none")
    if has_text and not all(prompt.strip() for prompt in prompts):
        raise RequestError("something must say what to draw, received an empty prompt; give --prompt, or --subject")


def _check_guidance(recipe: LDMRecipe, config: LDMSamplingConfig) -> None:
    """Raise RequestError for guidance that the model was not trained for."""
    has_text = recipe.text.kind != "none"
    if config.guidance_scale != 1 and (not has_text or recipe.text.dropout == 0):
        why = "that was never shown the empty caption (text.dropout = 0)" if has_text else "without text"
        raise RequestError(
            f"guidance needs text to guide by, received guidance_scale {config.guidance_scale:g} for a model {why}; "
            "set it to 1"
        )


def _check_vocabulary(words: WordEncoder | None, prompts: Sequence[str]) -> None:
    """Raise RequestError for a prompt without any known word."""
    for prompt in prompts:
        # Unknown words are left out, so it would draw what the empty prompt draws.
        if words is None or words.knows_any(prompt):
            continue
        some = ", ".join(words.vocabulary[:_WORDS_IN_MESSAGE])
        if len(words.vocabulary) > _WORDS_IN_MESSAGE:
            some += ", …"
        raise RequestError(
            f"a prompt has at least one word that a training caption had, received {prompt!r} with none; this "
            f"model knows {len(words.vocabulary)}: {some}"
        )
