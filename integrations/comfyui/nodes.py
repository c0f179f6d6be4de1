"""Nodes, thin around `unity.generate`: a model, settings of sampling, and a task run with both.

ComfyUI's IMAGE is float32 [t, h, w, 3] in [0, 1], a batch of frames; its MODEL types are names of one's own.
"""

from dataclasses import replace
from pathlib import Path
from typing import get_args, get_type_hints

import comfy.model_management
import comfy.utils
import numpy as np
import torch

from unity.canvas import Canvas
from unity.generate import Footage, Generator, fitted, generate, load_generator
from unity.modality.table import MODALITIES
from unity.request import SHIPPED
from unity.sampler import SAMPLERS, Guidance, Sampling
from unity.tasks import TASKS
from unity.thrift import Thrift

MODEL, SAMPLING = "UNITY_VIDEO_MODEL", "UNITY_VIDEO_SAMPLING"
CATEGORY = "unity-video"
# option of Thrift → what it may be
KINDS = get_type_hints(Thrift)


class LoadModel:
    """A model folder, or a run folder of launchers/train.py; an empty path is the model that ships."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "load", (MODEL,)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        # for cards that do not hold all of it, see docs/weights.md
        saved = {name: (list(get_args(KINDS[name])),) for name in ("offload", "storage")}
        saved["tiled_vae"] = ("BOOLEAN", {"default": False})
        return {"required": {"path": ("STRING", {"default": ""})}, "optional": saved}

    def load(self, path: str, **saved: str | bool) -> tuple[Generator]:
        return (load_generator(Path(path) if path else SHIPPED, thrift=Thrift(**saved)),)


class Settings:
    """How samples are drawn."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "settings", (SAMPLING,)

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "steps": ("INT", {"default": 20, "min": 1, "max": 1000}),
                "guidance": ("FLOAT", {"default": 7.5, "min": 0.0, "max": 100.0, "step": 0.1}),
                "sampler": (list(SAMPLERS),),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**53}),
            }
        }

    def settings(self, steps: int, guidance: float, sampler: str, seed: int) -> tuple[Sampling]:
        return (Sampling(steps=steps, sampler=sampler, guidance=Guidance(scale=guidance), seed=seed),)


class Run:
    """Estimate a view of frames, make a video that follows one, or make both from words."""

    CATEGORY, FUNCTION = CATEGORY, "run"
    RETURN_TYPES, RETURN_NAMES = ("IMAGE", "IMAGE"), ("video", "view")

    @classmethod
    def INPUT_TYPES(cls) -> dict:
        return {
            "required": {
                "model": (MODEL,),
                "sampling": (SAMPLING,),
                "task": (list(TASKS),),
                "modality": (list(MODALITIES),),
                "prompt": ("STRING", {"default": "", "multiline": True}),
            },
            # of estimate the video, of control the view, as the model draws it
            "optional": {"frames": ("IMAGE",)},
        }

    def run(
        self,
        model: Generator,
        sampling: Sampling,
        task: str,
        modality: str,
        prompt: str,
        frames: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        given = [name for name, noisy in zip(("rgb", "aux"), TASKS[task].noisy, strict=True) if not noisy]
        if given and frames is None:
            raise ValueError(f"{task} starts from frames; connect them")
        footage, canvas, row = Footage(), None, model.card.modality(modality)
        if given:
            video, canvas = fitted(model.card, pixels(frames), "rgb" if given == ["rgb"] else modality)
            # speeds are drawn as shares of the width that the model sees
            video = video if given == ["rgb"] else row.redrawn(video, 1 / canvas.widening)
            footage = Footage(**{given[0]: video[None]})
        # without words there is nothing to guide by
        sampling = replace(sampling, guidance=replace(sampling.guidance, caption=bool(prompt.strip())))
        bar = comfy.utils.ProgressBar(sampling.steps)

        def watch(step: int, draw) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update(1)

        rgb, aux = generate(model, task, modality, [prompt], footage, sampling, watch)
        view = row.redrawn(aux[0], canvas.widening) if canvas else aux[0]
        return image(rgb[0], canvas), image(view, canvas)


def pixels(frames: torch.Tensor) -> np.ndarray:
    """Frames as the project has them, uint8, without transparency."""
    return (frames[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy()


def image(video: np.ndarray, canvas: Canvas | None) -> torch.Tensor:
    """As ComfyUI has it, without what was added at the borders."""
    return torch.from_numpy(np.ascontiguousarray(canvas.crop(video) if canvas else video)).float() / 255


NODE_CLASS_MAPPINGS = {"UnityVideoLoadModel": LoadModel, "UnityVideoSettings": Settings, "UnityVideoRun": Run}
NODE_DISPLAY_NAME_MAPPINGS = {
    "UnityVideoLoadModel": "unity-video: load",
    "UnityVideoSettings": "unity-video: settings",
    "UnityVideoRun": "unity-video: run",
}
