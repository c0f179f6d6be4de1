"""Whether a form of an op computes what the reference computes, values and every gradient.

    python benchmarks/kernel_gate.py

checks every fast op of this machine at sizes that fill no vector and on strided tensors; exit 1 if one is wrong.
"""

from collections.abc import Callable

import torch
from kernel_cases import Inputs
from torch import Tensor

from unity.kernels import reference

# Largest error allowed, as a fraction of the largest true value: a few roundings of the storage type.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2}


def outputs(form: Callable, inputs: Inputs) -> tuple[Tensor, ...]:
    """What a form returns, always as a tuple."""
    found = form(*inputs.tensors, *inputs.rest)
    return found if isinstance(found, tuple) else (found,)


def trainable(inputs: Inputs, dtype: torch.dtype | None = None) -> Inputs:
    """The same inputs as leaves that want a gradient, all in another dtype if one is given."""
    tensors = tuple(x.detach().to(dtype or x.dtype).requires_grad_() for x in inputs.tensors)
    rest = tuple(x.to(dtype or x.dtype) if isinstance(x, Tensor) else x for x in inputs.rest)
    return Inputs(tensors, rest)


def error(form: Callable, op: str, inputs: Inputs) -> float:
    """The largest error of outputs and gradients, each as a fraction of its largest true value; inf for NaN.

    The truth is the reference in float64; for the tensors of a production size on a GPU, in float32.
    """
    large = (inputs.tensors or inputs.rest)[0].numel() > 1 << 25
    wide = trainable(inputs, torch.float32 if large else torch.float64)
    truth = _values_and_gradients(getattr(reference, op), wide)
    found = _values_and_gradients(form, trainable(inputs))
    return max(_relative(x, y) for x, y in zip(found, truth, strict=True))


def _values_and_gradients(form: Callable, inputs: Inputs) -> list[Tensor]:
    found = outputs(form, inputs)
    if not inputs.tensors:
        return list(found)
    generator = torch.Generator(found[0].device).manual_seed(1)
    # Gradients that every dtype represents.
    grads = [torch.randn(x.shape, generator=generator, device=x.device).bfloat16().to(x.dtype) for x in found]
    return [x.detach() for x in found] + list(torch.autograd.grad(found, inputs.tensors, grads))


def _relative(found: Tensor, truth: Tensor) -> float:
    off = (found.to(truth.dtype) - truth).abs().max() / truth.abs().max()
    return float(off.nan_to_num(nan=float("inf")))
