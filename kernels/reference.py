"""The truth of every fast op in plain torch, computed in float32 (in float64 for float64 inputs).

Groups `g` are (sample, stream) pairs: a batch whose streams lie one after the other, `[b, s*n, d]`, is
`[b*s, n, d]` as a view. Every other implementation is tested against these lines and their autograd.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from unity.kernels.quantized import E4M3_MAX, Carrier, Quantized
from unity.kernels.rotary import Rotary


def modulated_layernorm(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift: x [g, n, d], scale and shift [g, d] in float32, result as x."""
    x32 = _wide(x)
    normed = F.layer_norm(x32, x.shape[-1:], eps=eps)
    return (normed * (1 + _wide(scale)).unsqueeze(1) + _wide(shift).unsqueeze(1)).to(x.dtype)


def gated_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + gate * y: x and y [g, n, d], gate [g, d] in float32."""
    return (_wide(x) + _wide(gate).unsqueeze(1) * _wide(y)).to(x.dtype)


def gated_residual_layernorm(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """The boundary between two sublayers: r = x + gate * y, and LayerNorm(r) * (1 + scale) + shift.

    The normalisation reads r as it is stored, after rounding to the dtype of x.
    """
    residual = gated_residual(x, y, gate)
    return residual, modulated_layernorm(residual, scale, shift, eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-6) -> Tensor:
    """x / root-mean-square(x) * weight over the last axis: x [..., d], weight [d], result as x."""
    wide = _wide(x)
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * _wide(weight)).to(x.dtype)


def qk_norm_rope(
    q: Tensor,
    k: Tensor,
    q_weight: Tensor,
    k_weight: Tensor,
    rotary: Rotary,
    eps: float = 1e-6,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """RMSNorm over the full width (weight [d], as in Wan) and 3-D rotary positions: [b, l, d] → [b, l, n, k].

    `inplace`, for calls without gradients, writes the results over q and k and returns views of them.
    """
    if inplace:
        refuse_gradients(q, k, q_weight, k_weight)
    heads = rotary.num_heads, q.shape[-1] // rotary.num_heads
    cos, sin = rotary.angles(heads[1], q.device)

    def one(x: Tensor, weight: Tensor) -> Tensor:
        wide = rms_norm(_wide(x), weight, eps).unflatten(-1, heads)
        result = rotate(wide, cos, sin).to(x.dtype)
        return x.unflatten(-1, heads).copy_(result) if inplace else result

    return one(q, q_weight), one(k, k_weight)


def refuse_gradients(*inputs: Tensor) -> None:
    """ValueError where a gradient would need what an op in place writes over."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        raise ValueError(
            "an input of an op in place requires a gradient: leave inplace out, or use torch.no_grad()"
        )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate adjacent pairs of the head axis: x [b, l, n, k], tables [l, k/2]."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos.unsqueeze(1).to(x.dtype), sin.unsqueeze(1).to(x.dtype)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def gelu(x: Tensor) -> Tensor:
    """GELU, tanh form, computed in float32."""
    return F.gelu(_wide(x), approximate="tanh").to(x.dtype)


def flow_noise(data: Tensor, noise: Tensor, time: Tensor) -> tuple[Tensor, Tensor]:
    """(1 - time)·data + time·noise, and its target noise - data: time [b, s], the rest [b, s, ...]."""
    t = _wide(time).reshape(*time.shape, *(1,) * (data.ndim - time.ndim))
    data32, noise32 = _wide(data), _wide(noise)
    return (data32 + t * (noise32 - data32)).to(data.dtype), (noise32 - data32).to(data.dtype)


def self_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention over all tokens of a sample: [b, l, n, k] each."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def dual_cross_attention(
    q: Tensor, key: Tensor, value: Tensor, bias: Tensor, weight: Tensor | None = None, eps: float = 1e-6
) -> Tensor:
    """Both branches in one call: queries [g, l, n, k], keys and values [g, m, n, k], logit bias [g, m].

    The float32 bias is 0 for a real key, -inf for an absent one and log(count) for one key that stands for
    `count` equal ones: attention to a few keys then equals attention to a long padded text. With `weight` [n·k],
    the queries pass through RMSNorm over all heads first.
    """
    if weight is not None:
        q = rms_norm(q.flatten(2), weight, eps).view_as(q)
    q, key, value = (x.transpose(1, 2) for x in (q, key, value))
    mask = bias.to(q.dtype)[:, None, None, :].expand(-1, 1, q.shape[2], -1)
    return F.scaled_dot_product_attention(q, key, value, attn_mask=mask).transpose(1, 2)


def modulated_layernorm_fp8(x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6) -> Quantized:
    """`modulated_layernorm` in e4m3, quantised before it is rounded to any wide dtype."""
    return _quantize(modulated_layernorm(_wide(x), scale, shift, eps), x.dtype)


def gated_residual_layernorm_fp8(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Quantized]:
    """`gated_residual_layernorm` with the second result in e4m3."""
    residual = gated_residual(x, y, gate)
    return residual, modulated_layernorm_fp8(residual, scale, shift, eps)


def gelu_fp8(x: Tensor) -> Quantized:
    """`gelu` in e4m3."""
    return _quantize(gelu(_wide(x)), x.dtype)


def linear_fp8(x: Tensor | Quantized, weight: Tensor, bias: Tensor | None, rowwise: bool = True) -> Tensor:
    """x·weightᵀ + bias of x and weight as e4m3 over a largest number of 448, rowwise or of the whole tensor.

    Values only: what the gradients round is said, and tested, at `kernels.linear_fp8`.
    """

    def rounded(tensor: Tensor) -> Tensor:
        largest = tensor.abs().amax(-1, keepdim=True) if rowwise else tensor.abs().amax()
        scale = largest.clamp_min(1e-12) / E4M3_MAX
        return (tensor / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(tensor.dtype) * scale

    if isinstance(x, Quantized):
        wide, dtype = x.values.float() * x.scale, x.carrier.dtype
    else:
        wide, dtype = rounded(_wide(x)), x.dtype
    return F.linear(wide, rounded(_wide(weight)), None if bias is None else _wide(bias)).to(dtype)


def _quantize(x: Tensor, dtype: torch.dtype) -> Quantized:
    """x [..., d] over a 448th of its largest number along d, rounded once to e4m3; its carrier is in `dtype`."""
    largest = x.detach().abs().amax(-1, keepdim=True).clamp_min(1e-12)
    values = (x.detach() * (E4M3_MAX / largest)).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return Quantized(values, (largest / E4M3_MAX).float(), Carrier.apply(x, dtype))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
