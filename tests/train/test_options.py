"""What a training run is told, what it fills in, and what it refuses."""

import dataclasses
import functools
import json
import typing
from pathlib import Path

import pytest
import tyro

from unity.config import MODELS
from unity.train import config as cfg
from unity.train.config import parse
from unity.train.config_file import read_config, write_config
from unity.train.folder import find_run
from unity.train.optim import SetOptim, learning_rate, optimizer
from unity.train.options import Options

# what the dataset says
ABOUT = {"frames": 17, "size": [64, 64]}


def resolve(options):
    return cfg.resolve(options, ABOUT)


@pytest.fixture
def on_cpu(monkeypatch):
    monkeypatch.setattr(cfg, "device_kind", lambda: "cpu")


@pytest.fixture
def run(tmp_path, on_cpu) -> Path:
    """A stage 1 run folder with a configuration of its own."""
    flags = ["--model", "debug", "--steps", "7", "--seed", "3", "--optim.lr", "0.01", "--batch-size", "4"]
    folder = tmp_path / "first"
    config = resolve(parse([*flags, "--out", str(folder), "--architecture.cross-attention", "separate"]))
    (folder / "checkpoints/step-00000007").mkdir(parents=True)
    write_config(config, folder / "config.json")
    return folder


def leaves(config) -> dict:
    """Every setting by its dotted name."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found |= {f"{field.name}.{name}": leaf for name, leaf in leaves(value).items()}
        else:
            found[field.name] = value
    return found


def kinds(options: type) -> dict:
    """The type of every setting, by the same names."""
    found = {}
    for name, kind in typing.get_type_hints(options).items():
        inner = kinds(kind) if dataclasses.is_dataclass(kind) else {"": kind}
        found |= {f"{name}.{key}".rstrip("."): leaf for key, leaf in inner.items()}
    return found


def test_a_resolved_configuration_is_complete(on_cpu, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    unset = {name for name, value in leaves(resolve(parse([]))).items() if value is None}
    # what starts elsewhere
    assert unset == {"init", "resume", "remote", "codec_weights", "text_weights", "lora.alpha", "only", "recipe"}


@pytest.mark.parametrize(
    ("kind", "model", "precision", "rate"), [("cpu", "tiny", "fp32", 3e-3), ("cuda", "small", "bf16", 1e-3)]
)
def test_the_machine_decides_what_is_left_out(monkeypatch, kind, model, precision, rate):
    monkeypatch.setattr(cfg, "device_kind", lambda: kind)
    monkeypatch.setattr(cfg, "computes_bf16", lambda: kind == "cuda")
    config = resolve(parse([]))
    assert (config.model, config.precision, config.optim.lr) == (model, precision, rate)
    assert config.architecture == MODELS[model]
    assert config.steps == (16_000 if kind == "cuda" else 150)


def test_large_models_take_the_papers_rate(on_cpu):
    assert resolve(parse(["--model", "10b"])).optim.lr == 5e-5


def test_large_models_recompute_all_but_attention(on_cpu):
    kinds = {name: resolve(parse(["--model", name])).recompute for name in ("debug", "small", "1.3b", "10b")}
    assert kinds == {"debug": "none", "small": "none", "1.3b": "selective", "10b": "selective"}
    assert resolve(parse(["--model", "10b", "--recompute", "every-2"])).recompute == "every-2"


def test_dotted_flags_reach_every_part(on_cpu):
    flags = "--routing.joint 0.4 --routing.control 0.3 --time.shift 3 --architecture.cross-modulation"
    flags += " --precision fp8 --fp8.scales tensor"
    config = parse([*flags.split(), "--model", "debug", "--optim.betas", "0.8", "0.9"])
    assert (config.routing.joint, config.time.shift, config.optim.betas) == (0.4, 3.0, (0.8, 0.9))
    assert (config.precision, config.fp8.scales) == ("fp8", "tensor")
    assert config.architecture == dataclasses.replace(MODELS["debug"], cross_modulation=True)


def test_every_switch_is_turned_by_its_name_alone():
    """Also those that the machine decides where they are left out."""
    hints = kinds(Options)
    switches = [name for name, kind in hints.items() if kind in (bool, bool | None)]
    assert {"preflight", "save_beside", "routing.any2any"} <= set(switches)
    for value, no in ((True, ""), (False, "no-")):
        parts = [name.replace("_", "-").rpartition(".") for name in switches]
        found = leaves(tyro.cli(Options, args=[f"--{part}{dot}{no}{last}" for part, dot, last in parts]))
        assert {found[name] for name in switches} == {value}


@pytest.mark.parametrize("flags", [["--stepz", "3"], ["--model", "huge"], ["--stage", "3"], ["--optim.foo", "1"]])
def test_unknown_flags_and_values_end_with_code_2(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        parse(flags)
    assert ended.value.code == 2
    assert flags[1] in capsys.readouterr().err or "stepz" in flags[0]


def test_the_file_gives_back_the_configuration(run):
    config = read_config(run)
    assert config.out == run and config.architecture.cross_attention == "separate" and config.seed == 3
    write_config(config, run / "again.json")
    assert (run / "again.json").read_text() == (run / "config.json").read_text()


def test_a_file_of_before_recomputation_is_read_and_can_be_resumed_with_it(run):
    content = json.loads((run / "config.json").read_text())
    del content["recompute"]
    (run / "config.json").write_text(json.dumps(content))
    assert read_config(run).recompute is None
    assert resolve(parse(["--resume", str(run), "--recompute", "full"])).recompute == "full"


def test_a_file_of_another_version_is_refused(run):
    content = json.loads((run / "config.json").read_text())
    content["optim"]["nesterov"] = True
    (run / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="nesterov"):
        read_config(run)


def test_resume_keeps_what_is_not_given(run):
    resumed = resolve(parse(["--stage", "1", "--resume", str(run), "--optim.clip", "0.5"]))
    before = leaves(read_config(run))
    changed = {name for name, value in leaves(resumed).items() if value != before[name]}
    assert changed == {"resume", "optim.clip"}


@pytest.mark.parametrize(
    ("saved", "given", "goes"),
    [("muon", "adamw8", False), ("adamw", "muon", False), ("adamw", "adamw8", True), ("muon", "muon", True)],
)
def test_moments_go_on_where_the_optimizer_has_the_same(run, saved, given, goes):
    config = read_config(run)
    write_config(
        dataclasses.replace(config, optim=dataclasses.replace(config.optim, kind=saved)), run / "config.json"
    )
    flags = ["--resume", str(run), "--optim.kind", given]
    if goes:
        assert parse(["--stage", "1", *flags]).optim.kind == given
    else:
        with pytest.raises(ValueError, match=f"--optim.kind {given} .* moments of {saved} .*--init {run}/model"):
            parse(["--stage", "1", *flags])
    # another stage takes the weights alone
    assert parse(["--stage", "2", *flags]).optim.kind == given


def test_another_stage_keeps_the_model_but_not_steps_and_folder(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    second = resolve(parse(["--stage", "2", "--resume", str(run / "checkpoints/step-00000007")]))
    assert second.architecture == read_config(run).architecture
    assert (second.steps, second.out, second.seed) == (150, Path("runs/stage2"), 3)


def test_a_folder_that_holds_a_run_is_not_written_over(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    taken = ["--out", str(run)]
    with pytest.raises(ValueError, match="holds a run already"):
        resolve(parse(taken))
    with pytest.raises(ValueError, match="holds a run already"):
        resolve(parse(["--stage", "2", "--resume", str(run), *taken]))
    Path("runs/stage1").mkdir(parents=True)
    assert resolve(parse([])).out == Path("runs/stage1-2")


def test_resume_needs_a_run_and_no_other_weights(run, tmp_path):
    with pytest.raises(ValueError, match="is no run folder"):
        find_run(tmp_path / "nothing")
    with pytest.raises(ValueError, match="give one of them"):
        parse(["--resume", str(run), "--init", str(run)])


def test_learning_rate_rises_and_falls_as_described():
    config = SetOptim(kind="adamw", lr=2.0, warmup=4, final=0.1)
    rates = [learning_rate(config, step, 24) for step in range(25)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    # half-way the cosine stands in the middle between peak and end
    assert rates[14] == pytest.approx(1.1) and rates[24] == pytest.approx(0.2)
    assert all(a >= b for a, b in zip(rates[4:], rates[5:], strict=False))
    constant = dataclasses.replace(config, schedule="constant")
    assert [learning_rate(constant, step, 24) for step in (0, 3, 23)] == [0.5, 2.0, 2.0]


def test_only_matrices_decay():
    from unity.model.dit import UnityDiT

    model = UnityDiT(MODELS["debug"])
    named = dict(model.named_parameters())
    groups = optimizer(SetOptim(kind="adamw", lr=1.0, warmup=0, weight_decay=0.3), named.items()).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decay) == len(named)
    tables = (
        "modulation.table",
        "modality_embedding",
        "stem.embedding",
        "bias",
        "norm_q.weight",
        "norm_k.weight",
        "norm3.weight",
    )
    for name, parameter in named.items():
        assert decay[id(parameter)] == (0.0 if name.endswith(tables) else 0.3), name


def test_the_releases_recipe_is_what_its_authors_say(on_cpu, tmp_path):
    """Of wan2.2-5b; what is given beside it stays, and a run that goes on keeps both."""
    out = ["--out", str(tmp_path / "run")]
    config = resolve(parse(["--recipe", "release", "--model", "5b", "--optim.clip", "0.7", *out]))
    optim, shape = config.optim, config.architecture
    assert (config.stage, config.steps, config.frames, config.size) == (2, 15_000, 33, (256, 256))
    assert (optim.kind, optim.lr, optim.parts_scale, optim.warmup) == ("adamw8", 5e-5, 10.0, 200)
    assert (optim.schedule, optim.final, optim.ema, optim.clip) == ("cosine", 0.1, 0.9999, 0.7)
    assert (shape.input, shape.output, shape.clean_time) == ("expert", "expert", "shared")
    assert (config.routing.weights, config.routing.caption_dropout) == ((0.5, 0.25, 0.25), 0.1)
    assert (config.time.kind, config.time.shift, config.time.estimate_shift) == ("logit_normal", 5.0, None)
    (tmp_path / "run/checkpoints/step-00000007").mkdir(parents=True)
    write_config(config, tmp_path / "run/config.json")
    again = resolve(parse(["--stage", "2", "--resume", str(tmp_path / "run"), "--optim.final", "0.2"]))
    assert (again.optim.final, again.optim.clip, again.recipe) == (0.2, 0.7, "release")


def test_parts_learn_at_a_rate_of_their_own():
    from unity.model.dit import UnityDiT
    from unity.model.names import is_part
    from unity.train.optim import rate

    config = SetOptim(kind="adamw", lr=1.0, warmup=0, parts_scale=7.0)
    named = dict(UnityDiT(MODELS["debug"]).named_parameters())
    groups = optimizer(config, named.items(), rate=functools.partial(rate, config)).param_groups
    scales = {id(p): group["scale"] for group in groups for p in group["params"]}
    assert {name: scales[id(p)] for name, p in named.items()} == {n: 7.0 if is_part(n) else 1.0 for n in named}


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--offload optimizer --model debug", "give adamw or adamw8"),
        ("--offload weights --model debug", "give adamw or adamw8"),
        ("--base-storage fp8 --model 1.3b", "train adapters of rank 32"),
        ("--base-storage nf4 --lora.rank 4 --precision fp8 --init x", "give --precision bf16"),
    ],
)
def test_ways_to_save_memory_that_do_not_go_together_are_refused(on_cpu, flags, reason):
    options = tyro.cli(Options, args=flags.split())
    with pytest.raises(ValueError, match=reason):
        resolve(dataclasses.replace(options, architecture=MODELS["1.3b"], init=None))
