"""Noising and its velocity target in one pass over latents, with a time per (sample, stream).

noisy = data + time·(noise - data) and velocity = noise - data. Backward, from a = d noisy and v = d velocity:
ddata = a - (time·a + v), dnoise = time·a + v, dtime = Σ a·(noise - data).
"""

import torch
from torch import Tensor

from unity.kernels import passes
from unity.kernels.differentiable import differentiable, library_op
from unity.kernels.jit import tl, triton

_BLOCK = 2048
_META = {"BLOCK": _BLOCK, "num_warps": 8, "enable_fp_fusion": True}


def flow_noise(data: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """(noisy, velocity) in the dtype of data: data and noise [b, s, ...], time [b, s], in float32 inside."""
    return _op(data, noise, time)


def refusal(data: Tensor, noise: Tensor, time: Tensor) -> str | None:
    """Why this implementation cannot run on these tensors, or None."""
    if not (data.is_contiguous() and noise.is_contiguous() and time.is_contiguous()):
        return "data, noise and time must be contiguous"
    if data[0, 0].numel() % 8:
        return f"{data[0, 0].numel()} numbers a stream are not a multiple of 8"
    return passes.device_refusal("data", data)


@triton.jit
def forward_kernel(data, noise, time, noisy, velocity, eights, BLOCK: tl.constexpr):
    stream = tl.program_id(1)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < eights * 8
    base = stream.to(tl.int64) * (eights * 8)
    t = tl.load(time + stream).to(tl.float32)
    x = tl.load(data + base + at, mask=inside).to(tl.float32)
    v = tl.load(noise + base + at, mask=inside).to(tl.float32) - x
    tl.store(noisy + base + at, (x + t * v).to(noisy.dtype.element_ty), mask=inside)
    tl.store(velocity + base + at, v.to(velocity.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(dnoisy, dvelocity, data, noise, time, ddata, dnoise, partial, eights, BLOCK: tl.constexpr):
    stream = tl.program_id(1)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < eights * 8
    base = stream.to(tl.int64) * (eights * 8)
    t = tl.load(time + stream).to(tl.float32)
    a = tl.load(dnoisy + base + at, mask=inside, other=0.0).to(tl.float32)
    to_noise = t * a + tl.load(dvelocity + base + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(ddata + base + at, (a - to_noise).to(ddata.dtype.element_ty), mask=inside)
    tl.store(dnoise + base + at, to_noise.to(dnoise.dtype.element_ty), mask=inside)
    x = tl.load(data + base + at, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(noise + base + at, mask=inside, other=0.0).to(tl.float32) - x
    tl.store(partial + stream * tl.num_programs(0) + tl.program_id(0), tl.sum(a * v))


def _forward(data: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    noisy, velocity = _forward_fake(data, noise, time)
    length = data.numel() // time.numel()
    grid = (triton.cdiv(length, _BLOCK), time.numel())
    forward_kernel[grid](data, noise, time, noisy, velocity, length // 8, **_META)
    return noisy, velocity


def _forward_fake(data, noise, time):
    return data.new_empty(data.shape), data.new_empty(data.shape)


def _backward(
    dnoisy: Tensor, dvelocity: Tensor, data: Tensor, noise: Tensor, time: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    length = data.numel() // time.numel()
    grid = (triton.cdiv(length, _BLOCK), time.numel())
    ddata, dnoise = data.new_empty(data.shape), noise.new_empty(noise.shape)
    partial = data.new_empty(time.numel(), grid[0], dtype=torch.float32)
    backward_kernel[grid](
        dnoisy.contiguous(),
        dvelocity.contiguous(),
        data,
        noise,
        time,
        ddata,
        dnoise,
        partial,
        length // 8,
        **_META,
    )
    return ddata, dnoise, partial.sum(1).view(time.shape)


def _backward_fake(dnoisy, dvelocity, data, noise, time):
    return (
        data.new_empty(data.shape),
        noise.new_empty(noise.shape),
        time.new_empty(time.shape, dtype=torch.float32),
    )


def _setup(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _gradients(run, ctx, dnoisy, dvelocity):
    data, noise, time = ctx.saved_tensors
    ddata, dnoise, dtime = run(dnoisy, dvelocity, data, noise, time)
    return ddata, dnoise, dtime.to(time.dtype)


_op = differentiable(
    library_op("flow_noise", _forward, _forward_fake),
    library_op("flow_noise_backward", _backward, _backward_fake),
    _setup,
    _gradients,
)
