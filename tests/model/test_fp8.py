"""Linears in 8 bits: error bounds against float32, saturation, gradients, and what is kept for the backward."""

import contextlib
import os
import socket
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unity import ops
from unity.config import MODELS
from unity.kernels import linear_fp8
from unity.kernels.linear_fp8 import E4M3, E5M2, quantized
from unity.kernels.quantize import quantize
from unity.model.dit import UnityDiT
from unity.model.fp8 import Fp8Config, Fp8FeedForward, Fp8Linear, convert, describe
from unity.model.layers import Linear
from unity.train.recompute import recompute

EACH_MODE = pytest.mark.parametrize("rowwise", [True, False])


def problem(tokens=50, d_in=64, d_out=96, dtype=torch.float32):
    torch.manual_seed(0)
    x = torch.randn(2, tokens, d_in).to(dtype).requires_grad_()
    weight, bias = (p.to(dtype).requires_grad_() for p in (torch.randn(d_out, d_in) / 8, torch.randn(d_out)))
    return x, weight, bias, torch.randn(2, tokens, d_out).to(dtype)


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def test_numbers_are_rounded_to_the_nearest_of_eight_bits():
    x = torch.randn(7, 40) * torch.logspace(-3, 3, 7).unsqueeze(1)
    values, scale = quantize(x, rowwise=True)
    # 3 bits of mantissa: half a step is a sixteenth of the number, or of the smallest normal one, 2^-6
    assert ((values.float() * scale - x).abs() <= x.abs().clamp_min(scale * 2**-6) / 16 * 1.0001).all()
    assert values.float().abs().amax(1).eq(448).all()
    whole, one = quantize(x, rowwise=False, dtype=E5M2)
    assert one.shape == (1, 1) and whole.float().abs().max() == 57344


@pytest.mark.parametrize("x", [[1e30, -1e30], [0.0, 0.0], [1e-30, 2e-30]], ids=str)
def test_saturation_and_nothing_at_all(x):
    values, scale = quantize(torch.tensor([x, [1.0, 2.0]]), rowwise=True)
    assert values.float().isfinite().all() and scale.isfinite().all()
    torch.testing.assert_close(values[1].float() * scale[1], torch.tensor([1.0, 2.0]))


@EACH_MODE
def test_error_bounds_of_values_and_gradients(rowwise):
    x, weight, bias, slope = problem()
    out = ops.linear_fp8(x, weight, bias, rowwise)
    exact = F.linear(x, weight, bias)
    ours = torch.autograd.grad(out, (x, weight, bias), slope)
    truth = torch.autograd.grad(exact, (x, weight, bias), slope)
    # two factors, each with an error spread evenly within a sixteenth: about 0.037 of the whole
    assert 0.01 < relative(out, exact) < 0.04
    gradient_bound = 0.04 if rowwise else 0.08
    assert 0.01 < relative(ours[0], truth[0]) < gradient_bound
    # one rounded factor
    assert 0.01 < relative(ours[1], truth[1]) < 0.03
    torch.testing.assert_close(ours[2], truth[2])


@EACH_MODE
def test_the_emulation_is_the_product_of_the_rounded_numbers(rowwise):
    x, weight, bias, slope = (y.detach().double() for y in problem(tokens=24))
    x, slope = x.flatten(0, 1), slope.flatten(0, 1)

    def rounded(y, dtype=E4M3):
        values, scale = quantize(y.float(), rowwise, dtype)
        return values.double() * scale

    given = [y.float().requires_grad_() for y in (x, weight, bias)]
    out = ops.linear_fp8(*given, rowwise)
    torch.testing.assert_close(out.double(), rounded(x) @ rounded(weight).t() + bias, atol=1e-5, rtol=1e-5)
    dx, dw, _ = torch.autograd.grad(out, given, slope.float())
    kind = E4M3 if rowwise else E5M2
    torch.testing.assert_close(dx.double(), rounded(slope, kind) @ rounded(weight.t()).t(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dw.double(), slope.t() @ rounded(x), atol=1e-4, rtol=1e-4)


@EACH_MODE
def test_torch_multiplies_the_same_on_this_machine(rowwise):
    """The emulation against torch._scaled_mm itself, where its CPU form is right: float32 results."""
    x, weight, *_ = (y.detach() for y in problem())
    (a, a_scale), (b, b_scale) = quantize(x[0], rowwise), quantize(weight, rowwise)
    theirs = torch._scaled_mm(a, b.t(), scale_a=a_scale, scale_b=b_scale.t().contiguous(), out_dtype=torch.float32)
    ours = linear_fp8.product(a, b, a_scale, b_scale, None, torch.float32)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)


@EACH_MODE
def test_nothing_wide_and_no_copy_of_the_weight_is_kept(rowwise):
    x, weight, bias, slope = problem(dtype=torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        out = ops.linear_fp8(x, weight, bias, rowwise)
    owners = [t for t in kept if t.data_ptr() == weight.data_ptr()]
    others = [t for t in kept if t.data_ptr() != weight.data_ptr()]
    assert len(owners) == 1 and owners[0].shape == weight.shape
    scales = x[..., 0].numel() if rowwise else 1
    assert sum(t.untyped_storage().nbytes() for t in others) <= x.numel() + 4 * scales
    out.backward(slope)
    assert weight.grad.dtype == x.grad.dtype == torch.bfloat16


def test_the_weight_is_read_again_in_the_backward():
    """As under ZeRO-3, where its memory is freed and filled again between the two directions."""
    x, weight, bias, slope = problem()
    expected = torch.autograd.grad(ops.linear_fp8(x, weight, bias), x, slope)[0]
    parameter = nn.Parameter(weight.detach().clone())
    out = ops.linear_fp8(x, parameter, bias)
    parameter.data = torch.empty(0)
    parameter.data = weight.detach().clone()
    assert torch.equal(torch.autograd.grad(out, x, slope)[0], expected)


def test_quantised_tokens_are_taken_as_they_come():
    x, weight, bias, slope = problem()
    shared = quantized(x, rowwise=True)
    both = ops.linear_fp8(shared, weight, bias) + ops.linear_fp8(shared, weight, bias)
    alone = ops.linear_fp8(x, weight, bias)
    torch.testing.assert_close(both, 2 * alone)
    ours, theirs = (torch.autograd.grad(y, x, slope)[0] for y in (both, alone))
    torch.testing.assert_close(ours, 2 * theirs)


def test_frozen_weights_cost_no_gradient():
    x, weight, bias, slope = problem()
    out = ops.linear_fp8(x, weight.detach(), bias.detach())
    (dx,) = torch.autograd.grad(out, x, slope)
    assert dx.shape == x.shape


def test_one_node_under_compile(unchecked):
    x, weight, bias, slope = problem(tokens=16)
    compiled = torch.compile(ops.linear_fp8, fullgraph=True, backend="aot_eager")
    for eager, traced in zip(
        *(run(call, x, weight, bias, slope) for call in (ops.linear_fp8, compiled)), strict=True
    ):
        assert torch.equal(eager, traced)


def run(call, x, weight, bias, slope):
    out = call(x, weight, bias)
    return out, *torch.autograd.grad(out, (x, weight, bias), slope)


SHAPE = replace(MODELS["debug"], num_layers=1, cross_attention="separate")


def forward(model):
    torch.manual_seed(1)
    rgb, aux = torch.randn(2, 2, SHAPE.latent_channels, 2, 4, 4)
    caption, prompt = torch.randn(2, 2, 5, SHAPE.text_dim)
    length, modality = torch.tensor([5, 3]), torch.tensor([0, 3])
    return torch.cat(model(rgb, aux, torch.rand(2, 2), modality, caption, length, prompt, length))


def randomised():
    torch.manual_seed(0)
    model = UnityDiT(SHAPE)
    for p in model.parameters():
        p.data += 0.05 * torch.randn_like(p)
    return model


@pytest.mark.parametrize("scales", ["row", "tensor"])
def test_a_converted_model_stays_near_and_keeps_its_parameters(scales):
    model = randomised()
    before, names = forward(model), {n: id(p) for n, p in model.named_parameters()}
    changed = convert(model, Fp8Config(scales=scales))
    assert {n: id(p) for n, p in model.named_parameters()} == names and set(model.state_dict()) == set(names)
    assert len(changed) == 4 + 2 + 2 + 2
    assert all(type(model.get_submodule(name)) is Fp8Linear for name in changed)
    assert isinstance(model.blocks[0].ffn, Fp8FeedForward) == (scales == "row")
    after = forward(model)
    assert 1e-4 < relative(after, before) < 0.05
    after.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.blocks.parameters())


@pytest.mark.parametrize("cross_attention", ["shared", "separate"])
@pytest.mark.parametrize("scales", ["row", "tensor"])
def test_the_pass_before_a_linear_hands_it_eight_bit_rows(scales, cross_attention, monkeypatch):
    torch.manual_seed(0)
    model = UnityDiT(replace(SHAPE, cross_attention=cross_attention))
    convert(model, Fp8Config(scales=scales))
    taken, given = {}, []
    for name, module in model.blocks[0].named_modules():
        if isinstance(module, Fp8Linear):
            module.register_forward_pre_hook(lambda m, args, name=name: taken.update({name: type(args[0])}))
    for op in ("modulated_layernorm_fp8", "gated_residual_layernorm_fp8", "gelu_fp8"):
        plain = getattr(ops, op)
        monkeypatch.setattr(ops, op, lambda *args, plain=plain, op=op: given.append(op) or plain(*args))
    forward(model)
    rows = ["self_attn.q", "self_attn.k", "self_attn.v", "cross_attn.q", "ffn.0", "ffn.2"]
    rows += ["cross_attn_aux.q"] * (cross_attention == "separate")
    expected = rows if scales == "row" else []
    assert sorted(name for name, kind in taken.items() if kind is ops.Quantized) == sorted(expected)
    passes = [
        "modulated_layernorm_fp8",
        "gated_residual_layernorm_fp8",
        "gated_residual_layernorm_fp8",
        "gelu_fp8",
    ]
    assert given == (passes if scales == "row" else [])


def test_what_is_not_a_large_linear_of_a_block_stays_wide():
    model = randomised()
    line = describe(model, convert(model, Fp8Config()))
    assert line.startswith("fp8: 10 Linears of the blocks (cross_attn.o, cross_attn.q,")
    assert "wide: cross_attn.k, cross_attn.v" in line
    everything_else = [m for n, m in model.named_modules() if not n.startswith("blocks")]
    assert not any(isinstance(m, Fp8Linear) for m in everything_else)


def test_odd_sizes_stay_wide():
    model = UnityDiT(replace(SHAPE, ffn_dim=130))
    assert not any("ffn" in name for name in convert(model, Fp8Config()))
    assert type(model.blocks[0].ffn[0]) is Linear


def test_without_transformer_engine_one_sentence_says_so():
    with pytest.raises(ValueError, match="not installed .* choose the backend 'native'"):
        convert(randomised(), Fp8Config(backend="transformer-engine"))


def test_a_transformer_engine_that_is_too_old_is_named(monkeypatch):
    for name in ("transformer_engine", "transformer_engine.pytorch", "transformer_engine.common.recipe"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    with pytest.raises(ValueError, match="needs version 2.9 or newer"):
        convert(randomised(), Fp8Config(backend="transformer-engine"))


def test_transformer_engine_gets_the_same_parameters_under_the_same_names(monkeypatch):
    """A stand-in with the published names: the real one computes on CUDA only."""
    entered = []

    class EngineLinear(nn.Linear):
        def __init__(self, d_in, d_out, *, bias, params_dtype, device):
            super().__init__(d_in, d_out, bias=bias, dtype=params_dtype, device=device)

        def get_extra_state(self):
            return torch.empty(0)

    @contextlib.contextmanager
    def autocast(*, enabled, recipe):
        entered.append(recipe)
        yield

    stand_ins = {
        "transformer_engine": {},
        "transformer_engine.pytorch": {"Linear": EngineLinear, "autocast": autocast},
        "transformer_engine.common.recipe": {"Float8CurrentScaling": lambda: "current scaling"},
    }
    for name, contents in stand_ins.items():
        module = types.ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    model = randomised()
    before, names = forward(model), {n: id(p) for n, p in model.named_parameters()}
    changed = convert(model, Fp8Config(backend="transformer-engine"))
    assert {n: id(p) for n, p in model.named_parameters()} == names and set(model.state_dict()) == set(names)
    torch.testing.assert_close(forward(model), before)
    assert entered == ["current scaling"] * len(changed)
    # its context is entered anew by what is computed again in the backward
    recompute(model, "full")
    entered.clear()
    forward(model)[0].sum().backward()
    assert entered == ["current scaling"] * 2 * len(changed)


@pytest.mark.slow
def test_two_ranks_of_zero3_equal_one_process():
    """Weights are gathered for each direction and freed between them; what the layers save survives that."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    shared |= {"OMP_NUM_THREADS": 1, "CUDA_VISIBLE_DEVICES": ""}
    places = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(2)]
    ranks = [
        subprocess.Popen(
            [sys.executable, Path(__file__).with_name("fp8_on_ranks.py")],
            env=os.environ | {name: str(value) for name, value in place.items()},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for place in places
    ]
    try:
        said = [rank.communicate(timeout=300)[0] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all("agrees" in text for text in said), "\n".join(said)
