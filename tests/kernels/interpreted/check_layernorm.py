"""modulated_layernorm and gated_residual_layernorm, and their 8-bit forms."""

import pytest
import torch

from unity.kernels import reference
from unity.kernels.gated_residual import (
    gated_residual,
    gated_residual_layernorm,
    gated_residual_layernorm_fp8,
)
from unity.kernels.modulated_layernorm import modulated_layernorm, modulated_layernorm_fp8, refusal

# one row, more rows than programs, the smallest width, an odd multiple of 8, part B full and part B ragged
SIZES = [(2, 5, 72), (1, 1, 8), (3, 7, 200), (1, 4, 1024), (2, 3, 1536)]
OPS = {
    "modulated_layernorm": (modulated_layernorm, reference.modulated_layernorm, 1, 2),
    "gated_residual": (gated_residual, reference.gated_residual, 2, 1),
    "gated_residual_layernorm": (gated_residual_layernorm, reference.gated_residual_layernorm, 2, 3),
}
FP8 = {
    "modulated_layernorm": (modulated_layernorm_fp8, reference.modulated_layernorm_fp8),
    "gated_residual_layernorm": (gated_residual_layernorm_fp8, reference.gated_residual_layernorm_fp8),
}


def rows_and_tables(op, g, n, d, dtype=torch.float32):
    """Rows far from zero mean, and tables."""
    _, _, rows, tables = OPS[op]
    return [*(torch.randn(g, n, d).add(3).to(dtype) for _ in range(rows)), *torch.randn(tables, g, d).unbind(0)]


def _marked():
    dear = SIZES[2], SIZES[3]
    return [pytest.param(size, marks=[pytest.mark.slow] if size in dear else [], id=str(size)) for size in SIZES]


@pytest.mark.parametrize("size", _marked())
@pytest.mark.parametrize("op", OPS)
def test_values_and_gradients(op, size, agree):
    ours, truth, *_ = OPS[op]
    agree(ours, truth, rows_and_tables(op, *size))


@pytest.mark.parametrize("op", ["modulated_layernorm", "gated_residual"])
def test_bf16(op, agree):
    ours, truth, *_ = OPS[op]
    agree(ours, truth, rows_and_tables(op, 2, 3, 136, torch.bfloat16))


def test_the_norm_reads_the_residual_as_stored():
    inputs = rows_and_tables("gated_residual_layernorm", 2, 3, 136, torch.bfloat16)
    residual, out = gated_residual_layernorm(*inputs)
    assert torch.equal(residual, gated_residual(*inputs[:3]))
    truth = reference.modulated_layernorm(residual.double(), *(x.double() for x in inputs[3:]))
    assert (out - truth).abs().max() <= truth.abs().max() * 2**-8


@pytest.mark.parametrize("op", OPS)
def test_strided_inputs_are_read_where_they_lie(op, agree, monkeypatch):
    ours, truth, rows, tables = OPS[op]
    inputs = [*torch.randn(2, 5, 3, 72).unbind(2)[:rows], *torch.randn(2, 6, 72).unbind(1)[:tables]]
    assert not any(x.is_contiguous() for x in inputs)
    monkeypatch.setattr(torch.Tensor, "contiguous", None)
    agree(ours, truth, [x.detach() for x in inputs])


def test_a_result_nobody_uses_needs_no_gradient():
    inputs = [x.requires_grad_() for x in rows_and_tables("gated_residual_layernorm", 2, 3, 40)]
    for used in (0, 1):
        ours = torch.autograd.grad(gated_residual_layernorm(*inputs)[used].square().sum(), inputs)
        truth = torch.autograd.grad(
            reference.gated_residual_layernorm(*inputs)[used].square().sum(), inputs, allow_unused=True
        )
        for a, b in zip(ours, truth, strict=True):
            torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, atol=2e-4, rtol=1e-4)


def test_expanded_gradients():
    x, scale, shift = (x.requires_grad_() for x in rows_and_tables("modulated_layernorm", 2, 3, 40))
    ours = torch.autograd.grad(modulated_layernorm(x, scale, shift).sum(), (scale, shift))
    truth = torch.autograd.grad(reference.modulated_layernorm(x, scale, shift).sum(), (scale, shift))
    torch.testing.assert_close(ours, truth, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("op", FP8)
def test_eight_bits(op):
    ours, truth = FP8[op]
    inputs = [x.requires_grad_() for x in rows_and_tables(op, 2, 5, 200)]
    *_, quantized = ours(*inputs) if op.startswith("gated") else (ours(*inputs),)
    *_, (values, scale, carrier) = truth(*inputs) if op.startswith("gated") else (truth(*inputs),)
    torch.testing.assert_close(quantized.scale, scale, rtol=1e-6, atol=0)
    # The rounding may fall the other way where the number itself differs in its last bit.
    differs = quantized.values.float() != values.float()
    assert differs.float().mean() < 0.002
    assert quantized.values.float().abs().amax(-1).eq(448).all()
    assert quantized.carrier.shape == carrier.shape and quantized.carrier.untyped_storage().nbytes() <= 4
    gradient = torch.randn(2, 5, 200)
    for a, b in zip(
        torch.autograd.grad(quantized.carrier, inputs, gradient),
        torch.autograd.grad(carrier, inputs, gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_a_row_of_zeros_in_eight_bits():
    zero = torch.zeros(1, 2, 16)
    quantized = modulated_layernorm_fp8(zero, zero[:, 0], zero[:, 0])
    assert quantized.values.float().eq(0).all() and quantized.scale.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_one_node_under_compile(op, traces):
    traces(OPS[op][0], rows_and_tables(op, 2, 3, 40))


@pytest.mark.slow
def test_registration():
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    x, y = (torch.randn(2, 3, 16, requires_grad=True) for _ in range(2))
    scale, shift, gate = (torch.randn(2, 16, requires_grad=True) for _ in range(3))
    ops = torch.ops.unity
    for op, args in {
        ops.modulated_layernorm: (x, scale, shift, 1e-6),
        ops.modulated_layernorm_fp8: (x, scale, shift, 1e-6),
        ops.gated_residual: (x, y, gate),
        ops.gated_residual_layernorm: (x, y, gate, scale, shift, 1e-6),
    }.items():
        torch.library.opcheck(op.default, args, test_utils=checks[:3] if "fp8" in str(op) else checks)


def test_refusals_say_why():
    x, table = torch.randn(1, 2, 24), torch.randn(1, 24)
    assert refusal(x, table, table) is None
    assert "multiple of 8" in refusal(x[..., :20], table, table)
    assert "up to 8192" in refusal(torch.randn(1, 1, 8200), table, table)
    assert "float64" in refusal(x.double(), table, table)
    assert "stride 2" in refusal(torch.randn(1, 2, 48)[..., ::2], table, table)
    assert "meta" in refusal(x.to("meta"), table, table)
