"""The C++ ops against the reference in float64: values, every gradient, layouts, rounding, and repeatability."""

import pytest
import torch

from unity import native
from unity.kernels import reference
from unity.native import library

TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
ORDER = ("baseline", "avx2", "avx512")
# groups, rows, width: a tail of a vector, one row, one chunk and a bit, the widest row
SIZES = [(2, 33, 24), (1, 1, 13), (3, 70, 200), (1, 3, 8192)]
# grid, streams, heads, head size
GRIDS = [((2, 3, 5), 2, 3, 22), ((1, 4, 7), 1, 2, 128), ((3, 1, 2), 2, 5, 64)]


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


def run(module, op, tensors, rest=(), **options):
    """Outputs and gradients of all tensors, for fixed gradients of the outputs."""
    return run_form(getattr(module, op), tensors, rest, **options)


def run_form(form, tensors, rest=(), **options):
    leaves = [x.detach().requires_grad_() for x in tensors]
    found = form(*leaves, *rest, **options)
    found = found if isinstance(found, tuple) else (found,)
    generator = torch.Generator().manual_seed(1)
    grads = [torch.randn(x.shape, generator=generator).bfloat16().to(x.dtype) for x in found]
    return [x.detach() for x in found] + list(torch.autograd.grad(found, leaves, grads))


def check(op, rows, vectors, dtype, rest=()):
    rows = [x.to(dtype) for x in rows]
    reason = native.can_run(op, *rows, *vectors, *rest)
    assert reason is None, reason
    found = run(native, op, [*rows, *vectors], rest)
    compare(op, found, run(reference, op, [x.double() for x in (*rows, *vectors)], rest), dtype)


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
@pytest.mark.parametrize("op", ["modulated_layernorm", "gated_residual", "gated_residual_layernorm"])
def test_unequal_groups_equal_the_reference(op, dtype):
    torch.manual_seed(0)
    # an empty group, one row, a whole chunk, and lengths that no chunk divides
    offsets = torch.tensor([0, 37, 37, 38, 133, 165])
    rows, _ = norm_inputs(op, 1, 165, 41)
    _, tables = norm_inputs(op, 5, 1, 41)
    rows = [x[0].to(dtype) for x in rows]
    assert native.can_run(op, *rows, *tables, offsets=offsets) is None

    def cut(*args):
        return reference.unequal_groups(getattr(reference, op), args[: len(rows)], args[len(rows) :], offsets)

    found = run(native, op, [*rows, *tables], offsets=offsets)
    compare(op, found, run_form(cut, [x.double() for x in (*rows, *tables)]), dtype)
    for gradient in found[-len(tables) :]:
        assert gradient[1].count_nonzero() == 0


@pytest.mark.parametrize("op", ["modulated_layernorm", "gated_residual", "gated_residual_layernorm"])
def test_equal_groups_have_the_bits_of_unequal_ones(op):
    torch.manual_seed(0)
    rows, tables = norm_inputs(op, 3, 45, 40)
    strided = [torch.cat([x, x], -1).flatten(0, 1)[:, :40] for x in rows]
    offsets = torch.tensor([0, 45, 90, 135], dtype=torch.int32)
    pairs = zip(
        run(native, op, [*strided, *tables], offsets=offsets), run(native, op, [*rows, *tables]), strict=True
    )
    for found, truth in pairs:
        assert torch.equal(found, truth.flatten(0, 1) if truth.ndim == 3 else truth)


@pytest.mark.parametrize("offsets", [[0, 3, 6], [1, 3, 7], [0, 9, 7]])
def test_offsets_that_do_not_cut_the_rows_are_an_error(offsets):
    with pytest.raises(ValueError, match="do not rise from 0 to the 7 rows"):
        native.gated_residual(*normal(2, 7, 8), normal(2, 8), offsets=torch.tensor(offsets))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("size", [*SIZES, (2, 3, 9000)])
def test_rms_norm_equals_the_reference(size, dtype):
    torch.manual_seed(0)
    check("rms_norm", [normal(*size, scale=2)], [1 + normal(size[-1], scale=0.2)], dtype, (1e-5,))


def test_rms_norm_of_the_slices_of_a_projection():
    torch.manual_seed(0)
    x, weight = normal(2, 40, 3 * 56).chunk(3, dim=-1)[1], 1 + normal(56, scale=0.2)
    found, dense = (run(native, "rms_norm", [z, weight]) for z in (x, x.contiguous()))
    assert not x.is_contiguous() and all(map(torch.equal, found, dense))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("grid", GRIDS)
def test_rotary_equals_the_reference(grid, per_head, dtype):
    torch.manual_seed(0)
    (t, h, w), streams, heads, size = grid
    q, k = normal(2, 2, streams * t * h * w, heads * size).unbind()
    weights = 1 + normal(2, size if per_head else heads * size, scale=0.2)
    check("qk_norm_rope", [q, k], weights.unbind(), dtype, ((t, h, w), streams, heads, 1e4, 1e-6, per_head))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("per_head", [False, True])
@pytest.mark.parametrize("grid", [*GRIDS, ((2, 20, 20), 1, 12, 128)])
def test_rotary_in_place_has_the_bits_of_new_tensors(grid, per_head, dtype):
    torch.manual_seed(0)
    (t, h, w), streams, heads, size = grid
    q, k, v = normal(2, streams * t * h * w, 3 * heads * size).to(dtype).chunk(3, -1)
    weights = 1 + normal(2, size if per_head else heads * size, scale=0.2)
    rest = (*weights, (t, h, w), streams, heads, 1e4, 1e-6, per_head)
    untouched, truth = v.clone(), native.qk_norm_rope(q, k, *rest)
    for x, found, new in zip((q, k), native.qk_norm_rope(q, k, *rest, inplace=True), truth, strict=True):
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
    noisy, velocity = native.flow_noise(data, noise, time)
    torch.testing.assert_close(
        velocity, reference.flow_noise(data, noise, time)[1], rtol=0, atol=0, equal_nan=True
    )
    truth = reference.flow_noise(data.double(), noise.double(), time.double())[0]
    torch.testing.assert_close(noisy[1:].double(), truth[1:], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    assert noisy[0, 0, 0, 0, 0].isnan()


def test_gelu_at_the_ends():
    x = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 9.0, -9.0, 40.0, -40.0, 1e4, -1e4, 1e18, -1e18, float("nan")])
    found, truth = native.gelu(x), reference.gelu(x.double())
    torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=1e-15, equal_nan=True)


def summed(case):
    """An op with sums over many chunks of rows, as its name, tensors and other arguments."""
    rows, tables = norm_inputs("gated_residual_layernorm", 3, 500, 72)
    return {
        "equal": ("gated_residual_layernorm", [*rows, *tables], {}),
        "unequal": (
            "gated_residual_layernorm",
            [*(x[0] for x in rows), *tables],
            {"offsets": torch.tensor([0, 37, 37, 500])},
        ),
        "rope": ("qk_norm_rope", [*rows, *tables[0][:2]], dict(grid=(5, 10, 10), streams=1, num_heads=3)),
        "rms": ("rms_norm", [rows[0], tables[0][0]], {}),
    }[case]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("case", ["equal", "unequal", "rope", "rms"])
def test_bits_do_not_depend_on_the_run_or_the_threads(threads, case):
    torch.manual_seed(0)
    op, tensors, options = summed(case)
    before = torch.get_num_threads()
    first = run(native, op, tensors, **options)
    try:
        torch.set_num_threads(threads)
        for _ in range(2):
            assert all(map(torch.equal, first, run(native, op, tensors, **options)))
    finally:
        torch.set_num_threads(before)


def test_strided_tensors_give_the_bits_of_dense_ones():
    torch.manual_seed(0)
    x, y = normal(5, 2, 20, 48).permute(1, 2, 0, 3)[:, ::2, ::3].flatten(2).unflatten(2, (2, 48)).unbind(2)
    tables = normal(2, 3, 60)[:, :, 4:52].unbind(1)
    assert not x.is_contiguous() and not tables[0].is_contiguous()
    assert native.can_run("gated_residual_layernorm", x, y, *tables) is None
    dense = [z.contiguous() for z in (x, y, *tables)]
    for found, truth in zip(
        run(native, "gated_residual_layernorm", [x, y, *tables]),
        run(native, "gated_residual_layernorm", dense),
        strict=True,
    ):
        assert torch.equal(found, truth)


def test_strided_queries_and_gradients():
    torch.manual_seed(0)
    q, k, _ = normal(2, 24, 3 * 64).chunk(3, dim=-1)
    weights, rest = 1 + normal(2, 64, scale=0.1), ((2, 2, 3), 2, 2)
    assert native.can_run("qk_norm_rope", q, k, *weights, *rest) is None

    def through_attention(module):
        leaves = [z.detach().requires_grad_() for z in (q, k)]
        turned = module.qk_norm_rope(*leaves, *weights, *rest)
        # As attention hands them back: [b, n, l, k] in memory.
        grads = [torch.sin(z.detach()).transpose(1, 2).contiguous().transpose(1, 2) for z in turned]
        return torch.autograd.grad(turned, leaves, grads)

    for found, truth in zip(through_attention(native), through_attention(reference), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("used", [0, 1])
def test_one_result_may_go_unused(used):
    torch.manual_seed(0)
    rows, vectors = norm_inputs("gated_residual_layernorm", 2, 5, 40)

    def gradients(module):
        leaves = [x.clone().requires_grad_() for x in (*rows, *vectors)]
        module.gated_residual_layernorm(*leaves)[used].square().sum().backward()
        return [x.grad if x.grad is not None else torch.zeros_like(x) for x in leaves]

    for found, truth in zip(gradients(native), gradients(reference), strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


def test_every_element_is_written():
    torch.manual_seed(0)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    try:
        assert torch.empty(3).isnan().all()
        rows, vectors = norm_inputs("gated_residual_layernorm", 3, 37, 56)
        found = run(native, "gated_residual_layernorm", [*rows, *vectors])
        found += run(native, "modulated_layernorm", [rows[0], *vectors[1:]])
        found += run(native, "gated_residual", [*rows, vectors[0]]) + run(native, "gelu", rows[:1])
        found += run(native, "rms_norm", [rows[0], vectors[0][0]])
        found += native.flow_noise(*rows, torch.rand(3, 37))
        q, k, weights = normal(1, 42, 66), normal(1, 42, 66), normal(2, 66)
        found += run(native, "qk_norm_rope", [q, k, *weights], ((1, 3, 7), 2, 3))
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
    assert torch.autograd.gradcheck(native.gated_residual_layernorm, leaves, **options)
    q, k = (normal(1, 4, 12).requires_grad_() for _ in range(2))
    weights = [(1 + normal(12, scale=0.1)).requires_grad_() for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda *x: native.qk_norm_rope(*x, (1, 2, 2), 1, 2), [q, k, *weights], **options
    )
