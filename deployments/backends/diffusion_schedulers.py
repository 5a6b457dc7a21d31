"""The table of schedulers: LocalAI's names → diffusers' classes and what is set in them."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import diffusers

from deployments.errors import ConfigInvalid


class Scheduler(NamedTuple):
    """A class of diffusers, and settings over those of the model's own scheduler."""

    name: str
    settings: Mapping[str, Any] = {}


_PLAIN: dict[str, Scheduler] = {
    "ddim": Scheduler("DDIMScheduler"),
    "ddpm": Scheduler("DDPMScheduler"),
    "pndm": Scheduler("PNDMScheduler", {"skip_prk_steps": True}),  # as every Stable Diffusion does
    "deis": Scheduler("DEISMultistepScheduler"),
    "lcm": Scheduler("LCMScheduler"),
    "heun": Scheduler("HeunDiscreteScheduler"),
    "unipc": Scheduler("UniPCMultistepScheduler"),
    "euler": Scheduler("EulerDiscreteScheduler"),
    "euler_a": Scheduler("EulerAncestralDiscreteScheduler"),
    "lms": Scheduler("LMSDiscreteScheduler"),
    "dpm_2": Scheduler("KDPM2DiscreteScheduler"),
    "dpm_2_a": Scheduler("KDPM2AncestralDiscreteScheduler"),
    "dpmpp_2m": Scheduler("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++", "solver_order": 2}),
    "dpmpp_sde": Scheduler("DPMSolverSinglestepScheduler"),
    "dpmpp_2m_sde": Scheduler("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
}
_KARRAS = "deis heun unipc euler lms dpm_2 dpm_2_a dpmpp_2m dpmpp_sde dpmpp_2m_sde"
"""Those that can take the noise levels of Karras et al. 2022 (arXiv:2206.00364): `k_<name>`."""

SCHEDULERS: dict[str, Scheduler] = {
    **_PLAIN,
    **{
        f"k_{name}": Scheduler(_PLAIN[name].name, {**_PLAIN[name].settings, "use_karras_sigmas": True})
        for name in _KARRAS.split()
    },
}


FLOW_MATCHING = "FlowMatch"
"""How the names of schedulers begin whose models predict a velocity instead of noise: the two kinds don't mix."""


def set_scheduler(pipeline: Any, name: str) -> None:
    """Give the pipeline another scheduler, by a name of the table or of a class, with its own one's settings.

    Raises ConfigInvalid for a name that is neither, and for a scheduler that its model wasn't trained for.
    """
    chosen = SCHEDULERS.get(name, Scheduler(name))
    cls: Any = getattr(diffusers, chosen.name, None)
    if diffusers.SchedulerMixin not in getattr(cls, "__mro__", ()):
        raise ConfigInvalid(f"diffusers.scheduler_type: {name!r} is none; schedulers are: {', '.join(SCHEDULERS)}")
    own = type(pipeline.scheduler).__name__
    if own.startswith(FLOW_MATCHING) != chosen.name.startswith(FLOW_MATCHING):
        raise ConfigInvalid(f"diffusers.scheduler_type: {name!r} doesn't fit a model that was made for {own}")
    pipeline.scheduler = cls.from_config(pipeline.scheduler.config, **chosen.settings)
