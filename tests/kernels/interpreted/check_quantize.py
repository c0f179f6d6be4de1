"""quantize: rows, columns and whole matrices in 8 bits, as torch rounds them."""

import pytest
import torch

from unity.kernels.quantize import launch, launch_widen, quantize, refusal, widen

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


def truth(x, rowwise, dtype):
    wide, top = x.float(), torch.finfo(dtype).max
    largest = (wide.abs().amax(1, keepdim=True) if rowwise else wide.abs().amax().view(1, 1)).clamp_min(1e-12)
    return (wide * (top / largest)).clamp(-top, top).to(dtype), largest / top


LAYOUTS = {
    "rows": lambda r, c: torch.randn(r, c + 8)[:, :c],
    "columns": lambda r, c: torch.randn(c, r).t(),
    "odd rows": lambda r, c: torch.randn(r, c + 3)[:, :c],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 8), (5, 136), (70, 200)], ids=str)
@pytest.mark.parametrize("rowwise, kind", [(True, E4M3), (True, E5M2), (False, E4M3), (False, E5M2)])
def test_equals_torch(size, layout, dtype, rowwise, kind):
    # rounding to bf16 keeps the strides
    x = LAYOUTS[layout](*size)
    x = x.to(dtype) if dtype != x.dtype else x
    assert refusal(x) is None
    values, scale = launch(x, rowwise, kind)
    expected, expected_scale = truth(x, rowwise, kind)
    assert values.dtype == kind and values.is_contiguous()
    torch.testing.assert_close(scale, expected_scale, rtol=1e-6, atol=0)
    # where a quotient lies between two 8-bit numbers, it may fall to either side: then both are as near
    exact = x.double() / expected_scale
    ours, theirs = ((z.double() - exact).abs() for z in (values, expected))
    assert (ours <= theirs * (1 + 1e-5) + 1e-9).all()
    assert (values.float() != expected.float()).float().mean() < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(1, 16), (5, 144), (3, 4112)], ids=str)
@pytest.mark.parametrize("rowwise, beside", [(True, 0), (False, 0), (True, 4)])
def test_the_way_back_is_rounded_once(size, rowwise, beside, dtype):
    """Also of rows with other bytes beside them, as a packed weight has them."""
    values, scale = quantize(torch.randn(size), rowwise)
    values = torch.cat([values.view(torch.uint8), torch.zeros(len(values), beside, dtype=torch.uint8)], 1)
    values = values[:, : size[1]].view(E4M3)
    assert refusal(values) is None
    exact = (values.double() * scale.double()).float().to(dtype)
    for wide in (launch_widen(values, scale, dtype), widen(values, scale, dtype)):
        assert wide.dtype == dtype and torch.equal(wide, exact)


def test_nothing_at_all_and_far_from_one():
    x = torch.tensor([[0.0] * 8, [1e30] * 8, [-1e-30] * 8])
    for rowwise in (True, False):
        values, scale = launch(x, rowwise)
        assert values.float().isfinite().all() and scale.isfinite().all()
        assert values[0].float().eq(0).all()


def test_what_no_kernel_takes_is_rounded_by_torch():
    x = torch.randn(8, 8, 2)[..., 0]
    assert refusal(x) is not None
    for ours, theirs in zip(quantize(x, True, E5M2), truth(x, True, E5M2), strict=True):
        assert torch.equal(ours.float(), theirs.float())


def test_refusals_say_why():
    assert "strides" in refusal(torch.randn(8, 8, 2)[..., 0])
    assert "meta" in refusal(torch.empty(8, 8, device="meta"))
