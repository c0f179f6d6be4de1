"""What a GPU is given: our block forward and backward on meta tensors, its launches recorded and compiled."""

from collections import Counter

import pytest
import torch

from unity import ops
from unity.config import MODELS
from unity.kernels import aot, fp8, passes
from unity.model.fp8 import Fp8Config, convert
from unity.model.layers import Block
from unity.model.layout import Conditioning, Layout, Pending

GRID = (21, 30, 52)


class Attend(torch.autograd.Function):
    """The shapes of an attention library, which would not take meta tensors."""

    @staticmethod
    def forward(ctx, q, k, v):
        ctx.save_for_backward(q, k, v)
        return torch.empty_like(q)

    @staticmethod
    def backward(ctx, d_out):
        return tuple(map(torch.empty_like, ctx.saved_tensors))


@pytest.fixture
def launches(monkeypatch):
    """The launches of a block of so many keys, as on an H100."""
    monkeypatch.setattr(passes, "_multiprocessors", lambda device: 132)
    monkeypatch.setattr(fp8, "refusal", lambda x: None)
    stub = ops.Implementation("library", lambda *_: None, Attend.apply)
    monkeypatch.setitem(ops.IMPLEMENTATIONS, "self_attention", (stub,))

    def record(size, keys, eight_bits):
        config = MODELS[size]
        with torch.device("meta"), aot.recorded() as found:
            model = torch.nn.Module()
            model.blocks = torch.nn.ModuleList([Block(config, ids=2).bfloat16()])
            if eight_bits:
                convert(model, Fp8Config())
            tokens = GRID[0] * GRID[1] * GRID[2]
            x, y = (torch.empty(2, tokens, config.dim, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
            text = torch.empty(2, keys, config.dim, dtype=torch.bfloat16)
            gate, embedding = torch.empty(2, config.dim), torch.empty(1, 2, 6, config.dim)
            given = Conditioning(embedding, torch.tensor([[0, 1]]), text, torch.empty(2, keys))
            x, y, _ = model.blocks[0](Pending(x, y, gate), given, Layout(GRID))
            torch.autograd.backward([x, y], [torch.empty_like(x), torch.empty_like(y)])
        return found

    return record


@pytest.mark.parametrize("size", ["1.3b", "5b", "10b", "14b"])
def test_every_pass_over_the_tokens_is_one_launch(launches, size):
    """Three boundaries, queries and keys, the norm of cross-attention and its tiles; those twice for 128 keys."""
    found = Counter(launch.kernel.fn.__module__.split(".")[-1] for launch in launches(size, 128, False))
    assert found == {"gated_residual": 6, "qk_norm_rope": 2, "dual_cross_attention": 5}


def test_eight_bits_come_from_the_pass_before(launches):
    """Of a block's inputs of Linears only the two attentions' outputs are rounded by a pass of their own."""
    found = launches("10b", 128, True)
    rounded = [launch for launch in found if launch.kernel.fn.__name__ == "row_kernel"]
    # and in the backward the gradients of eight Linears' outputs; the others are weights
    assert sum(launch.arguments["n"] == 65520 for launch in rounded) == 2 + 8
    assert Counter(launch.kernel.fn.__module__.split(".")[-1] for launch in found)["gelu"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("eight_bits", [False, True])
@pytest.mark.parametrize("size", ["1.3b", "5b", "10b", "14b"])
def test_every_launch_of_the_block_compiles_without_spills(launches, size, eight_bits):
    for launch in launches(size, 128, eight_bits):
        assert aot.compile_launch(launch).spills == 0, launch.kernel
