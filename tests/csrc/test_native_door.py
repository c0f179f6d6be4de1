"""What surrounds the C++ ops: refusals, torch.compile, and the build."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unity import ops
from unity.kernels import reference
from unity.kernels.rotary import Rotary
from unity.native import layernorm, pointwise, residual, rmsnorm, rope

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "csrc" / "build.py"
X, TABLE = torch.randn(2, 3, 16), torch.randn(2, 16)

WIDE, HEADS = torch.ones(1, 1, 8200), torch.ones(1, 2, 2052)
REFUSED = {
    "float64": (pointwise.gelu_refusal, X.double()),
    "meta": (pointwise.gelu_refusal, X.to("meta")),
    "mixed": (residual.refusal, X, X.bfloat16(), TABLE),
    "float32": (layernorm.refusal, X, TABLE.bfloat16(), TABLE),
    "dense": (layernorm.refusal, X.mT.contiguous().mT, TABLE, TABLE),
    "8200": (layernorm.gated_refusal, WIDE, WIDE, *[WIDE[0]] * 3),
    "1024": (rope.refusal, HEADS, HEADS, *HEADS[0], Rotary((1, 1, 2), 1, 2)),
    "rows": (rmsnorm.refusal, X[:, :2], TABLE[0]),
    "gradient": (pointwise.noise_refusal, X.clone().requires_grad_(), X, torch.rand(2, 3)),
    "contiguous": (pointwise.noise_refusal, X.transpose(0, 1), X.transpose(0, 1), torch.rand(3, 2)),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals_say_why(reason):
    refusal, *args = REFUSED[reason]
    found = refusal(*args)
    assert found is not None and reason in found


SHORT = {
    "vector": lambda: rmsnorm.rms_norm(X, TABLE[0, :8]),
    "weights": lambda: rope.qk_norm_rope(X, X, TABLE[0], TABLE[1, :8], Rotary((1, 1, 3), 1, 2)),
    "grid": lambda: rope.qk_norm_rope(X, X, *TABLE, Rotary((1, 1, 4), 1, 2)),
    "keys": lambda: rope.qk_norm_rope(X, X[:, :2], *TABLE, Rotary((1, 1, 3), 1, 2)),
    "table": lambda: layernorm.modulated_layernorm(X, TABLE[:1], TABLE),
    "shift": lambda: layernorm.gated_residual_layernorm(X, X, TABLE, TABLE, TABLE[:, :8]),
    "y": lambda: residual.gated_residual(X, X[:, :1], TABLE),
    "time": lambda: pointwise.flow_noise(X, X, torch.rand(2)),
    "noise": lambda: pointwise.flow_noise(X, X[:1], torch.rand(2, 3)),
}


@pytest.mark.parametrize("name", SHORT)
def test_c_never_reads_past_the_end_even_without_the_door(name):
    with pytest.raises(ValueError):
        SHORT[name]()


def test_expanded_gradients_are_read():
    x = X.clone().requires_grad_()
    pointwise.gelu(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.autograd.functional.jacobian(lambda z: reference.gelu(z).sum(), X))


CALLS = {
    "modulated_layernorm": (X, TABLE, TABLE + 1),
    "gated_residual": (X, X + 1, TABLE),
    "gated_residual_layernorm": (X, X + 1, TABLE, TABLE + 1, TABLE - 1),
    "gelu": (X,),
    "rms_norm": (X, TABLE[0]),
    "qk_norm_rope": (X[:, :2], X[:, 1:], TABLE[0], TABLE[1], Rotary((1, 1, 2), 1, 2)),
}


@pytest.mark.parametrize("op", CALLS)
def test_compiled_equals_eager_without_graph_breaks(op):
    torch._dynamo.reset()
    form = next(row for row in ops.IMPLEMENTATIONS[op] if row.name == "c++")

    def loss(*args):
        found = form.run(*args) if form.refusal(*args) is None else None
        return sum(x.sin().sum() for x in (found if isinstance(found, tuple) else (found,)))

    def gradients(loss):
        leaves = [x.clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in CALLS[op]]
        loss(*leaves).backward()
        return [x.grad for x in leaves if isinstance(x, torch.Tensor)]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for found, truth in zip(gradients(compiled), gradients(loss), strict=True):
        assert torch.equal(found, truth)


def test_library_ops_keep_their_promises():
    x, y = (X.clone().requires_grad_() for _ in range(2))
    tables = [TABLE.clone().requires_grad_() for _ in range(3)]
    ops = torch.ops.unity
    torch.library.opcheck(ops.native_layernorm.default, (x, y, *tables, 1e-6))
    torch.library.opcheck(ops.native_layernorm.default, (x, None, None, *tables[:2], 1e-6))
    torch.library.opcheck(ops.native_residual.default, (x, y, tables[0]))
    torch.library.opcheck(ops.native_gelu.default, (x,))
    torch.library.opcheck(ops.native_rms_norm.default, (x, tables[0][0].detach().requires_grad_(), 1e-6))
    torch.library.opcheck(ops.native_flow_noise.default, (X, X + 1, torch.rand(2, 3)))
    weights = [w.clone().requires_grad_() for w in TABLE]
    rotary = Rotary((1, 1, 4), 1, 2, first=1)
    torch.library.opcheck(ops.native_qk_norm_rope.default, (x, y, *weights, rotary.sizes, 1e4, 1e-6))


def build(folder: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BUILD), str(folder)]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)


def test_no_compiler_is_one_sentence_and_no_file(tmp_path):
    found = build(tmp_path, PATH="/nonexistent", CXX="")
    assert found.returncode != 0 and "no C++ compiler" in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failing_compiler_leaves_nothing_behind(tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'error: out of luck' >&2\nexit 1\n")
    compiler.chmod(0o755)
    found = build(tmp_path / "library", CXX=str(compiler))
    assert found.returncode != 0 and "out of luck" in found.stderr
    assert list((tmp_path / "library").iterdir()) == []


def test_without_a_library_the_reference_is_told_why(tmp_path, monkeypatch):
    program = (
        "import torch; from pathlib import Path; from unity.native import library, pointwise;"
        f"library._HERE = Path({str(tmp_path)!r}); print(pointwise.gelu_refusal(torch.ones(2, 3)))"
    )
    environment = os.environ | {"PATH": "/nonexistent", "CXX": "", "XDG_CACHE_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert "no C++ compiler" in found.stdout
    assert "unity: building" in found.stderr
