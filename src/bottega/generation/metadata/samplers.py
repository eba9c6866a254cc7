"""Samplers by bottega's names, and how other tools call them: the one table of both directions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SamplerName:
    """One sampler. a1111: name and schedule type. comfy: sampler_name and scheduler. invoke: InvokeAI's scheduler."""

    ours: str
    a1111: tuple[str, str]
    comfy: tuple[str, str]
    invoke: str


SAMPLERS = (
    SamplerName("ddim", ("DDIM", "Automatic"), ("ddim", "ddim_uniform"), "ddim"),
    SamplerName("ddpm", ("DDPM", "Automatic"), ("ddpm", "normal"), "ddpm"),
    SamplerName("euler", ("Euler", "Automatic"), ("euler", "normal"), "euler"),
    SamplerName("euler_karras", ("Euler", "Karras"), ("euler", "karras"), "euler_k"),
    SamplerName("euler_a", ("Euler a", "Automatic"), ("euler_ancestral", "normal"), "euler_a"),
    SamplerName("euler_a_karras", ("Euler a", "Karras"), ("euler_ancestral", "karras"), ""),
    SamplerName("heun", ("Heun", "Automatic"), ("heun", "normal"), "heun"),
    SamplerName("heun_karras", ("Heun", "Karras"), ("heun", "karras"), "heun_k"),
    SamplerName("dpm2", ("DPM2", "Uniform"), ("dpm_2", "normal"), "kdpm_2"),
    SamplerName("dpm2_karras", ("DPM2", "Karras"), ("dpm_2", "karras"), "kdpm_2_k"),
    SamplerName("dpm2_a", ("DPM2 a", "Uniform"), ("dpm_2_ancestral", "normal"), "kdpm_2_a"),
    SamplerName("dpm2_a_karras", ("DPM2 a", "Karras"), ("dpm_2_ancestral", "karras"), "kdpm_2_a_k"),
    SamplerName("dpmpp_2m", ("DPM++ 2M", "Uniform"), ("dpmpp_2m", "normal"), "dpmpp_2m"),
    SamplerName("dpmpp_2m_karras", ("DPM++ 2M", "Karras"), ("dpmpp_2m", "karras"), "dpmpp_2m_k"),
    SamplerName("dpmpp_2m_sde", ("DPM++ 2M SDE", "Uniform"), ("dpmpp_2m_sde", "normal"), "dpmpp_2m_sde"),
    SamplerName("dpmpp_2m_sde_karras", ("DPM++ 2M SDE", "Karras"), ("dpmpp_2m_sde", "karras"), "dpmpp_2m_sde_k"),
    SamplerName("dpmpp_sde", ("DPM++ SDE", "Uniform"), ("dpmpp_sde", "normal"), "dpmpp_sde"),
    SamplerName("dpmpp_sde_karras", ("DPM++ SDE", "Karras"), ("dpmpp_sde", "karras"), "dpmpp_sde_k"),
    SamplerName("unipc", ("UniPC", "Automatic"), ("uni_pc", "normal"), "unipc"),
    SamplerName("unipc_karras", ("UniPC", "Karras"), ("uni_pc", "karras"), "unipc_k"),
    SamplerName("lms", ("LMS", "Automatic"), ("lms", "normal"), "lms"),
    SamplerName("lms_karras", ("LMS", "Karras"), ("lms", "karras"), "lms_k"),
    SamplerName("pndm", ("PLMS", "Automatic"), ("", ""), "pndm"),
    SamplerName("lcm", ("LCM", "Automatic"), ("lcm", "sgm_uniform"), "lcm"),
)

# A1111's "Automatic" is the schedule that the sampler's author recommends: Karras or exponential for these, the model's
# own spacing for the rest. Files of before version 1.9 name no schedule; there the name itself may end in " Karras".
_AUTOMATIC = {
    "dpm2": "karras",
    "dpm2_a": "karras",
    "dpmpp_2m": "karras",
    "dpmpp_sde": "karras",
    "dpmpp_2m_sde": "exponential",
}
_PLAIN_SCHEDULES = {
    "",
    "automatic",
    "uniform",
    "normal",
    "simple",
    "ddim",
    "ddim_uniform",
    "sgm uniform",
    "sgm_uniform",
}

_BY_NAME = {row.ours: row for row in SAMPLERS}


def to_a1111(ours: str) -> tuple[str, str]:
    """A1111's name and schedule type of one of our samplers; our own name alone where A1111 has no such sampler."""
    row = _BY_NAME.get(ours)
    if row is None:
        return ours, ""
    return row.a1111


def from_a1111(sampler: str, schedule: str = "") -> str | None:
    """Our name of a sampler as A1111 and its relatives write it; None where we have none."""
    name = sampler.strip()
    schedule = schedule.strip().lower()
    if name.lower().endswith(" karras"):
        name = name[: -len(" karras")]
        schedule = schedule or "karras"
    for row in SAMPLERS:
        if row.a1111[0].lower() == name.lower():
            plain = row.ours.removesuffix("_karras")
            if schedule == "automatic":
                schedule = _AUTOMATIC.get(plain, "")
            return _with_schedule(plain, schedule)
    return None


def from_comfy(sampler: str, scheduler: str = "") -> str | None:
    """Our name of ComfyUI's sampler and scheduler; None where we have none."""
    # `_gpu`: where the noise is drawn, not another method. `sample_`: as the first versions wrote it.
    name = sampler.strip().lower().removeprefix("sample_").removesuffix("_gpu")
    for row in SAMPLERS:
        if row.comfy[0] == name and name:
            return _with_schedule(row.ours.removesuffix("_karras"), scheduler.strip().lower())
    return None


def from_invoke(scheduler: str) -> str | None:
    """Our name of InvokeAI's scheduler; `k_euler_a` and the like are those of its versions before 3."""
    name = scheduler.strip().lower()
    old = name.removeprefix("k_")
    old = {"dpm_2": "kdpm_2", "dpm_2_a": "kdpm_2_a", "plms": "pndm"}.get(old, old)
    for row in SAMPLERS:
        if row.invoke and row.invoke in (name, old):
            return row.ours
    return None


def from_novelai(sampler: str, schedule: str = "") -> str | None:
    """Our name of NovelAI's sampler (`k_euler_ancestral`) and noise schedule."""
    name = sampler.strip().lower().removeprefix("k_")
    name = {"ddim_v3": "ddim"}.get(name, name)
    return from_comfy(name, "normal" if schedule in ("", "native") else schedule)


def _with_schedule(plain: str, schedule: str) -> str | None:
    """The row of a sampler with this schedule; None where it is neither Karras nor the plain one."""
    if schedule == "karras":
        karras = f"{plain}_karras"
        return karras if karras in _BY_NAME else None
    if schedule not in _PLAIN_SCHEDULES:
        return None
    return plain
