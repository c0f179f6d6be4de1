"""Tools of the interpreter checks: poisoned outputs, exact rounding, and the comparison with float64.

The interpreter truncates where a GPU rounds to nearest even (and loses carries on the way to e4m3), so its
conversion is replaced by torch's.
"""

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter

ROUNDED = {
    tl.bfloat16: (torch.bfloat16, torch.int16),
    tl.float8e4nv: (torch.float8_e4m3fn, torch.uint8),
    tl.float8e5: (torch.float8_e5m2, torch.uint8),
}
# Of the largest number compared: float32 sums of a few hundred terms, one bf16 rounding of the result.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2**-8}
truncate = interpreter._convert_float


def round_as_torch(data, source, target, mode):
    if source != tl.float32 or target not in ROUNDED:
        return truncate(data, source, target, mode)
    dtype, bits = ROUNDED[target]
    rounded = torch.from_numpy(np.ascontiguousarray(data)).to(dtype).view(bits).numpy()
    return rounded.view(f"uint{8 * rounded.itemsize}").reshape(data.shape)


@pytest.fixture(autouse=True)
def exact_and_poisoned(monkeypatch):
    """Memory that a kernel does not write is NaN."""
    monkeypatch.setattr(interpreter, "_convert_float", round_as_torch)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    torch.manual_seed(0)


def flat(results):
    return results if isinstance(results, tuple) else (results,)


def run(op, inputs, cotangents):
    """Results and the gradient of every input."""
    results = flat(op(*inputs))
    return results, torch.autograd.grad(results, inputs, cotangents)


def assert_near(ours, truth, tolerance, what):
    assert not ours.isnan().any(), f"{what}: unwritten numbers"
    error = (ours.double() - truth).abs().max() / truth.abs().max().clamp_min(1e-6)
    assert error <= tolerance, f"{what}: error {error:.2e}"


@pytest.fixture
def agree():
    """agree(op, truth, inputs): results and every gradient equal the float64 truth; a second run, bit for bit."""

    def check(op, truth, inputs):
        inputs = [x.requires_grad_() for x in inputs]
        wide = [x.detach().double().requires_grad_() for x in inputs]
        cotangents = [torch.randn_like(x, memory_format=torch.contiguous_format) for x in flat(op(*inputs))]
        results, gradients = run(op, inputs, cotangents)
        expected, slopes = run(truth, wide, [x.double() for x in cotangents])
        tolerance = TOLERANCE[inputs[0].dtype]
        for i, (a, b) in enumerate(zip(results, expected, strict=True)):
            assert_near(a, b, tolerance, f"result {i}")
        for i, (a, b, x) in enumerate(zip(gradients, slopes, inputs, strict=True)):
            assert a.dtype == x.dtype and a.shape == x.shape
            assert_near(a, b, 2 * tolerance, f"gradient {i}")
        again, gradients_again = run(op, inputs, cotangents)
        for a, b in zip((*results, *gradients), (*again, *gradients_again), strict=True):
            assert torch.equal(a, b)

    return check


@pytest.fixture
def traces():
    """traces(op, inputs): torch.compile takes the op without a graph break and gives the same numbers."""

    def check(op, inputs):
        inputs = [x.requires_grad_() for x in inputs]
        cotangents = [torch.randn_like(x) for x in flat(op(*inputs))]
        compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
        for eager, traced in zip(run(op, inputs, cotangents), run(compiled, inputs, cotangents), strict=True):
            for a, b in zip(eager, traced, strict=True):
                assert torch.equal(a, b)

    return check
