"""dual_cross_attention: absent and collapsed keys, every head size, queries that are normalised on the way in."""

import pytest
import torch

from unity.kernels import dual_cross_attention as attention
from unity.kernels import reference
from unity.kernels.dual_cross_attention import dual_cross_attention, refusal

# groups, queries, heads, head size, keys: one query and key, more tiles than programs, ragged ends, two launches
SIZES = [(1, 1, 1, 64, 1), (2, 391, 1, 64, 5), (3, 129, 2, 96, 17), (1, 65, 1, 128, 64), (2, 131, 1, 72, 101)]

# the norm's own passes go over every query: slow here
NORMALISED = [(2, 70, 2, 96, 17)]
NORMALISED += [pytest.param(size, marks=pytest.mark.slow) for size in ((1, 200, 1, 64, 5), (1, 131, 1, 72, 101))]


def inputs_of(g, l, n, k, m, dtype=torch.float32):
    """Queries, keys and values, none of them contiguous, and biases with absent and collapsed keys."""
    q = torch.randn(g, l, n * k + 8)[..., :-8].to(dtype).unflatten(-1, (n, k))
    key, value = torch.randn(g, m, 2, n, k).to(dtype).unbind(2)
    bias = torch.zeros(g, m)
    bias[:, -1] = torch.arange(1.0, g + 1).log()
    bias[-1, : m // 2] = -torch.inf
    return q, key, value, bias


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_values_and_gradients(size, agree):
    *inputs, bias = inputs_of(*size)
    assert refusal(*inputs, bias) is None
    agree(
        lambda *x: dual_cross_attention(*x, bias),
        lambda *x: reference.dual_cross_attention(*x, bias),
        [x.detach() for x in inputs],
    )


@pytest.mark.parametrize("size", NORMALISED)
def test_normalised_queries(size, agree, monkeypatch):
    # two tiles a program, also of so few queries
    monkeypatch.setattr(attention, "_tiles_each", lambda *_: 2)
    q, key, value, bias = inputs_of(*size)
    weight = 1 + torch.randn(q.shape[2] * q.shape[3]) / 4
    agree(
        lambda q, key, value, weight: dual_cross_attention(3 * q, key, value, bias, weight, 0.1),
        lambda q, key, value, weight: reference.dual_cross_attention(3 * q, key, value, bias, weight, 0.1),
        [x.detach() for x in (q, key, value, weight)],
    )


def test_normalised_queries_are_read_as_they_lie_and_not_kept():
    q, key, value, bias = inputs_of(2, 9, 2, 64, 5)
    weight = torch.randn(128)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        dual_cross_attention(*(x.requires_grad_() for x in (q, key, value)), bias, weight)
    owned = {x.untyped_storage().data_ptr() for x in (q, key, value, bias, weight)}
    assert [x.shape for x in kept if x.untyped_storage().data_ptr() not in owned] == [(2, 9)]


def test_half_precision():
    """float16, since the interpreter multiplies no bf16 matrices: weights and their gradient are rounded, once."""
    *inputs, bias = inputs_of(2, 130, 2, 64, 9, torch.float16)
    inputs = [x.detach().requires_grad_() for x in inputs]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    out, truth = dual_cross_attention(*inputs, bias), reference.dual_cross_attention(*wide, bias)
    slope = torch.randn_like(out)
    gradients = torch.autograd.grad(out, inputs, slope), torch.autograd.grad(truth, wide, slope.double())
    for a, b in ((out, truth), *zip(*gradients, strict=True)):
        assert (a - b).abs().max() <= 2**-9 * b.abs().max()


def test_a_collapsed_key_stands_for_many_equal_ones():
    q, key, value, _ = inputs_of(1, 20, 1, 64, 4)
    bias = torch.tensor([[0.0, 0.0, 0.0, 9.0]]).log1p()
    many = [torch.cat((x, x[:, -1:].expand(-1, 9, -1, -1)), 1) for x in (key, value)]
    wide = reference.dual_cross_attention(q, *many, torch.zeros(1, 13))
    torch.testing.assert_close(dual_cross_attention(q, key, value, bias), wide, atol=1e-5, rtol=1e-5)


def test_a_group_without_keys_gives_zeros():
    q, key, value = (x.detach().requires_grad_() for x in inputs_of(2, 5, 1, 64, 3)[:3])
    bias = torch.tensor([[-torch.inf] * 3, [0.0] * 3])
    out = dual_cross_attention(q, key, value, bias)
    gradients = torch.autograd.grad(out.sum(), (q, key, value))
    assert out[0].eq(0).all() and out[1].ne(0).any()
    assert all(x[0].eq(0).all() and x.isfinite().all() for x in gradients)


def test_logits_far_from_zero_do_not_overflow():
    q, key, value, bias = inputs_of(1, 9, 1, 64, 6)
    ours = dual_cross_attention(100 * q, 100 * key, value, bias)
    truth = reference.dual_cross_attention(*(x.double() for x in (100 * q, 100 * key, value)), bias)
    torch.testing.assert_close(ours.double(), truth, atol=1e-5, rtol=1e-5)


def test_gradients_of_any_layout():
    q, key, value, bias = (x.detach().requires_grad_(i < 3) for i, x in enumerate(inputs_of(1, 9, 2, 64, 3)))
    weights = torch.randn(1, 2, 9, 64)
    for loss in (lambda out: out.sum(), lambda out: (out.transpose(1, 2) * weights).sum()):
        ours = torch.autograd.grad(loss(dual_cross_attention(q, key, value, bias)), (q, key, value))
        truth = torch.autograd.grad(loss(reference.dual_cross_attention(q, key, value, bias)), (q, key, value))
        torch.testing.assert_close(ours, truth, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_one_node_under_compile(traces):
    q, key, value, bias = inputs_of(1, 5, 1, 64, 3)
    inputs, weight = [x.detach().contiguous() for x in (q, key, value)], torch.randn(64)
    traces(lambda *x: dual_cross_attention(*x, bias), inputs)
    traces(lambda q, k, v, w: dual_cross_attention(q, k, v, bias, w), [*inputs, weight])


@pytest.mark.slow
def test_registration():
    q, key, value, bias = (x.detach() for x in inputs_of(1, 5, 1, 64, 3))
    rstd, weight = torch.rand(1, 5), torch.randn(64)
    torch.library.opcheck(torch.ops.unity.dual_cross_attention_statistics.default, (q, 1e-6))
    for extra in ((None, None), (rstd, weight.requires_grad_())):
        torch.library.opcheck(
            torch.ops.unity.dual_cross_attention.default,
            (*(x.requires_grad_() for x in (q, key, value)), bias, *extra),
            test_utils=(
                "test_schema",
                "test_autograd_registration",
                "test_faketensor",
                "test_aot_dispatch_static",
            ),
        )


def test_refusals_say_why():
    q, key, value, bias = inputs_of(1, 5, 1, 64, 3)
    assert "129 keys" in refusal(q, *torch.randn(2, 1, 129, 1, 64).unbind(0), torch.zeros(1, 129))
    assert "head size 136" in refusal(*torch.randn(3, 1, 2, 1, 136).unbind(0), bias)
    assert "head size 60" in refusal(*torch.randn(3, 1, 2, 2, 60).unbind(0), bias)
    assert "keys torch.float16" in refusal(q, key.half(), value, bias)
    assert "meta" in refusal(*(x.to("meta") for x in (q, key, value, bias)))
    heads_first = (torch.randn(1, 2, 5, 64).transpose(1, 2) for _ in range(3))
    assert "side by side" in refusal(*heads_first, torch.zeros(1, 5))
