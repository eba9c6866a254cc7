"""A model that means something else than the work does is refused where it is used, too, not by `verify` alone."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler
from tests.field import models as people

from bottega.models.agreement import sdxl_agreement
from bottega.models.loading import load_diffusers, load_teacher_pipeline, require_loadable
from bottega.runtime.errors import RequestError
from bottega.student.backbone import read_schedule


def test_the_teacher_refuses_noise_levels_that_it_does_not_sample(tmp_path: Path) -> None:
    people.EDM(tmp_path)
    with pytest.raises(RequestError, match="a model of EDM"):
        load_teacher_pipeline(tmp_path / "sdxl", people.WEIGHTS / "ip_adapter", "float32", "cpu")


def test_the_teacher_says_what_it_drops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    people.scheduler(tmp_path, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    with caplog.at_level(logging.WARNING):
        load_teacher_pipeline(tmp_path / "sdxl", people.WEIGHTS / "ip_adapter", "float32", "cpu")
    assert "zero terminal SNR" in caplog.text


def test_the_student_refuses_a_base_without_betas() -> None:
    with pytest.raises(RequestError, match="rectified flow"):
        read_schedule(FlowMatchEulerDiscreteScheduler())
    assert read_schedule(DPMSolverMultistepScheduler()).timesteps == 1000


def test_a_base_whose_configuration_is_of_other_weights_is_refused_before_features(tmp_path: Path) -> None:
    people.configuration(tmp_path, model="pixart", part="transformer", use_additional_conditions=True)
    with pytest.raises(RequestError, match="the weights lack 8 of the tensors"):
        require_loadable("pixart", tmp_path / "pixart")
    require_loadable("pixart", people.WEIGHTS / "pixart")


def test_weights_that_the_configuration_has_no_place_for_are_not_dropped(tmp_path: Path) -> None:
    import torch
    from diffusers import UNet2DConditionModel

    people.configuration(tmp_path, model="sdxl", part="unet", addition_embed_type=None)
    with pytest.raises(RequestError, match=r"no place for by config\.json, first add_embedding"):
        load_diffusers(UNet2DConditionModel, tmp_path / "sdxl" / "unet", torch.float32)


def test_text_encoders_of_other_widths_than_the_unet_reads_are_told(tmp_path: Path) -> None:
    people.configuration(tmp_path, model="sdxl", part="unet", cross_attention_dim=2048)
    assert "reads text states 2048 wide" in " ".join(sdxl_agreement(tmp_path / "sdxl").faults)


def test_a_published_sdxl_and_pixart_have_no_fault(published: Path) -> None:
    from bottega.models.agreement import pixart_agreement

    assert sdxl_agreement(published / "sdxl").faults == ()
    assert pixart_agreement(published / "pixart").faults == ()
    for role in ("sdxl", "pixart", "ip_adapter", "clip", "structure_encoder", "scene_reader", "style_classifier"):
        require_loadable(role, published / role)
