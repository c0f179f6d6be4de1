"""Every back end of self-attention that is present here against float64."""

import sys
import types

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from unity import attention, flash4, ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float32
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-6}
EACH = pytest.mark.parametrize("backend", attention.BACKENDS, ids=lambda backend: backend.name)


def truth(q, k, v):
    """Softmax attention by its definition, [b, l, n, k]."""
    logits = torch.einsum("blnk,bmnk->bnlm", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bnlm,bmnk->blnk", logits.softmax(-1), v)


def slices(*shape):
    """Queries, keys and values as a fused projection leaves them: slices of one tensor."""
    torch.manual_seed(0)
    return torch.randn(*shape[:-2], 3, *shape[-2:], device=DEVICE, dtype=DTYPE).unbind(-3)


def assert_agrees(run, expected, inputs):
    inputs = [x.detach().requires_grad_() for x in inputs]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    out, exact = run(*inputs), expected(*wide)
    slope = torch.randn_like(exact)
    gradients = torch.autograd.grad(out, inputs, slope.to(out.dtype)), torch.autograd.grad(exact, wide, slope)
    for a, b in ((out, exact), *zip(*gradients, strict=True)):
        assert a.shape == b.shape and (a - b).abs().max() <= TOLERANCE[DTYPE] * b.abs().max()
    return out


def skip_if_refused(backend, *args):
    reason = backend.refusal(*args)
    # what is too short to be worth it must be right all the same
    if reason is not None and "tokens are fewer" not in reason:
        pytest.skip(f"{backend.name}: {reason}")


@EACH
@pytest.mark.parametrize("head", [16, 32, 64, 80, 96, 128])
def test_dense(backend, head):
    inputs = slices(2, 70, 3, head)
    skip_if_refused(backend, *inputs)
    out = assert_agrees(backend.run, truth, inputs)
    assert out.is_contiguous(), "tokens must lie as the next projection reads them"


@EACH
def test_fewer_queries_than_keys(backend):
    """Those of the wanted streams alone ask; all streams answer."""
    q, k, v = slices(2, 70, 3, 64)
    q = q[:, 35:]
    skip_if_refused(backend, q, k, v)
    assert_agrees(backend.run, truth, (q, k, v))


def test_nothing_is_copied_to_change_the_layout(monkeypatch):
    inputs = slices(1, 40, 2, 64)
    monkeypatch.setattr(torch.Tensor, "contiguous", None)
    with torch.profiler.profile() as profile:
        ops.self_attention(*inputs)
    assert not {"aten::copy_", "aten::clone"} & {event.name for event in profile.events()}


def test_the_door_says_who_runs_and_why_not_another(capsys):
    ops._said.clear()
    ops.self_attention(*slices(1, 8, 1, 64))
    ops.self_attention(*slices(1, 8, 1, 64))
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "self_attention" in x]
    if DEVICE == "cpu":
        assert "runs on torch (flash-attention 4 refused: tensors are on cpu" in line


@pytest.mark.parametrize("pair", [False, True])
def test_a_flash_package_is_called_by_its_own_names(monkeypatch, pair):
    """A stand-in with the published signatures; whether it returns one result or two does not matter."""

    def answer(out):
        return (out, None) if pair else out

    def attend(q, k, v, *, deterministic=False):
        return answer(q + v if deterministic else q - v)

    module = types.SimpleNamespace(flash_attn_func=attend)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", module)
    (backend,) = (row for row in attention.BACKENDS if row.name == "flash-attention 3")
    q, k, v = torch.randn(3, 1, 5, 2, 64).unbind(0)
    assert torch.equal(backend.run(q, k, v), q - v)
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert torch.equal(backend.run(q, k, v), q + v)


@pytest.mark.parametrize("capability", [(9, 0), (10, 0), (12, 0)])
def test_flash_attention_4_is_for_hopper_and_b200(capability, monkeypatch):
    """The first of all that run there; smaller Blackwells have cuDNN."""
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(attention, "_absent", lambda module: None)
    tensor = torch.empty(1, 8192, 4, 128, dtype=torch.bfloat16, device="meta")
    first = next(row.name for row in attention.BACKENDS if row.refusal(tensor, tensor, tensor) is None)
    assert first == ("cudnn" if capability == (12, 0) else "flash-attention 4")


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("flash-attention 4", (1, 8192, 4, 128), None),
        ("flash-attention 4", (1, 8192, 4, 80), "head size 80 is not a multiple of 32 up to 128"),
        ("flash-attention 4", (1, 8192, 4, 256), "head size 256 is not a multiple of 32 up to 128"),
        ("flash-attention 4", (8, 1152, 4, 128), "1152 tokens are fewer than 4,096"),
        ("flash-attention 3", (8, 1152, 4, 80), "1152 tokens are fewer than 4,096"),
        ("flash-attention 3", (1, 8192, 4, 80), None),
        ("flash-attention 2", (8, 1152, 4, 84), "head size 84 is not a multiple of 8 up to 256"),
        ("cudnn", (8, 1152, 4, 80), None),
        ("cudnn", (8, 1152, 4, 136), "head size 136 is not a multiple of 8 up to 128"),
    ],
)
def test_what_a_gpu_back_end_refuses(name, shape, reason, monkeypatch):
    (backend,) = (row for row in attention.BACKENDS if row.name == name)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention, "_absent", lambda module: None)
    tensor = torch.empty(shape, dtype=torch.bfloat16, device="meta")
    assert backend.refusal(tensor, tensor, tensor) == reason


@pytest.mark.filterwarnings("error:Dynamo detected")
def test_a_compiler_traces_the_choice_of_a_gpu(monkeypatch, unchecked):
    """Whoever is looked for first, in a graph or before."""
    monkeypatch.setattr(attention, "_refuse_gpu", lambda *_: None)
    monkeypatch.setattr(attention, "_FOUND", {})
    cudnn = attention.Backend("cudnn", attention._refuse_cudnn, attention._run_torch)
    rows = [cudnn if row.name == "cudnn" else row for row in attention.BACKENDS]
    monkeypatch.setitem(ops.IMPLEMENTATIONS, "self_attention", tuple(ops.Implementation(*row) for row in rows))
    q, k, v = slices(1, 40, 2, 64)
    compiled = torch.compile(ops.self_attention, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), attention._run_torch(q, k, v))
    assert ops.choose("self_attention", q, k, v)[0].name == "cudnn"


@pytest.mark.parametrize("compiled", [False, True])
def test_flash_attention_4_as_an_op(flash_attention_4, monkeypatch, compiled):
    """Also with fewer queries than keys; traced it is one node forward and one backward."""
    q, k, v = slices(2, 70, 3, 64)
    run = torch.compile(flash4.attend, fullgraph=True, backend="aot_eager") if compiled else flash4.attend
    out = assert_agrees(run, truth, (q[:, 35:], k, v))
    assert out.is_contiguous() and flash_attention_4 == [("forward", True), ("backward", False)]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    q.requires_grad_()
    flash4.attend(q, k, v).sum().backward()
    assert flash_attention_4[2:] == [("forward", True), ("backward", True)]


def test_cross_attention_on_a_cpu_holds_no_weights_of_all_queries():
    """SDPA's blocked form takes the bias: the math form would hold [queries, keys] for every head."""
    q, key, value = (torch.randn(2, l, 4, 64, requires_grad=True) for l in (300, 33, 33))
    bias = torch.zeros(2, 33)
    bias[:, 20:] = -torch.inf
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), torch.profiler.profile() as profile:
        ops.dual_cross_attention(q, key, value, bias).sum().backward()
    names = {event.name for event in profile.events()}
    assert {"aten::_scaled_dot_product_flash_attention_for_cpu_backward"} <= names and "aten::bmm" not in names


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [1, 2, 50, 77, 100])
def test_a_key_that_stands_for_many_has_their_weight_in_16_bits_too(dtype, count):
    """Equal logits, values of -1 and of 1 for the last key: what comes out is nearly the weights' difference."""
    keys = 64
    q, key = torch.zeros(1, 5, 2, 16, dtype=dtype), torch.zeros(1, keys, 2, 16, dtype=dtype)
    value = torch.full_like(key, -1.0)
    value[:, -1] = 1
    bias = torch.zeros(1, keys)
    bias[:, -1] = torch.tensor(float(count)).log()
    out = attention.cross_attention(q, key, value, bias)
    truth = (count - (keys - 1)) / (count + keys - 1)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), torch.full_like(out, truth).double(), atol=1e-3, rtol=2**-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_attention_leaves_out_absent_keys(dtype):
    q, key, value = torch.randn(3, 2, 6, 2, 16).to(dtype)
    bias = torch.tensor([[0.0, 0, 0, -torch.inf, -torch.inf, 3.0], [0.0, 0, 0, 0, 0, -torch.inf]])
    out = attention.cross_attention(q, key, value, bias)
    wide = (x.double().transpose(1, 2) for x in (q, key, value))
    truth = torch.nn.functional.scaled_dot_product_attention(
        *wide, attn_mask=bias.double()[:, None, None]
    ).transpose(1, 2)
    torch.testing.assert_close(out.double(), truth, atol=1e-6 if dtype == torch.float32 else 2e-2, rtol=0)
