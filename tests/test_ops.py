"""The door picks by device, dtype and shape, says once what it picked and why, and every choice agrees."""

import pytest
import torch

from unity import ops
from unity.kernels import reference


@pytest.fixture(autouse=True)
def silence(monkeypatch):
    monkeypatch.setattr(ops, "_said", set())
    torch.manual_seed(0)


def arguments(op, dtype=torch.float32):
    g, n, d = 2, 6, 32
    rows = [torch.randn(g, n, d).to(dtype) for _ in range(2)]
    tables = list(torch.randn(3, g, d).to(torch.promote_types(dtype, torch.float32)))
    return {
        "modulated_layernorm": (rows[0], *tables[:2]),
        "modulated_layernorm_fp8": (rows[0], *tables[:2]),
        "gated_residual": (*rows, tables[0]),
        "gated_residual_layernorm": (*rows, *tables),
        "gated_residual_layernorm_fp8": (*rows, *tables),
        "qk_norm_rope": (*rows, torch.ones(d), torch.ones(d), ops.Rotary((1, 1, 3), 2, 2)),
        "rms_norm": (rows[0], 1 + tables[0][0]),
        "gelu": (rows[0],),
        "gelu_fp8": (rows[0],),
        "linear_fp8": (rows[0], torch.randn(48, d), torch.randn(48)),
        "flow_noise": (*rows, torch.rand(g, n)),
        "self_attention": tuple(torch.randn(3, 1, 6, 2, 16)),
        "dual_cross_attention": (*torch.randn(3, 1, 6, 2, 16), torch.zeros(1, 6)),
    }[op]


def leaves(result):
    """Tensors of a result, the 8-bit ones in float32, without carriers, which hold no numbers."""
    if isinstance(result, torch.Tensor):
        return [result.float()] if 0 not in result.stride() else []
    return [leaf for x in result for leaf in leaves(x)]


@pytest.mark.parametrize("op", ops.IMPLEMENTATIONS)
def test_every_implementation_that_can_run_agrees(op):
    args = arguments(op)
    truth = leaves(getattr(reference, op)(*args))
    ran = [row for row in ops.IMPLEMENTATIONS[op] if row.refusal(*args) is None]
    for result in (getattr(ops, op)(*args), *(row.run(*args) for row in ran)):
        for a, b in zip(leaves(result), truth, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "op", ["modulated_layernorm", "gated_residual_layernorm", "gelu", "rms_norm", "qk_norm_rope"]
)
def test_float64_stays_float64(op):
    args = [x.double() if isinstance(x, torch.Tensor) else x for x in arguments(op)]
    for result in (ops.__dict__[op](*args),):
        for x in result if isinstance(result, tuple) else (result,):
            assert x.dtype == torch.float64


def test_the_first_that_can_run_is_taken(monkeypatch):
    rows = (
        ops.Implementation("fast", lambda x: "x is too small", lambda x: 0),
        ops.Implementation("middling", lambda x: None, lambda x: 1),
        ops.Implementation("slow", lambda x: None, lambda x: 2),
    )
    monkeypatch.setitem(ops.IMPLEMENTATIONS, "gelu", rows)
    assert ops.gelu(torch.ones(2)) == 1
    assert ops.choose("gelu", torch.ones(2))[1] == [("fast", "x is too small")]


def test_it_says_once_which_and_why(capsys):
    args = arguments("modulated_layernorm_fp8")
    for _ in range(2):
        ops.modulated_layernorm_fp8(*args)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "modulated_layernorm_fp8 runs on reference" in said[0] and "triton refused: x is on cpu" in said[0]


def test_other_ranks_are_silent(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    ops.modulated_layernorm_fp8(*arguments("modulated_layernorm_fp8"))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rotary_in_place(dtype):
    q, k, *rest = (x.to(dtype) if isinstance(x, torch.Tensor) else x for x in arguments("qk_norm_rope"))
    truth = ops.qk_norm_rope(q, k, *rest)
    q.requires_grad_()
    with pytest.raises(ValueError, match="requires a gradient"):
        ops.qk_norm_rope(q, k, *rest, inplace=True)
    with torch.no_grad():
        for x, found, new in zip((q, k), ops.qk_norm_rope(q, k, *rest, inplace=True), truth, strict=True):
            assert torch.equal(found, new) and found.data_ptr() == x.data_ptr()


def test_rotary_in_place_compiles():
    q, k, *rest = arguments("qk_norm_rope")
    truth = ops.qk_norm_rope(q, k, *rest)
    compiled = torch.compile(ops.qk_norm_rope, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, *rest, inplace=True), truth, rtol=0, atol=0)


def test_the_carrier_brings_the_gradient():
    x, scale, shift = (t.requires_grad_() for t in arguments("modulated_layernorm_fp8"))
    gradient = torch.randn_like(x)
    ours = torch.autograd.grad(ops.modulated_layernorm_fp8(x, scale, shift).carrier, (x, scale, shift), gradient)
    truth = torch.autograd.grad(reference.modulated_layernorm(x, scale, shift), (x, scale, shift), gradient)
    torch.testing.assert_close(ours, truth)


def test_no_graph_break():
    x, y, gate, scale, shift = arguments("gated_residual_layernorm")

    def boundary(x):
        residual, normed = ops.gated_residual_layernorm(x, ops.gelu(y), gate, scale, shift)
        return residual + ops.modulated_layernorm(normed, scale, shift)

    compiled = torch.compile(boundary, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), boundary(x))
