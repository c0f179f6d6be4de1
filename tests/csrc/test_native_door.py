"""What surrounds the C++ ops: refusals, torch.compile, and the build."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from unity import native
from unity.kernels import reference

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "csrc" / "build.py"
X, TABLE = torch.randn(2, 3, 16), torch.randn(2, 16)

REFUSED = {
    "float64": ("gelu", X.double()),
    "meta": ("gelu", X.to("meta")),
    "unequal": ("gated_residual", X, X[:, :1], TABLE),
    "[2, 16]": ("modulated_layernorm", X, TABLE[:1], TABLE),
    "mixed": ("gated_residual", X, X.bfloat16(), TABLE),
    "float32": ("modulated_layernorm", X, TABLE.bfloat16(), TABLE),
    "dense": ("modulated_layernorm", X.mT.contiguous().mT, TABLE, TABLE),
    "8200": ("modulated_layernorm", torch.ones(1, 1, 8200), torch.ones(1, 8200), torch.ones(1, 8200)),
    "1024": ("qk_norm_rope", torch.ones(1, 2, 2052), torch.ones(1, 2, 2052), X, X, (1, 1, 2), 1, 2),
    "rows": ("gelu", X[:, :2]),
    "gradient": ("flow_noise", X.clone().requires_grad_(), X, torch.rand(2, 3)),
    "contiguous": ("flow_noise", X.transpose(0, 1), X.transpose(0, 1), torch.rand(3, 2)),
    "no C++ form": ("self_attention", X, X, X),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals_say_why(reason):
    found = native.can_run(*REFUSED[reason])
    assert found is not None and reason in found


def test_expanded_gradients_are_read():
    x = X.clone().requires_grad_()
    native.gelu(x).sum().backward()
    torch.testing.assert_close(x.grad, torch.autograd.functional.jacobian(lambda z: reference.gelu(z).sum(), X))


CALLS = {
    "modulated_layernorm": (X, TABLE, TABLE + 1),
    "gated_residual": (X, X + 1, TABLE),
    "gated_residual_layernorm": (X, X + 1, TABLE, TABLE + 1, TABLE - 1),
    "gelu": (X,),
    "rms_norm": (X, TABLE[0]),
    "qk_norm_rope": (X[:, :2], X[:, 1:], TABLE[0], TABLE[1], (1, 1, 2), 1, 2),
}


@pytest.mark.parametrize("op", CALLS)
def test_compiled_equals_eager_without_graph_breaks(op):
    torch._dynamo.reset()
    function = getattr(native, op)

    def loss(*args):
        reason = native.can_run(op, *args)
        found = function(*args) if reason is None else None
        return sum(x.sin().sum() for x in (found if isinstance(found, tuple) else (found,)))

    def gradients(form):
        leaves = [x.clone().requires_grad_() if isinstance(x, torch.Tensor) else x for x in CALLS[op]]
        form(*leaves).backward()
        return [x.grad for x in leaves if isinstance(x, torch.Tensor)]

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for found, truth in zip(gradients(compiled), gradients(loss), strict=True):
        assert torch.equal(found, truth)


def test_library_ops_keep_their_promises():
    x, y = (X.clone().requires_grad_() for _ in range(2))
    tables = [TABLE.clone().requires_grad_() for _ in range(3)]
    ops = torch.ops.unity
    torch.library.opcheck(ops.native_layernorm.default, (x, y, *tables, None, 1e-6))
    torch.library.opcheck(ops.native_layernorm.default, (x, None, None, *tables[:2], None, 1e-6))
    torch.library.opcheck(ops.native_residual.default, (x, y, tables[0], None))
    flat, offsets = (z.detach().flatten(0, 1).requires_grad_() for z in (x, y)), torch.tensor([0, 5, 6])
    torch.library.opcheck(ops.native_layernorm.default, (*flat, *tables, offsets, 1e-6))
    torch.library.opcheck(ops.native_gelu.default, (x,))
    torch.library.opcheck(ops.native_rms_norm.default, (x, tables[0][0].detach().requires_grad_(), 1e-6))
    torch.library.opcheck(ops.native_flow_noise.default, (X, X + 1, torch.rand(2, 3)))
    weights = [w.clone().requires_grad_() for w in TABLE]
    rotary = (x, y, *weights, [1, 1, 3], 1, 2, 1e4, 1e-6, False)
    torch.library.opcheck(ops.native_qk_norm_rope.default, rotary)


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
        "import torch; from unity import native; from pathlib import Path; from unity.native import library;"
        f"library._HERE = Path({str(tmp_path)!r}); print(native.can_run('gelu', torch.ones(2, 3)))"
    )
    environment = os.environ | {"PATH": "/nonexistent", "CXX": "", "XDG_CACHE_HOME": str(tmp_path)}
    found = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert "no C++ compiler" in found.stdout
    assert "unity: building" in found.stderr
