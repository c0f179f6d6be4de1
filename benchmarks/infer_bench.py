"""What each option of inference costs and changes: seconds a step, memory, error.

    python benchmarks/infer_bench.py [--shape 1.3b 5b --tokens 1152 --steps 16 --contestant unity "diffusers Wan"]

One clip is sampled from noise by Euler's steps, with guidance unless an option says otherwise, by a model of
random weights without VAE and text encoder; all options have the same. An option's error is that of the latents it
ends in, as a share of the deviation of those of its truth: the same weights, guidance and precision, without it.
Options that change only the order of additions must stay below the tolerance, or get no speed. `diffusers Wan` is
the transformer of its Wan pipeline, with the RGB half of the same weights; `unity, RGB alone` computes the same
function. Options are measured one after the other, each in memory of its own; on one CPU thread, time is the
processor's. `debug` is a narrow model of Wan's kind.
"""

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from block_bench import DTYPES, command_line, measure_cases, or_blank
from block_cases import GRIDS, PADDED, WORDS
from harness import Timing, admitted, at_least, deviation
from harness import measure as timed
from torch import Tensor

from unity.config import MODELS, ModelConfig
from unity.model.dit import UnityDiT
from unity.sampler import Guidance, Solver, Texts, euler, guide, time_grid

NARROW = ModelConfig(dim=96, ffn_dim=256, num_heads=2, num_layers=4, text_dim=64)
SHAPES = {"debug": NARROW} | {name: MODELS[name] for name in ("1.3b", "5b", "10b", "14b")}
DEFAULTS, TOKENS = {"cpu": ["debug"], "cuda": ["1.3b", "5b"]}, {"cpu": [288], "cuda": [1152]}
# of float32, and of bfloat16 over the steps
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
COLUMNS = "shape  tokens  option                     s/step        ±  peak GB    error  took s"

Sample = Callable[[], Tensor]


class Case(NamedTuple):
    """A model's shape and a clip of random latents, on a device."""

    name: str
    config: ModelConfig
    tokens: int
    steps: int
    device: str
    dtype: torch.dtype

    def model(self) -> UnityDiT:
        """Always the same random weights; those that start at zero are not left there."""
        torch.manual_seed(0)
        torch.set_default_dtype(self.dtype)
        try:
            with torch.device(self.device):
                model = UnityDiT(self.config).requires_grad_(False)
        finally:
            torch.set_default_dtype(torch.float32)
        for value in model.parameters():
            if not value.any():
                value.normal_(std=0.02)
        return model.eval()

    def noise(self) -> Tensor:
        """Both streams [1, 2, c, t, h, w]."""
        grid = (s * p for s, p in zip(GRIDS[self.tokens], self.config.patch, strict=True))
        generator = torch.Generator().manual_seed(1)
        return torch.randn(1, 2, self.config.latent_channels, *grid, generator=generator).to(self.device)

    def texts(self) -> Texts:
        generator = torch.Generator().manual_seed(2)
        states = torch.randn(3, 1, WORDS, self.config.text_dim, generator=generator).to(self.device, self.dtype)
        caption, prompt, empty = ((one, torch.tensor([WORDS], device=self.device)) for one in states)
        return Texts(caption=caption, prompt=prompt, empty=empty)


class Option(NamedTuple):
    """One way to sample a case."""

    make: Callable[[Case], Sample]
    # whose latents are right; None: its own
    truth: str | None
    # whether only the order of additions may differ
    exact: bool = True


def both(case: Case, guidance: Guidance, model: Callable | None = None, wanted: bool = True) -> Sample:
    """Sampling of both streams, or of RGB alone, by a model of ours."""
    model = case.model() if model is None else model
    noise, texts = case.noise(), case.texts()
    modality = torch.zeros(1, dtype=torch.long, device=case.device)
    if not wanted:
        noise = noise[:, :1]
    guided = guide(texts, guidance)

    def velocity(state: Tensor, now: float) -> Tensor:
        def evaluate(caption: tuple, prompt: tuple) -> Tensor:
            copies = len(caption[1])
            rgb, aux, *_ = (*state.repeat(copies, *(1,) * 5).unbind(1), None)
            times = torch.full((copies, state.shape[1]), now, device=case.device)
            if aux is None:
                return model(rgb, None, times, None, *caption)[0].unsqueeze(1)
            return torch.stack(model(rgb, aux, times, modality.repeat(copies), *caption, *prompt), dim=1)

        return guided(evaluate)

    return partial(sampled, case, velocity, noise)


def sampled(case: Case, velocity: Callable[[Tensor, float], Tensor], noise: Tensor) -> Tensor:
    with torch.no_grad():
        return Solver(time_grid(case.steps), euler())(velocity, noise)


def compiled(case: Case) -> Sample:
    return both(case, GUIDED, torch.compile(case.model(), dynamic=False))


def hooked(case: Case, hook: Callable) -> Sample:
    """By the model as diffusers has it, with one of its hooks."""
    from unity.model.card import ModelCard
    from unity.pipeline import UnityTransformer3DModel

    card = ModelCard(model=case.config, modalities=("depth",), stage=1, step=0, frames=1, size=(16, 16))
    model = UnityTransformer3DModel.of(case.model(), card)
    hook(model, case)
    sample = both(case, GUIDED, model)

    def anew() -> Tensor:
        if model.is_cache_enabled:
            model._reset_stateful_cache()
        return sample()

    return anew


def packed(case: Case, storage: str) -> Sample:
    """By the model as `--storage` keeps it."""
    from unity.model.card import ModelCard
    from unity.model.weights import load_model, save_model

    card = ModelCard(model=case.config, modalities=("depth",), stage=1, step=0, frames=1, size=(16, 16))
    with tempfile.TemporaryDirectory() as folder:
        path = save_model(case.model().state_dict(), card, Path(folder) / "model")
        model, _ = load_model(path, case.device, case.dtype, storage=storage)
    return both(case, GUIDED, model)


def in_eight_bits(model, case: Case) -> None:
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=case.dtype)


def by_blocks(model, case: Case) -> None:
    model.cpu()
    model.enable_group_offload(
        onload_device=torch.device(case.device), num_blocks_per_group=1, use_stream=case.device == "cuda"
    )


def with_taylorseer(model, case: Case, interval: int) -> None:
    from diffusers import TaylorSeerCacheConfig

    model.enable_cache(TaylorSeerCacheConfig(cache_interval=interval, taylor_factors_dtype=case.dtype))


def diffusers_wan(case: Case) -> Sample:
    """diffusers' transformer with our RGB half, both passes of guidance as its pipeline has them."""
    from diffusers import WanTransformer3DModel

    from unity.model.layouts import to_diffusers

    c, state = case.config, to_diffusers(case.model().state_dict(), case.config)
    with torch.device("meta"):
        model = WanTransformer3DModel(
            patch_size=c.patch, num_attention_heads=c.num_heads, attention_head_dim=c.head_dim,
            in_channels=c.latent_channels, out_channels=c.latent_channels, text_dim=c.text_dim,
            freq_dim=c.freq_dim, ffn_dim=c.ffn_dim, num_layers=c.num_layers, cross_attn_norm=True, eps=c.eps,
        )  # fmt: skip
    model.rope = type(model.rope)(c.head_dim, c.patch, 1024).to(case.device)
    model.load_state_dict(state, assign=True, strict=False)
    model, texts = model.to(case.dtype).eval(), case.texts()
    filled = (0, 0, 0, PADDED - WORDS)
    padded = {name: F.pad(getattr(texts, name)[0], filled) for name in ("caption", "empty")}

    def velocity(latent: Tensor, now: float) -> Tensor:
        def evaluate(text: str) -> Tensor:
            time = torch.full((1,), 1000 * now, device=case.device)
            return model(latent[:, 0].to(case.dtype), time, padded[text], return_dict=False)[0].float()

        with_text, without = evaluate("caption"), evaluate("empty")
        return (without + GUIDED.scale * (with_text - without)).unsqueeze(1)

    return partial(sampled, case, velocity, case.noise()[:, :1])


GUIDED, ALONE = Guidance(scale=3.0), Guidance(scale=1.0)
OPTIONS: dict[str, Option] = {
    "unity": Option(partial(both, guidance=GUIDED), None),
    "unity, one pass": Option(partial(both, guidance=Guidance(scale=3.0, batched=True)), "unity"),
    "unity, unguided": Option(partial(both, guidance=ALONE), None),
    "unity, compiled": Option(compiled, "unity"),
    "unity, fp8 storage": Option(partial(packed, storage="fp8"), "unity", exact=False),
    "unity, nf4 storage": Option(partial(packed, storage="nf4"), "unity", exact=False),
    "unity, layerwise casting": Option(partial(hooked, hook=in_eight_bits), "unity", exact=False),
    "unity, offload by block": Option(partial(hooked, hook=by_blocks), "unity"),
    "unity, TaylorSeer 2": Option(
        partial(hooked, hook=partial(with_taylorseer, interval=2)), "unity", exact=False
    ),
    "unity, TaylorSeer 4": Option(
        partial(hooked, hook=partial(with_taylorseer, interval=4)), "unity", exact=False
    ),
    "unity, RGB alone": Option(partial(both, guidance=GUIDED, wanted=False), None),
    "diffusers Wan": Option(diffusers_wan, "unity, RGB alone"),
}


def bench(case: Case, options: list[str], seconds: float, end: float) -> Iterator[dict]:
    """Rows, as they come; what is absent, wrong or late is named in the printout instead."""
    ends: dict[str, Tensor] = {}
    for name in options:
        start, option = time.perf_counter(), OPTIONS[name]
        found, missing = admitted([name], lambda name: OPTIONS[name].make(case), partial(_wrong, case, ends), end)
        for sample in found.values():
            timing, peak = _timed(sample, seconds, case)
            error = None if option.truth is None else _off(ends[name], ends.get(option.truth))
            row = _row(case, name, timing, peak, error)
            _print(row, time.perf_counter() - start)
            yield row
        for absent, reason in missing.items():
            print(f"{case.name:6} {case.tokens:6}  {absent:24} not measured: {reason}", flush=True)
        del found
        gc.collect()
        if case.device == "cuda":
            torch.cuda.empty_cache()


def _wrong(case: Case, ends: dict[str, Tensor], name: str, sample: Sample) -> str | None:
    """Why an option gets no speed; its latents are kept."""
    option, ends[name] = OPTIONS[name], sample().float().cpu()
    if not ends[name].isfinite().all():
        return "its latents are not finite"
    truth = ends.get(option.truth) if option.truth else None
    if truth is None or not option.exact:
        return None
    return deviation(["latents"], [ends[name]], [truth], TOLERANCE[case.dtype])


def _off(found: Tensor, truth: Tensor | None) -> float | None:
    return None if truth is None else ((found - truth).square().mean().sqrt() / truth.std()).item()


def _timed(sample: Sample, seconds: float, case: Case) -> tuple[Timing, int | None]:
    if case.device != "cuda":
        return timed(sample, seconds, warmup=0), None
    torch.cuda.reset_peak_memory_stats()
    timing = timed(sample, seconds, warmup=1, device=case.device)
    return timing, torch.cuda.max_memory_allocated()


def _row(case: Case, name: str, timing: Timing, peak: int | None, error: float | None) -> dict:
    return {
        "shape": case.name, "tokens": case.tokens, "layers": case.config.num_layers, "option": name,
        "seconds_per_step": timing.median / case.steps, "spread": timing.spread / case.steps,
        "peak_bytes": peak, "truth": OPTIONS[name].truth, "error": error,
    }  # fmt: skip


def _print(row: dict, took: float) -> None:
    peak, error = row["peak_bytes"] and row["peak_bytes"] / 1e9, row["error"]
    print(
        f"{row['shape']:6} {row['tokens']:6}  {row['option']:24} {row['seconds_per_step']:8.4f} "
        f"{row['spread']:8.4f} {or_blank(peak, '8.2f')} {or_blank(error, '8.1e')} {took:7.1f}",
        flush=True,
    )


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser = command_line(
        "infer_bench",
        __doc__,
        device,
        OPTIONS,
        SHAPES,
        shape=DEFAULTS,
        tokens=TOKENS,
        contestant=dict.fromkeys(DEFAULTS, list(OPTIONS)),
        seconds=dict.fromkeys(DEFAULTS, 2.0),
    )
    parser.add_argument("--steps", type=at_least(1), default=16)
    args = parser.parse_args()
    steps = int(args.steps)

    def measure(name: str, tokens: int, end: float) -> Iterator[dict]:
        case = Case(name, SHAPES[name], tokens, steps, device, DTYPES[args.dtype])
        return bench(case, args.contestant, args.seconds, end)

    print(COLUMNS)
    measure_cases(args, device, measure, steps=steps, guidance=GUIDED.scale)


if __name__ == "__main__":
    main()
