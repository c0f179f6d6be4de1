"""qk_norm_rope: both norms, several streams and head sizes."""

import pytest
import torch

from unity.kernels import reference
from unity.kernels.qk_norm_rope import qk_norm_rope, refusal

# batch, grid, streams, heads, head size, norm per head
CASES = [
    (2, (2, 1, 3), 2, 3, 24, False),
    (1, (1, 2, 2), 2, 6, 32, True),
    (1, (1, 2, 1), 2, 12, 128, False),
    (1, (1, 3, 1), 1, 5, 96, False),
    (1, (2, 1, 1), 1, 3, 128, True),
]


def inputs_of(batch, grid, streams, heads, head, per_head, dtype=torch.float32):
    length, width = streams * grid[0] * grid[1] * grid[2], heads * head
    packed = torch.randn(batch, length, 2 * width).to(dtype)
    return [*packed.split(width, -1), *torch.randn(2, head if per_head else width).unbind(0)]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients(case, agree, monkeypatch):
    _, grid, streams, heads, _, per_head = case
    inputs = inputs_of(*case)
    arguments = dict(grid=grid, streams=streams, num_heads=heads, per_head=per_head)
    assert refusal(*inputs, **arguments) is None
    monkeypatch.setattr(torch.Tensor, "contiguous", None)
    agree(
        lambda *x: qk_norm_rope(*x, **arguments),
        lambda *x: reference.qk_norm_rope(*x, **arguments),
        [x.detach() for x in inputs],
    )


def test_bf16_with_bf16_weights(agree):
    q, k, *weights = inputs_of(1, (1, 2, 2), 1, 3, 48, False, torch.bfloat16)
    arguments = dict(grid=(1, 2, 2), streams=1, num_heads=3)
    agree(
        lambda *x: qk_norm_rope(*x, **arguments),
        lambda *x: reference.qk_norm_rope(*x, **arguments),
        [q.detach(), k.detach(), *(w.bfloat16() for w in weights)],
    )


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_place_has_the_bits_of_new_tensors(case, dtype):
    _, grid, streams, heads, _, per_head = case
    q, k, *weights = inputs_of(*case, dtype)
    arguments = dict(grid=grid, streams=streams, num_heads=heads, per_head=per_head)
    truth = qk_norm_rope(q, k, *weights, **arguments)
    for x, found, new in zip((q, k), qk_norm_rope(q, k, *weights, **arguments, inplace=True), truth, strict=True):
        assert torch.equal(found, new) and found.data_ptr() == x.data_ptr()
    with pytest.raises(ValueError, match="requires a gradient"):
        qk_norm_rope(q.requires_grad_(), k, *weights, **arguments, inplace=True)


def test_one_node_under_compile(traces):
    inputs = [x.detach() for x in inputs_of(1, (1, 2, 2), 2, 2, 24, False)]
    traces(lambda *x: qk_norm_rope(*x, (1, 2, 2), 2, 2), inputs)


def test_registration():
    inputs = [x.detach().requires_grad_() for x in inputs_of(1, (1, 2, 2), 1, 2, 24, False)]
    torch.library.opcheck(
        torch.ops.unity.qk_norm_rope.default,
        (*inputs, [1, 2, 2], 1, 2, 1e4, 1e-6, False),
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static"),
    )


def test_a_grid_of_another_size_is_an_error():
    with pytest.raises(ValueError, match="4 tokens are not 2 streams"):
        qk_norm_rope(*inputs_of(1, (1, 2, 2), 1, 2, 24, False), (1, 2, 2), 2, 2)


def test_refusals_say_why():
    inputs = inputs_of(1, (1, 2, 2), 1, 2, 24, True)
    assert "power of two" in refusal(*inputs, (1, 2, 2), 1, 2, per_head=True)
