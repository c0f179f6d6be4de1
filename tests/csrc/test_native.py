"""The C++ ops against the reference in float64: values, every gradient, layouts, rounding, and repeatability."""

from dataclasses import replace

import pytest
import torch

from unity import ops
from unity.kernels import reference
from unity.kernels.rotary import Rotary
from unity.native import library, pointwise, rope

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
ORDER = ("baseline", "avx2", "avx512")
# groups, rows, width: a tail of a vector, one row, one chunk and a bit, the widest row
SIZES = [(2, 33, 24), (1, 1, 13), (3, 70, 200), (1, 3, 8192)]
# where tokens lie, and the size of a head; the last two are slices of their streams
ROTARY = [
    (Rotary((2, 3, 5), 2, 3), 22),
    (Rotary((1, 4, 7), 1, 2), 128),
    (Rotary((3, 1, 2), 2, 5), 64),
    (Rotary((2, 3, 5), 2, 3, first=7, count=16), 22),
    (Rotary((3, 4, 5), 1, 2, first=58), 64),
]


def native_form(op):
    """The op in C++, behind its refusal."""
    form = next(row for row in ops.IMPLEMENTATIONS[op] if row.name == "c++")

    def run(*args):
        reason = form.refusal(*args)
        assert reason is None, reason
        return form.run(*args)

    return run


@pytest.fixture(params=ORDER, autouse=True)
def level(request, monkeypatch):
    """Every test runs on each instruction set that this processor has."""
    best = library.load()
    assert not isinstance(best, str), best
    if ORDER.index(request.param) > ORDER.index(best.level):
        pytest.skip(f"this processor stops at {best.level}")
    chosen = library.load(request.param)
    monkeypatch.setattr(library, "load", lambda: chosen)
    return request.param


def normal(*size, scale=1.0):
    return torch.randn(*size) * scale


def norm_inputs(op, g, n, d):
    rows = {"modulated_layernorm": 1, "gated_residual": 2, "gated_residual_layernorm": 2, "gelu": 1}[op]
    tables = {"modulated_layernorm": 2, "gated_residual": 1, "gated_residual_layernorm": 3, "gelu": 0}[op]
    return [normal(g, n, d, scale=2) for _ in range(rows)], [normal(g, d) for _ in range(tables)]


def run(form, tensors, rest=()):
    """Outputs and gradients of all tensors, for fixed gradients of the outputs."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    found = form(*leaves, *rest)
    found = found if isinstance(found, tuple) else (found,)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(x.shape, generator=generator).bfloat16().to(x.dtype) for x in found]
    return [x.detach() for x in found] + list(torch.autograd.grad(found, leaves, grads))


def check(op, rows, vectors, dtype, rest=()):
    rows = [x.to(dtype) for x in rows]
    found = run(native_form(op), [*rows, *vectors], rest)
    truth = run(getattr(reference, op), [x.double() for x in (*rows, *vectors)], rest)
    compare(op, found, truth, dtype)


def compare(op, found, truth, dtype):
    for at, (x, y) in enumerate(zip(found, truth, strict=True)):
        assert x.shape == y.shape
        off = (x.double() - y).abs().max() / y.abs().max()
        assert off <= TOLERANCE[dtype], f"{op}: output or gradient {at} is off by {off:.1e}"


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("op", ["modulated_layernorm", "gated_residual", "gated_residual_layernorm", "gelu"])
def test_rows_equal_the_reference(op, size, dtype):
    torch.manual_seed(0)
    check(op, *norm_inputs(op, *size), dtype)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [*SIZES, (2, 3, 9000)])
def test_rms_norm_equals_the_reference(size, dtype):
    torch.manual_seed(0)
    check("rms_norm", [normal(*size, scale=2)], [1 + normal(size[-1], scale=0.2)], dtype, (1e-5,))


def test_rms_norm_of_the_slices_of_a_projection():
    torch.manual_seed(0)
    x, weight = normal(2, 40, 3 * 56).chunk(3, dim=-1)[1], 1 + normal(56, scale=0.2)
    found, dense = (run(native_form("rms_norm"), [z, weight]) for z in (x, x.contiguous()))
    assert not x.is_contiguous() and all(map(torch.equal, found, dense))


def rotary_inputs(rotary, head, samples=2):
    """Queries and keys as slices of one projection, and the weights of their norms."""
    width = rotary.num_heads * head
    q, k, _ = normal(samples, rotary.tokens, 3 * width).chunk(3, -1)
    return [q, k], [*(1 + normal(2, width, scale=0.2)).unbind()]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", ROTARY, ids=str)
def test_rotary_equals_the_reference(case, dtype):
    torch.manual_seed(0)
    check("qk_norm_rope", *rotary_inputs(*case), dtype, (case[0],))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", [native_form("qk_norm_rope"), reference.qk_norm_rope], ids=["c++", "reference"])
def test_slices_of_a_sequence_have_the_bits_of_the_whole(form, dtype):
    """Three processes that hold tokens 0 to 10, 11 to 12 and 13 to 29 of each stream, forward and backward."""
    torch.manual_seed(0)
    whole = Rotary((2, 3, 5), 2, 3)
    (q, k), weights = rotary_inputs(whole, 22)
    slopes = normal(2, 2, whole.tokens, 3, 22).to(dtype)

    def turned(rotary, cut):
        leaves = [cut(x.to(dtype)).requires_grad_() for x in (q, k)]
        out = form(*leaves, *weights, rotary)
        return *out, *torch.autograd.grad(out, leaves, [cut(x) for x in slopes])

    truth = turned(whole, torch.clone)
    for first, count in ((0, 11), (11, 2), (13, 17)):

        def cut(x, first=first, count=count):
            return x.unflatten(1, (2, -1))[:, :, first : first + count].flatten(1, 2)

        part = replace(whole, first=first, count=count)
        for ours, full in zip(turned(part, cut), truth, strict=True):
            assert torch.equal(ours, cut(full))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("case", [*ROTARY, (Rotary((2, 20, 20), 1, 12), 128)], ids=str)
def test_rotary_in_place_has_the_bits_of_new_tensors(case, dtype):
    torch.manual_seed(0)
    rotary, head = case
    q, k, v = normal(2, rotary.tokens, 3 * rotary.num_heads * head).to(dtype).chunk(3, -1)
    rest = (*(1 + normal(2, rotary.num_heads * head, scale=0.2)), rotary)
    untouched, truth = v.clone(), rope.qk_norm_rope(q, k, *rest)
    for x, found, new in zip((q, k), rope.qk_norm_rope(q, k, *rest, inplace=True), truth, strict=True):
        assert torch.equal(found, new) and found.data_ptr() == x.data_ptr()
        assert torch.equal(x, new.flatten(2))
    assert torch.equal(v, untouched)


def test_results_larger_than_the_cache_are_streamed_right():
    torch.manual_seed(0)
    check("gated_residual_layernorm", *norm_inputs("gated_residual_layernorm", 2, 1030, 512), torch.float32)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_noising_rounds_like_torch(dtype):
    torch.manual_seed(0)
    data, noise = (normal(3, 2, 5, 7, 11).to(dtype) for _ in range(2))
    data[0, 0, 0, 0, :4] = torch.tensor([float("nan"), float("inf"), 3e38, 1e-40])
    time = torch.rand(3, 2)
    noisy, velocity = pointwise.flow_noise(data, noise, time)
    torch.testing.assert_close(
        velocity, reference.flow_noise(data, noise, time)[1], rtol=0, atol=0, equal_nan=True
    )
    truth = reference.flow_noise(data.double(), noise.double(), time.double())[0]
    torch.testing.assert_close(noisy[1:].double(), truth[1:], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert noisy[0, 0, 0, 0, 0].isnan()


def test_gelu_at_the_ends():
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 9.0, -9.0, 40.0, -40.0, 1e4, -1e4, 1e18, -1e18, float("nan")])
    found, truth = pointwise.gelu(x), reference.gelu(x.double())
    torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=1e-15, equal_nan=True)


def summed(case):
    """An op with sums over many chunks of rows, as its name, tensors and other arguments."""
    rows, tables = norm_inputs("gated_residual_layernorm", 3, 500, 72)
    return {
        "layernorm": ("gated_residual_layernorm", [*rows, *tables], ()),
        "rope": ("qk_norm_rope", [*rows, *tables[0][:2]], (Rotary((5, 10, 10), 1, 3),)),
        "rms": ("rms_norm", [rows[0], tables[0][0]], ()),
    }[case]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", ["layernorm", "rope", "rms"])
def test_bits_do_not_depend_on_the_run_or_the_threads(threads, case):
    torch.manual_seed(0)
    op, tensors, rest = summed(case)
    before = torch.get_num_threads()
    first = run(native_form(op), tensors, rest)
    try:
        torch.set_num_threads(threads)
        for _ in range(2):
            assert all(map(torch.equal, first, run(native_form(op), tensors, rest)))
    finally:
        torch.set_num_threads(before)


def test_strided_tensors_give_the_bits_of_dense_ones():
    torch.manual_seed(0)
    x, y = normal(5, 2, 20, 48).permute(1, 2, 0, 3)[:, ::2, ::3].flatten(2).unflatten(2, (2, 48)).unbind(2)
    tables = normal(2, 3, 60)[:, :, 4:52].unbind(1)
    assert not x.is_contiguous() and not tables[0].is_contiguous()
    dense = [z.contiguous() for z in (x, y, *tables)]
    for found, truth in zip(
        run(native_form("gated_residual_layernorm"), [x, y, *tables]),
        run(native_form("gated_residual_layernorm"), dense),
        strict=True,
    ):
        assert torch.equal(found, truth)


def test_strided_queries_and_gradients():
    torch.manual_seed(0)
    q, k, _ = normal(2, 24, 3 * 64).chunk(3, dim=-1)
    weights, rotary = 1 + normal(2, 64, scale=0.1), Rotary((2, 2, 3), 2, 2)

    def through_attention(form):
        leaves = [z.detach().requires_grad_() for z in (q, k)]
        turned = form(*leaves, *weights, rotary)
        # As attention hands them back: [b, n, l, k] in memory.
        grads = [torch.sin(z.detach()).transpose(1, 2).contiguous().transpose(1, 2) for z in turned]
        return torch.autograd.grad(turned, leaves, grads)

    for found, truth in zip(
        *map(through_attention, (native_form("qk_norm_rope"), reference.qk_norm_rope)), strict=True
    ):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("used", [0, 1])
def test_one_result_may_go_unused(used):
    torch.manual_seed(0)
    rows, vectors = norm_inputs("gated_residual_layernorm", 2, 5, 40)

    def gradients(form):
        leaves = [x.clone().requires_grad_() for x in (*rows, *vectors)]
        form(*leaves)[used].square().sum().backward()
        return [x.grad if x.grad is not None else torch.zeros_like(x) for x in leaves]

    forms = native_form("gated_residual_layernorm"), reference.gated_residual_layernorm
    for found, truth in zip(*map(gradients, forms), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


def test_every_element_is_written():
    torch.manual_seed(0)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(3).isnan().all()
        rows, vectors = norm_inputs("gated_residual_layernorm", 3, 37, 56)
        found = run(native_form("gated_residual_layernorm"), [*rows, *vectors])
        found += run(native_form("modulated_layernorm"), [rows[0], *vectors[1:]])
        found += run(native_form("gated_residual"), [*rows, vectors[0]]) + run(native_form("gelu"), rows[:1])
        found += run(native_form("rms_norm"), [rows[0], vectors[0][0]])
        found += pointwise.flow_noise(*rows, torch.rand(3, 37))
        q, k, weights = normal(1, 42, 66), normal(1, 42, 66), normal(2, 66)
        found += run(native_form("qk_norm_rope"), [q, k, *weights], (Rotary((1, 3, 7), 2, 3),))
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = filled
    assert all(x.isfinite().all() for x in found)


@pytest.mark.filterwarnings("ignore:Input .* double precision")
def test_gradients_are_slopes():
    torch.manual_seed(0)
    rows, vectors = norm_inputs("gated_residual_layernorm", 1, 2, 9)
    leaves = [x.requires_grad_() for x in (*rows, *vectors)]
    # float32 differences: the step and the tolerances follow from 1e-7 of rounding
    options = dict(eps=1e-2, atol=2e-2, rtol=2e-2)
    assert torch.autograd.gradcheck(native_form("gated_residual_layernorm"), leaves, **options)
    q, k = (normal(1, 4, 12).requires_grad_() for _ in range(2))
    weights = [(1 + normal(12, scale=0.1)).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda *x: rope.qk_norm_rope(*x, Rotary((1, 2, 2), 1, 2)), [q, k, *weights], **options
    )
