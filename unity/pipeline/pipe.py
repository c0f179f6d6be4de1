"""UnityVideoPipeline: the three tasks in the words of diffusers."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor
from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

from unity.canvas import Canvas, exactly
from unity.encoders import Encoders
from unity.generate import Footage, Frames, Generator, check_learnt, fitted, generate
from unity.model.adapter import Lora
from unity.model.card import ModelCard
from unity.model.codec import WAN, WanCodec, load_codec, load_wan_vae
from unity.model.hub import beside
from unity.model.readme import write_readme
from unity.model.text import load_text, load_umt5, umt5
from unity.model.weights import load_model
from unity.pipeline.model import UnityTransformer3DModel
from unity.pipeline.scheduler import UnityScheduler
from unity.sampler import Guidance, Sampling, Solver

# one clip: pictures, or an array t h w 3 of bytes or of numbers in [0, 1]
Clip = Sequence[Image.Image] | Sequence[np.ndarray] | np.ndarray


@dataclass
class UnityVideoPipelineOutput(BaseOutput):
    """Videos, and the views of them, one for each prompt; the views' values where the model drew them."""

    frames: Any
    views: Any
    # as unity.modality.base has them: metres, pixels, numbers of instances, ...; `values` is a method of outputs
    view_values: list[np.ndarray] | None


class Call(NamedTuple):
    """What is asked for, with nothing left open."""

    task: str
    modality: str
    prompts: list[str]
    footage: Footage
    canvas: Canvas


class UnityVideoPipeline(DiffusionPipeline):
    """A video's view (`video`), a video that follows a view (`condition`), or both from words (`prompt`).

    Models with embedded encoders have neither VAE nor text encoder. `scheduler` may be any of diffusers' for flow
    matching.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _optional_components = ["vae", "text_encoder", "tokenizer"]
    _callback_tensor_inputs = ["latents"]

    transformer: UnityTransformer3DModel
    scheduler: Any
    vae: AutoencoderKLWan | None
    text_encoder: UMT5EncoderModel | None
    tokenizer: PreTrainedTokenizerBase | None

    def __init__(
        self,
        transformer: UnityTransformer3DModel,
        scheduler: SchedulerMixin,
        vae: AutoencoderKLWan | None = None,
        text_encoder: UMT5EncoderModel | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ):
        super().__init__()
        self.register_modules(
            transformer=transformer, scheduler=scheduler, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer
        )
        self._interrupt = False
        self._encoders: Encoders | None = None

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Path | str,
        device: str = "cpu",
        codec_weights: Path | None = None,
        text_weights: Path | None = None,
        lora: Lora | None = None,
    ) -> "UnityVideoPipeline":
        """Whatever `--checkpoint` of `python -m unity.infer` takes, as that loads it."""
        dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        model, card = load_model(checkpoint, device, dtype, lora=lora)
        usual, parts = beside(card.base or checkpoint), {}
        if card.model.codec in WAN:
            parts["vae"] = load_wan_vae(card.model.codec, codec_weights or usual, device, dtype)
        if card.model.text == "umt5":
            parts["tokenizer"], parts["text_encoder"] = load_umt5(text_weights or usual, device)
        return cls(UnityTransformer3DModel.of(model, _whole(card)), UnityScheduler(), **parts)

    def save_pretrained(self, save_directory: str | Path, *args: Any, **kwargs: Any) -> None:
        """As diffusers does, with a README that says what was trained on what."""
        super().save_pretrained(str(save_directory), *args, **kwargs)
        write_readme(self.card, Path(save_directory), "diffusers")

    @property
    def card(self) -> ModelCard:
        return self.transformer.model_card

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` in a callback: the steps that are left change nothing, and the videos are decoded."""
        return self._interrupt

    # what diffusers' users expect to find
    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str] | None = None,
        *,
        modality: str,
        video: Clip | None = None,
        condition: Clip | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        generator: torch.Generator | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Tensor, dict], dict | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> UnityVideoPipelineOutput | tuple:
        """Sizes, frames, steps and guidance are by default those of the model's card.

        `generator` stands for its seed: `torch.Generator().manual_seed(3)` gives what `--seed 3` does. `latents`
        (b, 2, c, t, h, w) hold both streams; a callback may return others. `output_type` is np (numbers in
        [0, 1]), pil, or pt. Raises ValueError for what cannot be done.
        """
        _check_names(output_type, callback_on_step_end_tensor_inputs)
        if (height is None) != (width is None):
            raise ValueError("height and width go together; give both, or neither")
        size = (height, width) if height is not None and width is not None else None
        call = self._planned(prompt, modality, {"rgb": video, "aux": condition}, size, num_frames)
        schedule = self.card.schedule(call.task).asked(steps=num_inference_steps, guidance=guidance_scale)
        # without words there is nothing to guide by
        guidance = Guidance(scale=schedule.guidance, caption=any(prompt.strip() for prompt in call.prompts))
        sampling = Sampling(
            steps=schedule.steps,
            shift=schedule.shift,
            sampler=schedule.sampler,
            guidance=guidance,
            seed=_seed(generator),
        )
        self._interrupt = False
        self.transformer.begin(schedule.steps)
        with self.progress_bar(total=schedule.steps) as bar:  # pyright: ignore[reportCallIssue]

            def after(number: int, latents: Tensor) -> Tensor:
                bar.update()
                if callback_on_step_end is None:
                    return latents
                changed = callback_on_step_end(
                    self, number, self.scheduler.timesteps[number], {"latents": latents}
                )
                return (changed or {}).get("latents", latents)

            solver = self._solver(schedule.steps, sampling, after)
            drawn = generate(self._generator(), *call[:4], sampling, solver=solver)
        self.maybe_free_model_hooks()
        output = self._output(call, *drawn, output_type)
        return output if return_dict else output.to_tuple()

    def _planned(
        self,
        prompt: str | list[str] | None,
        modality: str,
        given: dict[str, Clip | None],
        size: tuple[int, int] | None,
        frames: int | None,
    ) -> Call:
        """The task by what is given, as `python -m unity.infer` has it."""
        if given["rgb"] is not None and given["aux"] is not None:
            raise ValueError("a video asks for its view, a condition for a new video; give one of them")
        check_learnt(self.card, modality)
        prompts = [prompt] if isinstance(prompt, str) else prompt or [""]
        stream = next((name for name, clip in given.items() if clip is not None), None)
        if stream is None:
            if not any(words.strip() for words in prompts):
                raise ValueError("there is nothing to start from; give a video, a condition or a prompt")
            size = size or self.card.size
            return Call("joint", modality, prompts, Footage(frames=frames, size=size), exactly(size))
        shown = "rgb" if stream == "rgb" else modality
        video, canvas = fitted(self.card, _bytes(given[stream]), shown, frames, size)
        if stream == "aux":
            # speeds are drawn as shares of the width that the model sees
            video = self.card.modality(modality).redrawn(video, 1 / canvas.widening)
        clips = np.broadcast_to(video, (len(prompts), *video.shape))
        if stream == "rgb":
            # estimation reads no words about the scene
            return Call("estimate", modality, [""] * len(prompts), Footage(rgb=clips), canvas)
        return Call("control", modality, prompts, Footage(aux=clips), canvas)

    def _solver(self, steps: int, sampling: Sampling, after: Callable[[int, Tensor], Tensor]) -> Solver:
        """The scheduler's times and steps; after each of them `after` is called, which may change the latents."""
        scheduler = self.scheduler
        if isinstance(scheduler, UnityScheduler):
            scheduler.set_timesteps(steps, usual=sampling)
        else:
            scheduler.set_timesteps(steps, device=self._execution_device)
        numbers = itertools.count()

        def step(state: Tensor, velocity: Tensor, now: float, then: float) -> Tensor:
            number = next(numbers)
            moved = scheduler.step(velocity, scheduler.timesteps[number], state, return_dict=False)[0]
            return after(number, moved)

        times = itertools.takewhile(lambda _: not self._interrupt, scheduler.sigmas.tolist())
        return Solver(times, step)

    def _generator(self) -> Generator:
        return Generator(
            path=Path(self.config.get("_name_or_path") or "pipeline"),
            model=self.transformer,
            card=self.card,
            encoders=self._encoders_on(self._execution_device),
            dtype=self.transformer.dtype,
        )

    def _encoders_on(self, device: torch.device) -> Encoders:
        """Those of the parts, or the embedded ones; texts that were read stay read."""
        shape = self.card.model
        codec = (
            load_codec(shape.codec, device=device) if self.vae is None else WanCodec(shape.codec, self.vae, device)
        )
        kept = self._encoders
        if kept is not None and kept.device == device:
            text = kept.text
        elif self.text_encoder is None or self.tokenizer is None:
            text = load_text(shape.text, device=device)
        else:
            text = umt5(self.tokenizer, self.text_encoder, device)
        self._encoders = Encoders(codec=codec, text=text, device=device)
        return self._encoders

    def _output(self, call: Call, rgb: Frames, aux: Frames, kind: str) -> UnityVideoPipelineOutput:
        """Without what was added at the borders."""
        row, canvas = self.card.modality(call.modality), call.canvas
        videos, drawn = ([canvas.crop(clip) for clip in clips] for clips in (rgb, aux))
        values = None
        if call.task != "control":
            values = [row.decode(clip, row.unknown_constants(*canvas.model)) for clip in drawn]
        views = [row.redrawn(clip, canvas.widening) for clip in drawn]
        return UnityVideoPipelineOutput(frames=_shown(videos, kind), views=_shown(views, kind), view_values=values)


def _whole(card: ModelCard) -> ModelCard:
    """The card of weights that hold all of their base, from which nothing is read any more."""
    if not card.base:
        return card
    return replace(card, base="", history={"starts from": card.base} | card.history)


def _check_names(output_type: str, inputs: Sequence[str]) -> None:
    if output_type not in ("np", "pil", "pt"):
        raise ValueError(f"output_type is {output_type!r}; choose np, pil or pt")
    if list(inputs) not in (["latents"], []):
        raise ValueError(f"a callback is handed latents, not {', '.join(inputs)}")


def _seed(generator: torch.Generator | None) -> int:
    """A generator's seed; without one, a draw from torch's own."""
    return int(torch.randint(1 << 53, ())) if generator is None else generator.initial_seed()


def _bytes(clip: Clip | None) -> np.ndarray:
    """A clip as the rest of the project has it."""
    video = np.stack([np.asarray(frame) for frame in clip or ()]) if not isinstance(clip, np.ndarray) else clip
    if video.ndim != 4 or video.shape[-1] != 3:
        raise ValueError(f"a clip is pictures, or an array (frames, height, width, 3), not one of {video.shape}")
    return video if video.dtype == np.uint8 else (video * 255).round().clip(0, 255).astype(np.uint8)


def _shown(clips: Sequence[np.ndarray], kind: str) -> Any:
    """As diffusers' video processor gives them."""
    if kind == "pil":
        return [[Image.fromarray(frame) for frame in clip] for clip in clips]
    numbers = np.stack(clips).astype(np.float32) / 255
    return numbers if kind == "np" else torch.from_numpy(numbers).permute(0, 1, 4, 2, 3).contiguous()
