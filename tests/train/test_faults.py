"""What goes wrong around a run: refused commands leave no mark, damage is mended or told, and everything ends."""

import hashlib
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unity.train import folder
from unity.train.config import parse
from unity.train.config_file import read_config
from unity.train.folder import held

ROOT = Path(__file__).parents[2]
TRAIN = ROOT / "launchers" / "train.py"
# makes the launcher itself a function of this process: the imports cost far more than the refusals
ENVIRONMENT = {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def command(*flags) -> list[str]:
    return [sys.executable, str(TRAIN), *map(str, flags)]


def run(*flags, cwd=None, seconds=120, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*flags), cwd=cwd, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=seconds,
        **options,
    )  # fmt: skip


def tree(path: Path) -> dict[str, str]:
    """Every file and link below a folder, and what is in it."""
    return {
        str(p.relative_to(path)): os.readlink(p) if p.is_symlink() else hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(path.rglob("*"))
        if p.is_symlink() or p.is_file()
    }


def small(dataset: Path, out: Path, *more) -> list:
    """Flags of two steps of stage 1 with the debug model."""
    flags = ["--stage", 1, "--model", "debug", "--steps", 2, "--batch-size", 4, "--picture-every", 0]
    return [*flags, "--save-every", 2, "--workers", 0, "--data", dataset, "--out", out, *more]


@pytest.fixture(scope="module")
def saved(dataset, world, tmp_path_factory) -> Path:
    """A finished run."""
    from unity.train.loop import train

    out = tmp_path_factory.mktemp("saved") / "run"
    train(parse([str(flag) for flag in small(dataset, out)]), world)
    assert not (out / folder.LOCK).exists()
    return out


@pytest.fixture
def again(saved, tmp_path) -> Path:
    """A copy of the finished run."""
    shutil.copytree(saved, tmp_path / "run", symlinks=True)
    return tmp_path / "run"


# flags beside --resume RUN → a word of the sentence
REFUSED = {
    "--model tiny": "another model",
    "--model 5b": "another model|not on this machine|memory|weights",
    "--batch-size 4 --micro-batch 3": "multiple",
    "--text-weights nowhere": "nowhere",
    "--codec-weights nowhere --architecture.codec wan2.1": "nowhere|another model|channels",
    "--deepspeed nowhere.json": "nowhere.json",
    "--architecture.dim 32": "another model",
    "--architecture.num-layers 1": "another model",
    "--architecture.num-heads 3": "head size",
    "--data nowhere": "no dataset",
    "--init nowhere": "one of them",
    "--frames 7": "4k\\+1",
    "--frames 999": "cut from",
    "--optim.kind adamw": "moments of muon",
    "--optim.lr nan": "lr is nan",
    "--optim.lr inf": "lr is inf",
    "--optim.ema 1": "ema",
    "--time.shift 0": "shift",
    "--routing.joint 0.9": "add up",
    "--steps 0": "steps is 0",
    "--steps -3": "steps is -3",
    "--workers -1": "workers",
    "--seed -1": "seed",
    "--keep 0": "keep",
    "--precision fp8 --fp8.backend transformer-engine": "transformer",
}


@pytest.mark.parametrize("flags", REFUSED)
def test_a_refused_resume_leaves_the_run_byte_for_byte(again, flags, world, dataset):
    """In this process, as all that may refuse is behind `parse` and `train`."""
    from unity.train.loop import train

    before = tree(again)
    with pytest.raises((ValueError, OSError, SystemExit)) as refused:
        train(parse(["--stage", "1", "--resume", str(again), "--steps", "4", *flags.split()]), world)
    # the command line itself ends with code 2, and has said why
    assert getattr(refused.value, "code", None) == 2 or re.search(REFUSED[flags], str(refused.value))
    assert tree(again) == before
    # and the plain resume is as good as ever
    assert parse(["--stage", "1", "--resume", str(again)]).model == "debug"


def test_a_refused_resume_from_elsewhere_leaves_nothing_of_what_was_brought(saved, tmp_path, world, capfd):
    from unity.train.loop import train
    from unity.train.remote import visiting

    shutil.copytree(saved / "checkpoints", tmp_path / "bucket/run/checkpoints")
    out = tmp_path / "new/run"
    flags = ["--stage", "1", "--resume", f"file://{tmp_path}/bucket/run", "--out", str(out), "--steps", "3"]

    def start(*more: str) -> None:
        with visiting() as visit:
            train(parse([*flags, *more], visit=visit), world)

    for refused in (["--model", "tiny"], ["--architecture.foo", "1"], ["--data", "nowhere"]):
        with pytest.raises((ValueError, SystemExit)):
            start(*refused)
        assert not out.parent.exists() and "is removed again" in capfd.readouterr().out
    start()
    assert folder.checkpoints(out)[0].name == "step-00000003"


def test_fewer_steps_than_are_done_change_nothing(again, world, capfd):
    from unity.train.loop import train

    before = tree(again)
    train(parse(["--stage", "1", "--resume", str(again), "--steps", "1"]), world)
    assert "nothing to do" in capfd.readouterr().out and tree(again) == before


def test_a_refused_start_leaves_no_folder_and_the_same_command_starts(dataset, tmp_path, world):
    from unity.train.loop import train

    out = tmp_path / "a" / "run"
    flags = list(map(str, small(dataset, out)))
    with pytest.raises(ValueError, match="nowhere"):
        train(parse([*flags, "--text-weights", "nowhere"]), world)
    assert not out.parent.exists()
    # killed before it saved anything: what is there is no obstacle, and forgotten
    (out / "checkpoints" / "step-00000002.partial").mkdir(parents=True)
    (out / "config.json").write_text("{")
    (out / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n{"st')
    train(parse(flags), world)
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()] == [0, 1]


def test_one_command_starts_a_run_and_goes_on_with_it(dataset, tmp_path, world, capfd):
    """As a script that is requeued would have it."""
    from unity.train.loop import train

    out = tmp_path / "run"
    flags = [*map(str, small(dataset, out)), "--resume", str(out)]
    train(parse(flags), world)
    assert "starts from its first step" in capfd.readouterr().out
    train(parse([*flags[:5], "3", *flags[6:]] if flags[5] == "2" else flags), world)
    assert "going on from step 2" in capfd.readouterr().out


# the lock


HOLD = "import sys, time; from pathlib import Path; from unity.train.folder import held\n"
HOLD += "with held(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"


def test_two_trainings_of_one_folder_and_a_killed_holder(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=f"is being written by process {holder.pid} on "),
            held(tmp_path / "run"),
        ):
            pass
    finally:
        holder.kill()
        holder.wait()
    assert (tmp_path / "run" / folder.LOCK).exists()
    with held(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / folder.LOCK).exists()


@pytest.mark.parametrize("alive", [True, False])
def test_a_holder_on_another_machine_is_known_by_its_signs_of_life(tmp_path, monkeypatch, alive):
    """Where locks do not reach other machines, only the file's time speaks for its holder."""
    monkeypatch.setattr(folder, "BEAT", 0.2)
    lock = tmp_path / folder.LOCK
    lock.write_text(json.dumps({"host": "node-17", "process": 4, "started": 1.0}))
    beating = subprocess.Popen(
        ["sh", "-c", f"while true; do touch {lock}; sleep 0.1; done"] if alive else ["sleep", "60"]
    )
    try:
        if alive:
            with pytest.raises(ValueError, match="process 4 on node-17"), held(tmp_path):
                pass
        else:
            with held(tmp_path):
                assert json.loads(lock.read_text())["process"] == os.getpid()
    finally:
        beating.kill()
        beating.wait()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"host": 1}'])
def test_a_damaged_lock_of_nobody_is_no_obstacle(tmp_path, content):
    (tmp_path / folder.LOCK).write_bytes(content)
    with held(tmp_path):
        pass


# damaged files of a run

DAMAGE = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "wrong shape": lambda path: path.write_text("[1, 2]"),
    "wrong types": lambda path: path.write_text('{"stage": "one", "step": [], "layout": 3}'),
    "torn last line": lambda path: path.write_bytes(path.read_bytes().rstrip()[:-2]),
    "empty line": lambda path: path.write_bytes(b"\n" + path.read_bytes() + b"\n\n"),
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 40),
    "a word": lambda path: path.write_text('"hello"'),
    "missing": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
NEWEST = "checkpoints/step-00000002"
FILES = ["metrics.jsonl", "config.json", *(f"{NEWEST}/{name}" for name in ("state.json", "manifest.json"))]
FILES += [f"{NEWEST}/weight-00000.safetensors", f"{NEWEST}/model/config.json", "tensorboard", "pictures"]


# contents of sealed files, and files in a folder's place, are all refused alike
TELLING = {"cut", "missing"}


def _damaged():
    for damage, name in itertools.product(DAMAGE, FILES):
        alike = damage not in TELLING and name not in ("metrics.jsonl", "config.json")
        yield pytest.param(damage, name, marks=[pytest.mark.slow] if alike else [])


@pytest.mark.parametrize(("damage", "name"), _damaged())
def test_a_damaged_run_goes_on_or_says_why_not(again, world, name, damage, capfd):
    from unity.train.loop import train

    path = again / name
    if name in ("tensorboard", "pictures"):
        shutil.rmtree(path, ignore_errors=True)
        path.write_text("what is a folder was here\n")
    DAMAGE[damage](path)
    flags = ["--stage", "1", "--resume", str(again), "--steps", "3"]
    try:
        train(parse(flags), world)
    except (ValueError, OSError) as error:
        words = str(error)
        assert len(words) > 20 and "\n" not in words and "Expecting value" not in words.split("(")[0]
        # a folder in the place of config.json is told of, not written over
        assert (
            name.startswith(NEWEST)
            or name in ("tensorboard", "pictures", "metrics.jsonl")
            or (damage, name) == ("a folder", "config.json")
        )
    else:
        lines = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
        assert lines[-1]["step"] == 2
        assert read_config(again).model == "debug"


def test_a_configuration_comes_back_from_the_checkpoint(again):
    before = read_config(again)
    (again / "config.json").write_text("{")
    assert read_config(again) == before
    (again / "config.json").unlink()
    assert parse(["--stage", "1", "--resume", str(again)]).architecture == before.architecture
    state = again / NEWEST / "state.json"
    state.write_text(json.dumps({k: v for k, v in json.loads(state.read_text()).items() if k != "config"}))
    with pytest.raises(ValueError, match="config.json is missing; .*state.json carries no configuration"):
        read_config(again)


# real processes


def told(done: subprocess.CompletedProcess) -> str:
    """What a command said in its last line, which is no traceback's."""
    assert "Traceback" not in done.stderr, done.stderr
    return [line for line in done.stderr.splitlines() if line.startswith("train: ")][-1]


# each starts all that training loads; the loader's own tests have one worker, and none
@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_damaged_shard_ends_everything_within_seconds(dataset, tmp_path, workers):
    data = tmp_path / "data"
    shutil.copytree(dataset, data)
    for shard in data.rglob("single_person/*.mds"):
        content = bytearray(shard.read_bytes())
        content[len(content) // 3 :: 97] = bytes(len(content[len(content) // 3 :: 97]))
        shard.write_bytes(content)
    start = time.monotonic()
    done = run(*small(data, tmp_path / "run"), "--workers", workers, seconds=240)
    assert done.returncode == 2 and "damaged" in told(done), done.stderr
    assert time.monotonic() - start < 200
    assert not (tmp_path / "run").exists() or not folder.checkpoints(tmp_path / "run")


@pytest.mark.slow
def test_interrupted_it_says_one_line(dataset, tmp_path):
    flags = small(dataset, tmp_path / "run")
    flags[flags.index("--steps") + 1] = 100_000
    process = subprocess.Popen(
        command(*flags), env=os.environ | ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    journal = tmp_path / "run" / "metrics.jsonl"
    try:
        while not (journal.exists() and journal.read_text()):
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130 and "Traceback" not in said
    assert len([line for line in said.splitlines() if line.startswith("train: ")]) == 1


@pytest.mark.slow
def test_a_full_disk_in_a_save_is_a_sentence_and_loses_nothing(again, world):
    """Files may grow no further than what a save needs: the system refuses the rest, as a full disk does."""
    from unity.train.loop import train

    before = tree(again / NEWEST)

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    done = run("--stage", 1, "--resume", again, "--steps", 4, "--save-beside", preexec_fn=limit)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "File too large" in done.stderr or "space" in done.stderr, done.stderr
    assert tree(again / NEWEST) == before
    train(parse(["--stage", "1", "--resume", str(again), "--steps", "4"]), world)
    assert folder.checkpoints(again)[0].name == "step-00000004"
