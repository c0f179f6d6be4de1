"""The benchmark measures what it says, and prints no speed for wrong values."""

import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import harness  # noqa: E402
import kernel_bench  # noqa: E402
import kernel_cases  # noqa: E402
import kernel_gate  # noqa: E402

from unity.kernels import reference  # noqa: E402


def test_calls_take_turns_over_rotating_arguments():
    seen = []
    calls = {name: lambda i, name=name: seen.append((name, i)) for name in "ab"}
    timings = harness.measure_all(calls, seconds=0, warmup=1, rotate=[(0,), (1,), (2,)])
    assert "".join(name for name, _ in seen) == "ab" + "ab" * 3
    assert [i for _, i in seen] == [n % 3 for n in range(8)]
    assert all(timing.median >= 0 and timing.spread >= 0 for timing in timings.values())


def test_a_result_names_its_machine_commit_and_date(tmp_path):
    path = harness.write_result("x", [{"ms": 1.0}], folder=tmp_path, copy_gb_per_s=9.0)
    found = json.loads(path.read_text())
    assert found["rows"] == [{"ms": 1.0}] and found["copy_gb_per_s"] == 9.0
    assert found["machine"]["torch"] == torch.__version__ and found["commit"] and found["date"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def options(folder: Path, *words: str):
    fixed = ["--device", "cpu", "--shape", "debug", "--tokens", "1152", "--seconds", "0.001"]
    return kernel_bench.parse([*fixed, "--json", str(folder / "rows.json"), *words])


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda form, **_: form)


@pytest.mark.slow
def test_every_op_has_a_row_or_a_reason(tmp_path, uncompiled):
    found = kernel_bench.run(options(tmp_path))
    measured = {(row["op"], row["direction"]) for row in found["rows"]}
    for op, case in kernel_cases.OPS.items():
        if not any(words.startswith(op) for words in found["skipped"]):
            directions = {"forward", "backward"} if case.backward else {"forward"}
            assert {d for o, d in measured if o == op} == directions
    row = next(row for row in found["rows"] if row["op"] == "gated_residual_layernorm")
    assert row["implementation"] == "c++" and {"eager", "compile", "diffusers"} <= row["other_ms"].keys()
    assert row["gb_per_s"] == pytest.approx(row["megabytes"] / row["ms"])
    assert row["megabytes"] == pytest.approx(4 * 1152 * 64 * 4 / 1e6)


def test_wrong_values_get_no_speed(tmp_path, uncompiled, monkeypatch, capsys):
    monkeypatch.setattr(kernel_bench.ops, "gelu", lambda x: reference.gelu(x) * 1.001)
    found = kernel_bench.run(options(tmp_path, "--op", "gelu", "gated_residual"))
    assert {row["op"] for row in found["rows"]} == {"gated_residual"}
    assert [words.split(",")[0] for words in found["wrong"]] == ["gelu debug 1152: WRONG"]
    assert "gelu   " not in capsys.readouterr().out


def test_wrong_gradients_are_seen():
    inputs = kernel_cases.OPS["gelu"].make(kernel_gate.SHAPES[0], torch.float32, "cpu")

    def halved(x):
        return reference.gelu(x).detach() + 0.5 * (reference.gelu(x) - reference.gelu(x).detach())

    assert kernel_gate.error(reference.gelu, "gelu", inputs) < 1e-6
    assert kernel_gate.error(halved, "gelu", inputs) > 0.4


def test_a_form_that_does_not_run_is_told_and_the_others_are_checked(monkeypatch, capsys):
    def refuse(self):
        raise RuntimeError("out of registers")

    broken = kernel_gate.ops.Implementation("triton", lambda x: None, refuse)
    monkeypatch.setitem(kernel_gate.ops.IMPLEMENTATIONS, "gelu", (broken,))
    monkeypatch.setattr(kernel_gate, "SHAPES", kernel_gate.SHAPES[:1])
    assert kernel_gate.check(["gelu", "linear_fp8"]) == 4
    found = capsys.readouterr().out
    assert found.count("RuntimeError: out of registers inf WRONG") == 4 and found.count(" ok\n") == 4


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["--seconds", "-3"], "'-3' is not a number from 0 on"),
        (["--seconds", "nan"], "'nan' is not a number from 0 on"),
        (["--threads", "0"], "'0' is not a whole number from 1 on"),
        (["--threads", "two"], "'two' is not a whole number from 1 on"),
        (["--shape", "12b"], "invalid choice: '12b'"),
        (["--op", "softmax"], "invalid choice: 'softmax'"),
        (["--tokens", "7"], "invalid choice: 7"),
        (["--json", "/proc/nothing/rows.json"], "nothing can be written in /proc/nothing"),
        (["--json", "."], "'.' is not the name of a .json or .png file"),
    ],
    ids=str,
)
def test_options_that_cannot_be_are_a_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit):
        kernel_bench.parse(["--device", "cpu", *words])
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_a_sentence(capsys):
    with pytest.raises(SystemExit):
        kernel_bench.parse(["--device", "cuda"])
    assert "this machine has no CUDA GPU" in capsys.readouterr().err


def test_the_time_limit_is_reported(tmp_path, uncompiled):
    found = kernel_bench.run(options(tmp_path, "--op", "gelu", "gated_residual", "--limit", "1e-9"))
    assert [words.split(":")[0] for words in found["skipped"]] == ["gelu debug 1152", "gated_residual debug 1152"]
