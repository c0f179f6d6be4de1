"""gelu_fp8 and flow_noise."""

import pytest
import torch

from unity.kernels import flow_noise as noising
from unity.kernels import reference
from unity.kernels.gelu import gelu_fp8, refusal_fp8

CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize("size", [(2, 5, 72), (1, 1, 8), (1, 2, 8200)], ids=str)
def test_gelu_in_eight_bits(size):
    x = (3 * torch.randn(size)).requires_grad_()
    quantized = gelu_fp8(x)
    values, scale, carrier = reference.gelu_fp8(x)
    torch.testing.assert_close(quantized.scale, scale, rtol=1e-6, atol=0)
    assert (quantized.values.float() != values.float()).float().mean() < 0.005
    gradient = torch.randn(size)
    (ours,) = torch.autograd.grad(quantized.carrier, x, gradient)
    (truth,) = torch.autograd.grad(reference.gelu(x.double()), x, gradient.double())
    torch.testing.assert_close(ours, truth, atol=1e-5, rtol=1e-5)


def test_gelu_far_from_zero():
    x = torch.tensor([-200.0, -20.0, 0.0, 20.0, 200.0, 1.0, 2.0, 3.0]).view(1, 1, 8).requires_grad_()
    quantized = gelu_fp8(x)
    (slope,) = torch.autograd.grad(quantized.carrier, x, torch.ones(1, 1, 8))
    torch.testing.assert_close(slope, torch.autograd.grad(reference.gelu(x).sum(), x)[0], atol=1e-5, rtol=1e-5)
    assert quantized.values.float()[0, 0, :2].eq(0).all()


@pytest.mark.parametrize("shape", [(2, 2, 3, 8, 9), (1, 2, 8), (1, 1, 4104)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flow_noise(shape, dtype, agree):
    data, noise = (torch.randn(shape).to(dtype) for _ in range(2))
    inputs = [data, noise, torch.rand(shape[:2])]
    assert noising.refusal(*inputs) is None
    agree(noising.flow_noise, reference.flow_noise, inputs)


@pytest.mark.slow
def test_one_node_under_compile(traces):
    traces(noising.flow_noise, [torch.randn(1, 2, 16), torch.randn(1, 2, 16), torch.rand(1, 2)])


def test_registration():
    data, noise, time = (torch.randn(s, requires_grad=True) for s in ((1, 2, 16), (1, 2, 16), (1, 2)))
    torch.library.opcheck(torch.ops.unity.flow_noise.default, (data, noise, time), test_utils=CHECKS)
    torch.library.opcheck(torch.ops.unity.gelu_fp8.default, (data,), test_utils=CHECKS)


def test_refusals_say_why():
    data, time = torch.randn(1, 2, 12), torch.rand(1, 2)
    assert "12 numbers a stream" in noising.refusal(data, data, time)
    assert "contiguous" in noising.refusal(torch.randn(2, 2, 16).transpose(0, 1), data, time)
    assert "up to 16384" in refusal_fp8(torch.randn(1, 1, 16392))
