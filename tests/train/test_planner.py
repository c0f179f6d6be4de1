"""The planner's counts against counted ones: the model's parameters, torch's FLOP counter, what autograd keeps."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from unity import ops
from unity.config import MODELS, RECOMPUTE, ModelConfig
from unity.flow_matching import stream_losses
from unity.model.convert import convert
from unity.model.dit import UnityDiT
from unity.model.lora import LoraConfig, inject, plain_name
from unity.model.names import is_hidden
from unity.model.packed import packed_rows, packing, saved_numbers
from unity.model.sequence import Peers
from unity.train import config as cfg
from unity.train.config import parse
from unity.train.planner import auto, memory
from unity.train.planner.count import Product, Sample, Trained, parameters, products, sample, shapes
from unity.train.planner.gpus import GIB, GPUS, USABLE, card
from unity.train.planner.memory import NUMBERS, Numbers, activations, kept, passing
from unity.train.planner.options import Options, jobs
from unity.train.planner.plan import Choice, Job, Limits, Plan, best, choices, leanest, smallest
from unity.train.recompute import recompute

ROOT = Path(__file__).parents[2]
WAN = replace(MODELS["debug"], num_layers=7, stem=0, patch=(1, 2, 2), latent_channels=8)
WORDS, ALL = 9, Trained()
MEASURED = json.loads((ROOT / "benchmarks/results/block_bench_cuda.json").read_text())
OURS = [row for row in MEASURED["rows"] if row["contestant"].startswith("unity")]

pytestmark = pytest.mark.usefixtures("plain_linear")


def counted(config: ModelConfig, frames: int, side: int) -> Sample:
    """Of a latent of that many frames and places a side."""
    cells = frames * side * side
    return Sample(tokens=cells // (config.patch[1] * config.patch[2]), cells=cells, words=WORDS)


def made(config: ModelConfig, trained: Trained, kind: str = "none") -> UnityDiT:
    torch.manual_seed(0)
    model = UnityDiT(config)
    convert(model, LoraConfig(rank=trained.lora_rank, targets=trained.lora_targets), None)
    recompute(model, kind)
    return model


def loss_of(model: UnityDiT, frames: int, side: int) -> torch.Tensor:
    config = model.config
    rgb, aux = torch.randn(2, 1, config.latent_channels, frames, side, side)
    caption, prompt = torch.randn(1, WORDS, config.text_dim), torch.randn(1, 5, config.text_dim)
    arguments = rgb, aux, torch.rand(1, 2), torch.tensor([2]), caption, torch.tensor([WORDS]), prompt
    velocity = torch.stack(model(*arguments, torch.tensor([5])), 1)
    return stream_losses(velocity, torch.randn(velocity.shape)).mean()


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_of_every_size(name):
    variants = [{}, {"cross_attention": "separate", "cross_modulation": True}]
    variants += [] if MODELS[name].stem else [{"input": "expert", "output": "shared"}]
    for changes in variants:
        config = replace(MODELS[name], **changes)
        with torch.device("meta"):
            model = UnityDiT(config)
        assert shapes(config, ALL) == {n: tuple(p.shape) for n, p in model.named_parameters()}


@pytest.mark.parametrize("targets", ["all", "attention", "ffn"])
def test_every_parameter_of_adapters(targets):
    model, trained = UnityDiT(MODELS["debug"]), Trained(lora_rank=3, lora_targets=targets)
    inject(model, LoraConfig(rank=3, targets=targets))
    named = {plain_name(name): p for name, p in model.named_parameters()}
    assert shapes(model.config, trained) == {name: tuple(p.shape) for name, p in named.items()}
    found = parameters(model.config, trained, 0)
    assert found.trained == sum(p.numel() for p in named.values() if p.requires_grad)
    assert found.total == sum(p.numel() for p in named.values())


def test_matrices_of_muon():
    config = MODELS["tiny"]
    named = dict(UnityDiT(config).named_parameters())
    matrices = sum(p.numel() for name, p in named.items() if is_hidden(name, p.shape))
    assert parameters(config, Trained(optimizer="muon"), 0).matrices == matrices > 0
    assert parameters(config, ALL, 0).matrices == 0


SHAPES = {"wan": WAN, "embedded": replace(MODELS["debug"], num_layers=3)}
SHAPES["expert"] = replace(WAN, input="expert", cross_attention="separate", cross_modulation=True)


COUNTED = [("wan", 3), ("embedded", 0)]
COUNTED += [pytest.param(*row, marks=pytest.mark.slow) for row in (("wan", 0), ("embedded", 3), ("expert", 0))]


@pytest.mark.parametrize(("shape", "rank"), COUNTED)
def test_flops_are_those_that_torch_counts(shape, rank):
    """Forward, backward and what is computed again, exactly; plain attention's backward is four products."""
    config, trained = SHAPES[shape], Trained(lora_rank=rank, lora_targets="attention")
    given = products(config, trained, counted(config, 2, 8))
    for kind in ("none", "every-2", "full"):
        model = made(config, trained, kind)
        with sdpa_kernel(SDPBackend.MATH):
            with FlopCounterMode(display=False) as forward:
                loss = loss_of(model, 2, 8)
            with FlopCounterMode(display=False) as backward:
                loss.backward()
        assert forward.get_total_flops() == sum(product.flops for product in given)
        again = _again(config, given, counted(config, 2, 8), kind)
        assert backward.get_total_flops() == again + sum(product.backward * product.flops for product in given)


def _again(config: ModelConfig, given: list[Product], size: Sample, kind: str) -> int:
    """torch stops when all that is needed is there: before a block's last product."""
    blocks = sum(map(RECOMPUTE[kind].chooses, range(config.num_layers)))
    inside = sum(product.flops for product in given if product.inside)
    return blocks * (inside // config.num_layers - 2 * size.sequence * config.dim * config.ffn_dim)


def as_on_a_gpu(monkeypatch):
    """Cross-attention that keeps what the Triton kernel keeps: its inputs."""

    def lean(*args):
        return checkpoint(ops._torch_cross_attention, *args, use_reentrant=False)

    row = ops.Implementation("lean", lambda *_: None, lean)
    monkeypatch.setitem(ops.IMPLEMENTATIONS, "dual_cross_attention", (row,))


def kept_bytes(model: UnityDiT, frames: int, side: int) -> int:
    owned, found = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def note(x):
        storage = x.untyped_storage()
        if storage.data_ptr() not in owned:
            found[storage.data_ptr()] = storage.nbytes(), x
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = loss_of(model, frames, side)
    assert loss.isfinite()
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize(
    "kind",
    [k if k in ("none", "selective") else pytest.param(k, marks=pytest.mark.slow) for k in RECOMPUTE],
)
@pytest.mark.parametrize(
    ("shape", "trained", "tolerance"),
    [
        ("wan", ALL, 0.01),
        ("wan", Trained(lora_rank=3), 0.02),
        ("wan", Trained(lora_rank=3, lora_targets="attention"), 0.02),
        ("embedded", ALL, 0.01),
    ],
    ids=["all", "adapters", "adapters of attention", "stem"],
)
def test_activations_are_those_that_autograd_keeps(shape, trained, tolerance, kind, monkeypatch):
    as_on_a_gpu(monkeypatch)
    config = SHAPES[shape]
    left, worst = activations(config, trained, counted(config, 4, 16), Numbers(bytes=4), kind)
    assert left == pytest.approx(kept_bytes(made(config, trained, kind), 4, 16), rel=tolerance)
    assert worst > left


@pytest.mark.parametrize("row", [r for r in OURS if r.get("kept_bytes")], ids=str)
def test_a_block_keeps_what_was_measured_on_a_gpu(row):
    """Also in 8 bits. The benchmark's last residual is added after the block: its gates are an input there."""
    config, numbers = MODELS[row["shape"]], NUMBERS["fp8" if row["contestant"].endswith("fp8") else "bf16"]
    size = Sample(tokens=row["tokens"] // 2, cells=0, words=MEASURED["words"])
    held = kept(config, ALL, size, numbers).all
    assert held == pytest.approx(row["kept_bytes"], rel=2e-3)
    # at the worst moment, the gradients of its weights with it
    worst = held + passing(config, size, numbers) + 2 * parameters(config, ALL, 0).block
    assert worst == pytest.approx(row["peak_bytes"], rel=0.06)


@pytest.mark.parametrize("row", [r for r in OURS if r["direction"] != "backward"], ids=str)
def test_a_block_takes_the_time_that_was_measured_on_a_gpu(row):
    precision = "fp8" if row["contestant"].endswith("fp8") else "bf16"
    job = Job(
        config=replace(MODELS[row["shape"]], num_layers=1), trained=ALL, precision=precision, gpu=GPUS["H100"],
        sample=Sample(tokens=row["tokens"] // 2, cells=0, words=MEASURED["words"]), pixels=0, batch_size=1, gpus=1,
    )  # fmt: skip
    inside = [product for product in job.products if product.inside]
    forward = sum(map(job.forward, inside)) + job.passed[0]
    backward = sum(map(job.backward, inside)) + job.passed[1]
    expected = {"forward": forward, "both": forward + backward, "both, checkpointed": 2 * forward + backward}
    assert expected[row["direction"]] == pytest.approx(row["ms"] / 1e3, rel=0.06)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "kind"), [("bf16", "muon"), ("fp32", "adamw"), ("bf16", "adamw"), ("bf16", "adamw8")]
)
def test_states_are_what_the_engine_holds(world, precision, kind):
    """Storages that live once the engine is built, ZeRO's buffer for gradients aside; one rank."""
    import gc

    from unity.train import zero
    from unity.train.ema import Ema
    from unity.train.optim import SetOptim, optimizer

    base = json.loads((ROOT / "launchers/zero3.json").read_text())
    base["zero_optimization"]["reduce_bucket_size"] = 16
    settings = zero.settings(base, precision=precision, batch_size=1, micro_batch=1, world_size=1, clip=1.0)
    gc.collect()
    before = _alive()
    optim = SetOptim(kind=kind, lr=1e-3, warmup=0)
    engine = zero.build_engine(lambda: UnityDiT(WAN), lambda named: optimizer(optim, named), settings, 0)
    # alive until it is counted
    ema = Ema(zero.masters(engine), 0.99)
    gc.collect()
    found = sum(size for pointer, size in _alive().items() if pointer not in before)
    counts = parameters(WAN, Trained(optimizer=kind), memory.PERSISTENT)
    expected = sum(memory.states(counts, NUMBERS[precision], 1, kind == "adamw8").values())
    assert ema.flats and found == pytest.approx(expected, rel=0.01)


def _alive() -> dict[int, int]:
    import gc

    # those that hold numbers: not what a compiler left behind
    tensors = [x for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter)]
    return {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}


def test_settings_of_zero_are_those_of_the_launcher():
    given = json.loads((ROOT / "launchers/zero3.json").read_text())["zero_optimization"]
    assert given["stage3_param_persistence_threshold"] == memory.PERSISTENT
    assert given["stage3_max_live_parameters"] == memory.LIVE
    assert given["stage3_prefetch_bucket_size"] == memory.COMING
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    assert DeepSpeedZeroConfig().reduce_bucket_size == memory.BUCKET
    assert DeepSpeedZeroConfig().sub_group_size == memory.GROUP


@pytest.mark.slow
def test_encoders_have_so_many_parameters():
    from diffusers import AutoencoderKLWan
    from transformers import UMT5Config, UMT5EncoderModel

    from unity.model.minilm import MiniLM

    wide = dict(base_dim=160, decoder_base_dim=256, z_dim=48, is_residual=True, in_channels=12, out_channels=12)
    wide |= dict(patch_size=2, temperal_downsample=[False, True, True], scale_factor_spatial=16)
    with torch.device("meta"):
        codecs = {"wan2.1": AutoencoderKLWan(), "wan2.2": AutoencoderKLWan(**wide)}
        words = UMT5Config(d_model=4096, d_ff=10240, d_kv=64, num_heads=64, num_layers=24, vocab_size=256384)
        texts = {"umt5": UMT5EncoderModel(words), "minilm": MiniLM()}
    for table, models in ((memory.CODECS, codecs), (memory.TEXTS, texts)):
        for name, model in models.items():
            assert table[name] == sum(p.numel() for p in model.parameters()), name


def asked(**changes) -> Job:
    options = Options(**{"model": "10b", "gpus": 64, "frames": 81, "size": "480x832"} | changes)
    return next(iter(jobs(options).values()))


def test_the_published_figures_of_the_paper_size():
    """71% of 11.9 PFLOP a sample are attention (formula in docs/cluster.md)."""
    plan = Plan(job=asked(), choice=Choice(sequence_parallel=2, micro_batch=1, recompute="full"))
    total = sum(plan.flops.values())
    assert plan.job.sample.sequence == 65_520
    assert total / 32 == pytest.approx(11.9e15, rel=0.01)
    assert plan.flops["self-attention"] / total == pytest.approx(0.71, abs=0.005)
    weights = 40 * (6 * 4096**2 + 2 * 4096 * 14336)
    assert total / 32 == pytest.approx(6 * weights * 65_520 + 12 * 65_520**2 * 4096 * 40, rel=0.002)


def test_a_plan_divides_and_fits():
    job = asked()
    for choice in choices(job, Limits()):
        plan = Plan(job=job, choice=choice)
        parallel = job.gpus // choice.sequence_parallel
        assert plan.micro_steps * choice.micro_batch * parallel == job.batch_size
    found = best(job, Limits())
    assert found.fits and found.peak <= USABLE * 80 * GIB
    assert found.step <= 1.02 * min(
        plan.step for plan in (Plan(job=job, choice=c) for c in choices(job, Limits())) if plan.fits
    )
    assert leanest(job, Limits()).peak <= found.peak


@pytest.mark.slow
def test_more_gpus_hold_less_and_the_smallest_cluster_is_the_smallest():
    job = asked()
    peaks = [leanest(replace(job, gpus=gpus), Limits()).peak for gpus in (1, 2, 8, 64, 256)]
    assert peaks == sorted(peaks, reverse=True)
    found = smallest(job, Limits())
    assert found.job.gpus > 1 and best(replace(job, gpus=found.job.gpus // 2), Limits()) is None
    assert smallest(replace(job, gpu=replace(job.gpu, memory=8 * GIB)), Limits()) is None


def test_weights_hide_at_the_network_of_a_row_and_not_at_a_hundredth():
    choice = Choice(sequence_parallel=8, micro_batch=1, recompute="full")
    fast, slow = (Plan(job=asked(network=network), choice=choice) for network in (None, 0.5))
    assert fast.hides and not slow.hides and slow.step > fast.step
    alone = Plan(job=asked(gpus=1), choice=Choice(sequence_parallel=1, micro_batch=1, recompute="full"))
    assert not any(alone.volumes.values())


@pytest.mark.parametrize("storage", ["fp8", "nf4"])
def test_packed_weights_are_those_of_the_model(storage):
    config, rank = WAN, 4
    before = torch.get_default_dtype()
    try:
        # the bytes bear the name of the dtype that the model is made in
        torch.set_default_dtype(torch.bfloat16)
        model = UnityDiT(config, packing(storage))
    finally:
        torch.set_default_dtype(before)
    convert(model, LoraConfig(rank=rank), None)
    counts = parameters(config, Trained(lora_rank=rank, storage=storage), 0)
    named, packed = dict(model.named_parameters()), packed_rows(model)
    assert counts.packed_bytes == sum(named[name].nbytes for name in packed)
    assert counts.packed == saved_numbers(model) + sum(named[name].numel() for name in packed)
    states = memory.states(counts, NUMBERS["bf16"], 1)
    assert states["weights"] == sum(p.nbytes for p in named.values())


# what is asked of one GPU, 33 frames of 256x256 from latents → GiB of it that are used at most
ON_ONE_GPU = {
    "1.3b on 24": (dict(model="1.3b", offload="optimizer"), 24),
    "5b LoRA on 16": (dict(model="5b", lora_rank=32), 16),
    "5b LoRA on 12": (dict(model="5b", lora_rank=32, base_storage="fp8"), 12),
    "14b LoRA on 48": (dict(model="14b", lora_rank=32), 48),
    "14b LoRA on 24": (dict(model="14b", lora_rank=32, base_storage="nf4"), 24),
    "14b LoRA on 12": (dict(model="14b", lora_rank=32, offload="weights"), 12),
    "14b on 24": (dict(model="14b", offload="weights", optimizer="adamw8"), 24),
    "5b on 80": (dict(model="5b", offload="optimizer", optimizer="adamw8"), 80),
}


@pytest.mark.parametrize("name", ON_ONE_GPU)
def test_what_fits_on_one_gpu_by_the_ways_to_save_memory(name):
    flags, memory_of_it = ON_ONE_GPU[name]
    job = asked(gpus=1, frames=33, size="256x256", encoders=False, memory=memory_of_it, **flags)
    plan, wide = best(job, Limits()), replace(job, offload="none", trained=replace(job.trained, storage="wide"))
    assert plan is not None and plan.peak < USABLE * memory_of_it * GIB
    # what is not needed is not shown to be
    needless = name in ("5b LoRA on 16", "14b LoRA on 48")
    assert (best(wide, Limits()) is not None) == needless
    assert (plan.host > 0) == (job.offload != "none")


def test_weights_that_wait_on_the_host_pass_the_bus_twice_a_micro_step():
    """All that ZeRO-3 cuts, by a count of the model itself; hidden where a step computes for longer."""
    flags = dict(model="1.3b", gpus=1, gpu="RTX4090", frames=33, size="256x256", lora_rank=32, batch_size=4)
    job = asked(**flags, offload="weights")
    plan = Plan(job=job, choice=Choice(sequence_parallel=1, micro_batch=1, recompute="full"))
    with torch.device("meta"):
        model = UnityDiT(MODELS["1.3b"])
    convert(model, LoraConfig(rank=32), None)
    cut = sum(2 * p.numel() for p in model.parameters() if p.numel() > memory.PERSISTENT)
    assert plan.volumes["fetched weights"] == 4 * 2 * cut
    assert plan.hides and plan.step > 4 * 2 * cut / GPUS["RTX4090"].bus
    slow = replace(plan, job=replace(job, gpu=replace(job.gpu, bus=1e9)))
    assert not slow.hides and slow.step > slow.seconds("fetched weights") > 4 * 2 * cut / 1e9
    states = memory.states(job.parameters, job.numbers, 1, offload="weights")
    assert states["weights"] == sum(2 * p.numel() for p in model.parameters()) - cut


class Sent(torch.autograd.Function):
    """An exchange with itself, which counts what passes."""

    bytes = 0

    @staticmethod
    def forward(ctx, parts):
        # what is gathered behind the blocks has a dimension less
        Sent.bytes += parts.nbytes if parts.dim() == 5 else 0
        return parts.clone()

    @staticmethod
    def backward(ctx, gradient):
        Sent.bytes += gradient.nbytes if gradient.dim() == 5 else 0
        return gradient


@pytest.mark.parametrize("kind", ["none", "every-2", "selective", "full"])
def test_heads_are_exchanged_as_often_as_is_said(kind):
    """Half of what two ranks exchange stays with its rank."""
    job = replace(asked(gpus=2, batch_size=1, precision="fp32"), config=WAN, sample=counted(WAN, 2, 8))
    plan = Plan(job=job, choice=Choice(sequence_parallel=2, micro_batch=1, recompute=kind))
    model, Sent.bytes = made(WAN, ALL, kind), 0
    model.peers = Peers(0, 2, Sent.apply)
    loss_of(model, 2, 8).backward()
    assert plan.volumes["exchanged heads"] == Sent.bytes / 2


def test_what_was_decided_stays():
    options = Options(gpus=64, size="480x832", sequence_parallel=4, micro_batch=2, recompute="full")
    (job,) = jobs(options).values()
    assert best(job, options.limits).choice == Choice(sequence_parallel=4, micro_batch=2, recompute="full")


def run(*words: str, program: str = "import unity.train.planner.__main__ as p, sys; p.end('planner', p.main)"):
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, env=environment, cwd=ROOT
    )


def test_the_command_prints_and_writes(tmp_path):
    place, picture = tmp_path / "plan.json", tmp_path / "plan.png"
    flags = f"--model 10b --gpus 64 --frames 81 --size 480x832 --json {place} --picture {picture}"
    done = run(*flags.split())
    assert done.returncode == 0, done.stderr
    for word in ("10,229,256,576", "2 x 32,760 tokens", "selective", "stage 2", "GPU-hours", "smallest", "hidden"):
        assert word in done.stdout
    plan = json.loads(place.read_text())["81x480x832"]
    assert plan["choice"]["recompute"] == "selective" and plan["stages"]["1"]["steps"] == 16_000
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_a_size_it_says_what_fits():
    done = run("--model", "1.3b", "--gpus", "1", "--gpu", "RTX4090", "--lora-rank", "16", "--no-encoders")
    lines = [line.split() for line in done.stdout.splitlines()[2:]]
    assert done.returncode == 0 and lines[0][0] == "17x128x128" and lines[0][1].isdigit()
    assert lines[-1][1:] == ["does", "not", "fit"]


def test_it_loads_no_torch():
    code = "import sys, unity.train.planner.__main__ as p; sys.argv = ['planner', '--size', '480x832']; p.main()"
    done = run(program=code + "; print(*sys.modules, file=sys.stderr)")
    loaded = set(done.stderr.split())
    assert "unity.train.planner.plan" in loaded and not {"torch", "deepspeed", "matplotlib"} & loaded


BAD = {
    "--size 480": "give --size a height and a width",
    "--size 480x833": "480x832 does",
    "--size 0x832": "give --size a height and a width",
    "--frames 80 --size 480x832": "give --frames 77 or 81",
    "--gpus 0": "give --gpus a number from 1 to 1024",
    "--gpus 2000": "give --gpus a number from 1 to 1024",
    "--gpus 5 --size 480x832": "give --batch-size 30 or 35, or 4 or 8 GPUs",
    "--gpus 512 --size 480x832": "of which up to 8 may share a sample; give --batch-size 64, or 256 GPUs",
    "--gpus 64 --size 480x832 --micro-batch 3": "in micro-batches of 3, of which up to 8 may share a sample; give "
    "--batch-size 24 or 48",
    "--gpus 64 --size 480x832 --sequence-parallel 64": "it can be 1 or 2 or 4 or 8",
    "--gpu A100 --precision fp8": "give --precision bf16, or another --gpu",
    "--words 600": "give fewer",
    "--base-storage fp8": "train adapters of rank 32",
    "--memory nan": "give --memory a number",
    f"--json {ROOT}/README.md/plan.json --size 480x832": "README.md",
}


@pytest.mark.parametrize("flags", BAD)
def test_bad_input_is_one_sentence(flags, monkeypatch, capsys):
    from unity.command import end
    from unity.train.planner.__main__ import main

    monkeypatch.setattr(sys, "argv", ["planner", *flags.split()])
    with pytest.raises(SystemExit) as ended:
        end("planner", main)
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and BAD[flags] in " ".join(said.split()) and "Traceback" not in said


def test_the_default_optimizer_is_that_of_training(monkeypatch):
    monkeypatch.setattr(cfg, "device_kind", lambda: "cpu")
    for name in MODELS:
        job = next(iter(jobs(Options(model=name)).values()))
        assert job.trained.optimizer == cfg.recipe(parse(["--model", name]))[0]


ABOUT = {"frames": 17, "size": [64, 64]}


def _chosen(plan: Plan) -> tuple:
    return tuple(vars(plan.choice).values())


def _plans_of(job: Job, size: int) -> list[Plan]:
    return [Plan(job=job, choice=choice) for choice in choices(job, Limits(sequence_parallel=(size,)))]


def test_auto_takes_what_is_recommended_and_leaves_what_is_given(monkeypatch):
    monkeypatch.setattr(cfg, "device_kind", lambda: "cpu")
    monkeypatch.setattr(auto, "_here", lambda: replace(GPUS["H100"], memory=80 * GIB))
    flags = ["--model", "1.3b", "--precision", "bf16", "--batch-size", "8", "--frames", "33", "--plan", "auto"]
    flags += ["--size", "256", "256"]
    config = cfg.resolve(parse(flags), ABOUT, ranks=2)
    job = asked(model="1.3b", gpus=2, frames=33, size="256x256", batch_size=8)
    assert (config.sequence_parallel, config.micro_batch, config.recompute) == _chosen(best(job, Limits()))
    assert "micro-batch" in auto.line(config, 2) and "GiB" in auto.line(config, 2)
    own = ["--recompute", "full", "--micro-batch", "4", "--sequence-parallel", "2"]
    given = cfg.resolve(parse([*flags, *own], ranks=2), ABOUT, ranks=2)
    assert (given.sequence_parallel, given.micro_batch, given.recompute) == (2, 4, "full")
    with pytest.raises(ValueError, match="finds no plan: 8 samples do not divide over 5 GPUs; .* 4 or 8 GPUs"):
        cfg.resolve(parse(flags, ranks=5), ABOUT, ranks=5)
    # where one of two GPUs is too small for a sample, both share it
    small, alone = (min(plan.peak for plan in _plans_of(job, size)) for size in (2, 1))
    assert small < alone
    monkeypatch.setattr(auto, "_here", lambda: replace(GPUS["H100"], memory=(small + alone) / 2 / USABLE))
    assert cfg.resolve(parse(flags), ABOUT, ranks=2).sequence_parallel == 2
    monkeypatch.setattr(auto, "_here", lambda: replace(GPUS["H100"], memory=8 * GIB))
    with pytest.raises(ValueError, match="--plan auto finds nothing that fits: at least .* usable; give smaller"):
        cfg.resolve(parse(flags), ABOUT, ranks=2)


def test_the_mfu_of_a_run_is_by_the_published_flops(monkeypatch):
    monkeypatch.setattr(cfg, "device_kind", lambda: "cpu")
    flags = [
        "--model",
        "1.3b",
        "--precision",
        "bf16",
        "--batch-size",
        "8",
        "--frames",
        "33",
        "--size",
        "256",
        "256",
    ]
    config = cfg.resolve(parse(flags), ABOUT, ranks=2)
    assert auto.ideal_seconds(config, 2) is None
    monkeypatch.setattr(auto, "here", lambda: GPUS["H100"])
    weights, tokens = 30 * (6 * 1536**2 + 2 * 1536 * 8960), 2 * 9 * 16 * 16
    flops = 8 * (6 * weights * tokens + 12 * tokens**2 * 1536 * 30)
    assert auto.ideal_seconds(config, 2) == pytest.approx(flops / (2 * 989.5e12), rel=0.02)


def test_cards_are_found_by_their_full_names():
    assert card("NVIDIA H100 80GB HBM3", 5.0).bf16 == GPUS["H100"].bf16
    assert card("NVIDIA GeForce RTX 4090", 5.0) == replace(GPUS["RTX4090"], memory=5.0)
    assert card("Tesla T4", 5.0) is None


def test_a_clip_has_the_tokens_of_its_latent():
    assert sample(MODELS["10b"], 81, (480, 832), 64).tokens == 21 * 30 * 52
    assert sample(MODELS["5b"], 81, (704, 1280), 64).tokens == 21 * 22 * 40
    assert sample(MODELS["debug"], 17, (64, 64), 64).cells == 5 * 16 * 16


GUIDE = ("--model 1.3b --gpus 1", "--model 10b --size 480x832", "--model 10b --gpus 64 --frames 81 --size 480x832")


@pytest.mark.parametrize("flags", GUIDE)
def test_the_guide_shows_what_the_planner_prints(flags, monkeypatch, capsys):
    from unity.train.planner.__main__ import main

    page = (ROOT / "docs/cluster.md").read_text()
    monkeypatch.setattr(sys, "argv", ["planner", *flags.split()])
    main()
    assert f"planner {flags}\n" in page and f"```text\n{capsys.readouterr().out}```" in page
