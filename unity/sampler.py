"""From noise to data along the learned velocity: Euler, UniPC, DPM++, new noise, guidance and the three tasks."""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unity.flow_matching import generator, shift_time
from unity.randomness import Purpose
from unity.routing import fixed_route
from unity.tasks import TASKS
from unity.thrift import in_one_pass

# velocity(state, time) for a state of noisy streams at one time
Velocity = Callable[[Tensor, float], Tensor]
# (state, velocity there, its time, the next time) → the state then; one remembers what it needs of those before
Step = Callable[[Tensor, Tensor, float, float], Tensor]
# called once a step with the data, of the state's shape, that sampling would end in if it ended there
Watch = Callable[[Tensor], object]
# states [b, l, d] and lengths [b] of a text, as the model takes them
Text = tuple[Tensor, Tensor]
Latent = Float[Tensor, "b c t h w"]


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance: v_without + scale·(v_with - v_without), without = these texts left empty."""

    scale: float = 7.5
    caption: bool = True
    prompt: bool = False
    # both in one pass of twice the batch, rather than one after the other; None: where clips are short
    batched: bool | None = None

    @property
    def active(self) -> bool:
        return self.scale != 1 and (self.caption or self.prompt)

    def settled(self, tokens: int) -> "Guidance":
        """For clips of so many tokens, in both streams."""
        return replace(self, batched=in_one_pass(self.batched, tokens))


def time_grid(steps: int, shift: float = 1.0) -> list[float]:
    """steps + 1 times from 1 to 0, denser near noise for shift > 1."""
    if steps < 1:
        raise ValueError(f"steps is {steps}; sampling needs at least 1")
    if not 0 < shift < math.inf:
        raise ValueError(f"shift is {shift}; it must be above 0")
    return shift_time(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).tolist()


def euler(seed: int = 0) -> Step:
    """First-order steps along the velocity; exact where the path is straight."""
    return lambda state, velocity, now, then: state + (then - now) * velocity


def unipc(seed: int = 0) -> Step:
    """UniPC of order 2 on data predictions, B(h) = exp(h) - 1 (Zhao et al., 2023, arXiv 2302.04867).

    Each step evaluates the velocity once: it corrects the state that was predicted, then predicts the next.
    The last step is of first order and lands on the data prediction.
    """
    seen: list[tuple[float, Tensor]] = []
    corrected: Tensor | None = None

    def step(state: Tensor, velocity: Tensor, now: float, then: float) -> Tensor:
        nonlocal seen, corrected
        data = state - now * velocity
        corrected = state if corrected is None else _unipc_step(corrected, seen, now, data)
        seen = [*seen[-1:], (now, data)]
        return _unipc_step(corrected, seen if then > 0 else seen[-1:], then)

    return step


def dpm(seed: int = 0) -> Step:
    """DPM-Solver++ (2M) on data predictions (Lu et al., 2022, arXiv 2211.01095).

    It is UniPC's predictor without its corrector; its last step is of first order, too.
    """
    seen: list[tuple[float, Tensor]] = []

    def step(state: Tensor, velocity: Tensor, now: float, then: float) -> Tensor:
        nonlocal seen
        seen = [*seen[-1:], (now, state - now * velocity)]
        return _unipc_step(state, seen if then > 0 else seen[-1:], then)

    return step


def stochastic(seed: int = 0) -> Step:
    """To the data prediction, and back to the next time with other noise: what a step got wrong is not carried on.

    For some ten or twenty steps: of many, samples lose their variety. Sample i of a batch has the noise of
    (seed, i), drawn on the CPU.
    """
    draws: list[torch.Generator] = []

    def step(state: Tensor, velocity: Tensor, now: float, then: float) -> Tensor:
        nonlocal draws
        draws = draws or [generator(Purpose.STEP, seed, i) for i in range(len(state))]
        noise = torch.stack([torch.randn(state.shape[1:], generator=g) for g in draws]).to(state)
        return (1 - then) * (state - now * velocity) + then * noise

    return step


# name → what makes the steps of one sample, or batch of them; the seed is that of a sampler which draws
SAMPLERS: dict[str, Callable[[int], Step]] = {
    "euler": euler,
    "unipc": unipc,
    "dpm++": dpm,
    "stochastic": stochastic,
}


class Solver(NamedTuple):
    """The times that samples pass through, from noise to data, and the step from one to the next."""

    # which may end early
    times: Iterable[float]
    step: Step

    def __call__(self, velocity: Velocity, state: Tensor) -> Tensor:
        """The state at the last time."""
        for now, then in itertools.pairwise(self.times):
            state = self.step(state, velocity(state, now), now, then)
        return state


@dataclass(frozen=True, kw_only=True)
class Texts:
    """What the model reads while sampling; `empty` stands for a text that guidance leaves out."""

    caption: Text
    prompt: Text
    empty: Text


def guide(texts: Texts, guidance: Guidance) -> Callable[[Callable[[Text, Text], Tensor]], Tensor]:
    """What makes the guided velocity of a state from its velocity by texts; without guidance, one evaluation.

    Batched, the texts of both are given at once, one batch after the other. The tensors are the same at every
    step: a cache knows its evaluations by them (unity.pipeline.model).
    """
    given = texts.caption, texts.prompt
    if not guidance.active:
        return lambda velocity: velocity(*given)
    caption = texts.empty if guidance.caption else texts.caption
    prompt = texts.empty if guidance.prompt else texts.prompt
    both = (_one_batch(texts.caption, caption), _one_batch(texts.prompt, prompt)) if guidance.batched else None

    def guided(velocity: Callable[[Text, Text], Tensor]) -> Tensor:
        found = velocity(*both).chunk(2) if both else (velocity(*given), velocity(caption, prompt))
        with_text, without = found
        return without + guidance.scale * (with_text - without)

    return guided


def watched(velocity: Velocity, watch: Watch) -> Velocity:
    """The same velocity, whose every evaluation, one a step of each sampler, `watch` sees as a data prediction."""

    def seen(state: Tensor, time: float) -> Tensor:
        found = velocity(state, time)
        watch(state - time * found)
        return found

    return seen


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How samples are drawn. Raises ValueError for what no sampler can do."""

    # these three by default as the checkpoint's card says (unity.generate)
    steps: int | None = None
    shift: float | None = None
    # a row of SAMPLERS
    sampler: str | None = None
    guidance: Guidance = field(default_factory=Guidance)
    seed: int = 0

    def __post_init__(self):
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; choose one of {', '.join(SAMPLERS)}")
        if not math.isfinite(self.guidance.scale):
            raise ValueError(f"guidance is {self.guidance.scale}; give a number")
        self.times()

    def times(self) -> list[float]:
        """The times that the samples pass through; of what is open, 50 steps without a shift."""
        return time_grid(50 if self.steps is None else self.steps, 1.0 if self.shift is None else self.shift)

    def solver(self) -> Solver:
        return Solver(self.times(), SAMPLERS[self.sampler or "unipc"](self.seed))


@dataclass(frozen=True, kw_only=True)
class Known:
    """The latents that a task starts from; `shape` (b, c, t, h, w) is needed where none is given."""

    rgb: Latent | None = None
    aux: Latent | None = None
    shape: tuple[int, ...] | None = None
    # time that the modulation of a given stream is told, see ModelConfig
    clean_time: str = "zero"


@torch.no_grad()
def sample(
    model: Callable,
    task: str,
    modality: Int[Tensor, " b"],
    texts: Texts,
    known: Known,
    sampling: Sampling = Sampling(),
    watch: Watch | None = None,
    solver: Solver | None = None,
) -> tuple[Latent, Latent]:
    """RGB and aux latents of a task on the device of `modality`, the given stream returned as it came.

    `control` needs `known.aux`, `estimate` needs `known.rgb`, `joint` needs `known.shape`. Sample i starts from
    noise drawn on the CPU at position (seed, i), so that it does not depend on device or batch. `watch` sees, once
    a step, both streams (b, 2, c, t, h, w) as they would end. `solver` stands in for that of `sampling`.
    """
    given, device = _given(task, known), modality.device
    shape = tuple(known.shape or next(latent for latent in given if latent is not None).shape)
    draws = (generator(Purpose.SAMPLE, sampling.seed, i) for i in range(shape[0]))
    state = torch.stack([torch.randn(2, *shape[1:], generator=g) for g in draws]).to(device)
    fixed = torch.stack([state[:, s] if latent is None else latent for s, latent in enumerate(given)], dim=1)
    noisy = torch.tensor(TASKS[task].noisy, device=device).view(1, 2, 1, 1, 1, 1)
    guided = guide(texts, sampling.guidance)

    def velocity(state: Tensor, time: float) -> Tensor:
        def evaluate(caption: Text, prompt: Text) -> Tensor:
            # as often as there are texts for it
            copies = len(caption[1]) // shape[0]
            rgb, aux = state.repeat(copies, 1, 1, 1, 1, 1).unbind(1)
            route = fixed_route(task, torch.full((len(rgb),), time, device=device), known.clean_time)
            given = route.model_time, modality.repeat(copies)
            return torch.stack(model(rgb, aux, *given, *caption, *prompt, wanted=route.wanted), dim=1)

        return torch.where(noisy, guided(evaluate), 0.0)

    times, move = solver or sampling.solver()

    def step(*now: Any) -> Tensor:
        # a sampler that adds noise would add it to what is given, too
        return torch.where(noisy, move(*now), fixed)

    followed = velocity if watch is None else watched(velocity, watch)
    state = Solver(times, step)(followed, torch.where(noisy, state, fixed))
    return state[:, 0], state[:, 1]


def _one_batch(one: Text, other: Text) -> Text:
    """Two texts behind each other, the shorter one's states filled up with zeros."""
    longest = max(len(states[0]) for states, _ in (one, other))
    padded = [F.pad(states, (0, 0, 0, longest - states.shape[1])) for states, _ in (one, other)]
    return torch.cat(padded), torch.cat((one[1], other[1]))


def _given(task: str, known: Known) -> tuple[Tensor | None, Tensor | None]:
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}; choose one of {', '.join(TASKS)}")
    given = known.rgb, known.aux
    for name, latent, noisy in zip(("rgb", "aux"), given, TASKS[task].noisy, strict=True):
        if (latent is None) != noisy:
            raise ValueError(f"task {task!r} {'generates' if noisy else 'needs'} the {name} latent")
    return given


def _unipc_step(
    origin: Tensor, seen: list[tuple[float, Tensor]], then: float, arrived: Tensor | None = None
) -> Tensor:
    """From the last seen time to `then`: the predictor, or the corrector if the data `arrived` there is known.

    With lambda = log(alpha / sigma), alpha = 1 - time and sigma = time, h is the step in lambda, a ratio places
    an earlier prediction on it, and the weights solve the paper's order conditions.
    """
    now, data = seen[-1]
    h = _log_snr(then) - _log_snr(now)
    phi = math.expm1(-h)
    ratios = [(_log_snr(time) - _log_snr(now)) / h for time, _ in seen[:-1]]
    slopes = [(earlier - data) / ratio for ratio, (_, earlier) in zip(ratios, seen[:-1], strict=True)]
    if arrived is not None:
        slopes.append(arrived - data)
    moved = data
    for weight, slope in zip(_unipc_weights(ratios, h, phi, arrived is not None), slopes, strict=True):
        moved = moved + weight * slope
    return (then / now) * origin - (1 - then) * phi * moved


def _unipc_weights(ratios: list[float], h: float, phi: float, correct: bool) -> list[float]:
    if len(ratios) + correct < 2:
        return [0.5] * (len(ratios) + correct)
    first = (-phi / h - 1) / phi
    second = 2 * ((phi / h + 1) / h - 0.5) / phi
    earlier = (second - first) / (ratios[0] - 1)
    return [earlier, first - earlier]


def _log_snr(time: float) -> float:
    if time in (0, 1):
        return math.inf if time == 0 else -math.inf
    return math.log((1 - time) / time)
