"""The samplers of this project as a scheduler of diffusers."""

from dataclasses import replace

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from unity.sampler import Sampling


class UnityScheduler(SchedulerMixin, ConfigMixin):
    """The samplers of this project, over times from 1 to 0, to the last bit as unity.infer takes them."""

    order = 1

    @register_to_config
    def __init__(self, sampler: str | None = None, shift: float | None = None, num_train_timesteps: int = 1000):
        """Both are by default those that the model's card has for a task."""
        # which refuses what no sampler can do
        Sampling(sampler=sampler, shift=shift)
        self.set_timesteps(50)

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None, usual: Sampling | None = None
    ) -> None:
        """Before each sample: the times and the sampler, of `usual` where the scheduler has none of its own."""
        usual = usual or Sampling()
        own = {name: self.config[name] or getattr(usual, name) for name in ("sampler", "shift")}
        times, self._step = replace(usual, steps=num_inference_steps, **own).solver()
        self.num_inference_steps, self._number = num_inference_steps, 0
        self.sigmas = torch.tensor([*times], dtype=torch.float64)
        self.timesteps = (self.config["num_train_timesteps"] * self.sigmas[:-1]).to(device, torch.float32)

    def step(
        self, model_output: Tensor, timestep: float | Tensor, sample: Tensor, return_dict: bool = True
    ) -> SchedulerOutput | tuple[Tensor]:
        """From one time to the next; steps are taken in their order."""
        now, then = self.sigmas[self._number : self._number + 2].tolist()
        self._number += 1
        moved = self._step(sample, model_output, now, then)
        return SchedulerOutput(prev_sample=moved) if return_dict else (moved,)

    def __len__(self) -> int:
        return self.config["num_train_timesteps"]
