"""The samplers of this project as a scheduler of diffusers."""

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from unity.sampler import SAMPLERS, Sampling


class UnityScheduler(SchedulerMixin, ConfigMixin):
    """UniPC, DPM++ or Euler over times from 1 to 0, to the last bit as `python -m unity.infer` takes them."""

    order = 1

    @register_to_config
    def __init__(self, sampler: str = "unipc", shift: float | None = None, num_train_timesteps: int = 1000):
        """`shift` is by default the one that the model's card has for a task."""
        # which refuses what no sampler can do
        Sampling(sampler=sampler, shift=shift)
        self.set_timesteps(50)

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None, shift: float | None = None
    ) -> None:
        """Before each sample: the times, by default with the scheduler's own shift."""
        own = self.config["shift"] if shift is None else shift
        times = Sampling(steps=num_inference_steps, shift=own).times()
        self.num_inference_steps = num_inference_steps
        self.sigmas = torch.tensor(times, dtype=torch.float64)
        self.timesteps = (self.config["num_train_timesteps"] * self.sigmas[:-1]).to(device, torch.float32)
        self._step, self._number = SAMPLERS[self.config["sampler"]](), 0

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
