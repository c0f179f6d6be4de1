"""The door picks by device, dtype and shape, says once what it picked and why, and every choice agrees."""

import pytest
import torch

from unity import ops
from unity.kernels import reference
from unity.kernels.arguments import TENSORS


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


def test_the_first_that_can_run_is_taken(monkeypatch, unchecked):
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


def test_rotary_in_place_compiles(unchecked):
    q, k, *rest = arguments("qk_norm_rope")
    truth = ops.qk_norm_rope(q, k, *rest)
    compiled = torch.compile(ops.qk_norm_rope, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, *rest, inplace=True), truth, rtol=0, atol=0)


def changed(op, at, change):
    """The arguments of an op with one of them changed."""
    args = list(arguments(op))
    args[at] = change(args[at])
    return args


def short(x):
    return x[..., :-1]


# op, which argument, what happens to it, and what the error says of it
WRONG = [
    ("modulated_layernorm", 0, torch.flatten, "x is [384], not [g, l, d]"),
    ("modulated_layernorm", 1, short, "scale is [2, 31], not [g, d] with g = 2, d = 32"),
    ("modulated_layernorm", 2, lambda x: x[:1], "shift is [1, 32], not [g, d]"),
    ("modulated_layernorm", 1, torch.Tensor.int, "scale is torch.int32, not floating point"),
    ("modulated_layernorm", 1, lambda x: x.to("meta"), "scale is on meta, the first tensor on cpu"),
    ("modulated_layernorm", 0, torch.Tensor.tolist, "x is list, not a tensor"),
    ("modulated_layernorm_fp8", 2, short, "shift is [2, 31]"),
    ("gated_residual", 1, lambda x: x[:, :1], "y is [2, 1, 32], not [g, l, d] with g = 2, l = 6"),
    ("gated_residual", 2, lambda x: x.mT, "gate is [32, 2]"),
    ("gated_residual_layernorm", 4, short, "shift is [2, 31]"),
    ("gated_residual_layernorm", 1, torch.Tensor.long, "y is torch.int64"),
    ("gated_residual_layernorm_fp8", 2, lambda x: x[0], "gate is [32], not [g, d]"),
    ("qk_norm_rope", 1, lambda x: x[:, :3], "k is [2, 3, 32], not [b, l, d]"),
    ("qk_norm_rope", 2, short, "q_weight is [31], not [d] with d = 32"),
    ("qk_norm_rope", 3, lambda x: x[:16], "k_weight is [16]"),
    ("qk_norm_rope", 4, lambda x: ops.Rotary((1, 1, 4), 2, 2), "6 tokens are not 2 streams"),
    ("qk_norm_rope", 4, lambda x: ops.Rotary((1, 1, 3), 2, 5), "width 32 is not 5 heads"),
    ("qk_norm_rope", 4, lambda x: (1, 1, 3), "rotary is tuple"),
    ("rms_norm", 1, lambda x: x[:16], "weight is [16], not [d] with d = 32"),
    ("rms_norm", 1, lambda x: None, "weight is NoneType"),
    ("rms_norm", 0, lambda x: x.sum(), "x is [], not [..., d]"),
    ("gelu", 0, torch.Tensor.int, "x is torch.int32"),
    ("gelu_fp8", 0, lambda x: x[0], "x is [6, 32], not [g, l, d]"),
    ("linear_fp8", 0, short, "weight is [48, 32], not [o, i] with i = 31"),
    ("linear_fp8", 1, lambda x: x[:40], "bias is [48]"),
    ("linear_fp8", 2, short, "bias is [47], not [o] with o = 48"),
    ("flow_noise", 1, lambda x: x[:, :3], "noise is [2, 3, 32]"),
    ("flow_noise", 2, lambda x: x[:, 0], "time is [2], not [b, s] with b = 2, s = 6"),
    ("self_attention", 1, short, "k is [1, 6, 2, 15], not [b, l, n, k] with b = 1, n = 2, k = 16"),
    ("self_attention", 2, torch.Tensor.bfloat16, "give one dtype"),
    ("dual_cross_attention", 3, short, "bias is [1, 5], not [g, m] with g = 1, m = 6"),
    ("dual_cross_attention", 2, lambda x: x[:, :3], "value is [1, 3, 2, 16]"),
    ("dual_cross_attention", 0, torch.Tensor.double, "give one dtype"),
]


@pytest.mark.parametrize("forms", ["all", "reference"])
@pytest.mark.parametrize("op, at, change, words", WRONG, ids=[f"{op} {words}" for op, _, _, words in WRONG])
def test_what_does_not_fit_is_a_sentence_whatever_would_run(op, at, change, words, forms, unchecked, monkeypatch):
    if forms == "reference":
        monkeypatch.setitem(ops.IMPLEMENTATIONS, op, ())
    with pytest.raises(ValueError) as problem:
        getattr(ops, op)(*changed(op, at, change))
    assert words in str(problem.value)


def test_every_op_is_given_something_wrong():
    assert {op for op, *_ in WRONG} == ops.IMPLEMENTATIONS.keys() == TENSORS.keys()


def test_sizes_and_eps_that_cannot_be(unchecked):
    x, weight = torch.randn(1, 2, 16), torch.ones(16)
    with pytest.raises(ValueError, match="eps is -1"):
        ops.rms_norm(x, weight, -1.0)
    with pytest.raises(ValueError, match="eps is nan"):
        ops.modulated_layernorm(x, x[:, 0], x[:, 0], float("nan"))
    with pytest.raises(ValueError, match="multiples of 16"):
        ops.linear_fp8(x, torch.randn(24, 16), None)
    query = torch.randn(1, 2, 2, 16)
    with pytest.raises(ValueError, match="no keys"):
        ops.dual_cross_attention(query, query[:, :0], query[:, :0], torch.zeros(1, 0))
    with pytest.raises(ValueError, match="weight is .16., not .n·k. with n = 2, k = 16"):
        ops.dual_cross_attention(query, query, query, torch.zeros(1, 2), weight)


@pytest.mark.parametrize(
    "about, words",
    [
        (dict(grid=(2, 3)), "have frames, rows and columns"),
        (dict(grid=(2, 0, 3)), "at least 1"),
        (dict(streams=0), "at least 1"),
        (dict(num_heads=-1), "at least 1"),
        (dict(first=-1), "tokens -1 to"),
        (dict(first=24), "a grid (2, 3, 4) has 24"),
        (dict(first=20, count=5), "tokens 20 to 25"),
        (dict(count=0), "tokens 0 to 0"),
        (dict(theta=0.0), "theta is 0.0"),
    ],
    ids=str,
)
def test_a_rotary_that_cannot_be_is_a_sentence(about, words):
    with pytest.raises(ValueError) as problem:
        ops.Rotary(**{"grid": (2, 3, 4), "streams": 2, "num_heads": 3} | about)
    assert words in str(problem.value)


def test_a_rotary_goes_through_a_library_op_unchanged():
    rotary = ops.Rotary((2, 3, 4), 2, 3, 5e3, first=5, count=7)
    assert ops.Rotary.of(rotary.sizes, rotary.theta) == rotary and rotary.tokens == 14
    whole = ops.Rotary((2, 3, 4), 2, 3)
    assert whole.sizes == [2, 3, 4, 2, 3, 0, 24] and whole.tokens == 48


def test_the_carrier_brings_the_gradient():
    x, scale, shift = (t.requires_grad_() for t in arguments("modulated_layernorm_fp8"))
    gradient = torch.randn_like(x)
    ours = torch.autograd.grad(ops.modulated_layernorm_fp8(x, scale, shift).carrier, (x, scale, shift), gradient)
    truth = torch.autograd.grad(reference.modulated_layernorm(x, scale, shift), (x, scale, shift), gradient)
    torch.testing.assert_close(ours, truth)


def test_no_graph_break(unchecked):
    x, y, gate, scale, shift = arguments("gated_residual_layernorm")

    def boundary(x):
        residual, normed = ops.gated_residual_layernorm(x, ops.gelu(y), gate, scale, shift)
        return residual + ops.modulated_layernorm(normed, scale, shift)

    compiled = torch.compile(boundary, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), boundary(x))
