"""The truth of every fast op in plain torch, computed in float32 (in float64 for float64 inputs).

Groups `g` are (sample, stream) pairs: a batch whose streams lie one after the other, `[b, s*n, d]`, is
`[b*s, n, d]` as a view. Every other implementation is tested against these lines and their autograd.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

E4M3_MAX = 448.0


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
    grid: tuple[int, int, int],
    streams: int,
    num_heads: int,
    theta: float = 1e4,
    eps: float = 1e-6,
    per_head: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """RMSNorm and 3-D rotary positions of queries and keys: [b, l, d] → [b, l, n, k], l = streams·t·h·w.

    RMSNorm runs over the full width (weight [d], as in Wan) or per head (weight [k]). Stream s lies at width
    positions s·w … s·w + w - 1, which is what concatenating the streams along width means to attention.

    `inplace`, for calls without gradients, writes the results over q and k and returns views of them.
    """
    if inplace:
        refuse_gradients(q, k, q_weight, k_weight)
    cos, sin = rope_table(grid, streams, q.shape[-1] // num_heads, theta, q.device)

    def one(x: Tensor, weight: Tensor) -> Tensor:
        wide = _wide(x)
        if not per_head:
            wide = rms_norm(wide, weight, eps)
        wide = wide.unflatten(-1, (num_heads, -1))
        if per_head:
            wide = rms_norm(wide, weight, eps)
        result = rotate(wide, cos, sin).to(x.dtype)
        return x.unflatten(-1, (num_heads, -1)).copy_(result) if inplace else result

    return one(q, q_weight), one(k, k_weight)


def refuse_gradients(*inputs: Tensor) -> None:
    """ValueError where a gradient would need what an op in place writes over."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        raise ValueError(
            "an input of an op in place requires a gradient: leave inplace out, or use torch.no_grad()"
        )


def rope_table(
    grid: tuple[int, int, int], streams: int, head_dim: int, theta: float, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary angles, float64 [l, k/2], as Wan forms them.

    A head of k numbers is split into k - 4(k//6) for frames, 2(k//6) for rows and 2(k//6) for columns.
    """
    t, h, w = grid
    part = 2 * (head_dim // 6)
    sizes = (head_dim - 2 * part, part, part)
    frames = torch.arange(t, device=device).view(1, t, 1, 1).expand(streams, t, h, w)
    rows = torch.arange(h, device=device).view(1, 1, h, 1).expand(streams, t, h, w)
    columns = torch.arange(streams * w, device=device).view(streams, 1, 1, w).expand(streams, t, h, w)
    angles = []
    for position, size in zip((frames, rows, columns), sizes, strict=True):
        exponent = torch.arange(0, size, 2, dtype=torch.float64, device=device) / size
        angles.append(position.reshape(-1, 1).double() * theta**-exponent)
    angle = torch.cat(angles, dim=1)
    return angle.cos(), angle.sin()


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


def quantize_rows(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of x [..., d] over a 448th of their largest number, rounded once to e4m3: values, scale, carrier.

    The carrier holds no memory (its strides are 0); it stands for x in `dtype` where a gradient is to reach x.
    """
    largest = x.detach().abs().amax(-1, keepdim=True).clamp_min(1e-12)
    values = (x.detach() * (E4M3_MAX / largest)).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)
    return values, (largest / E4M3_MAX).float(), _Carrier.apply(x, dtype)


def modulated_layernorm_fp8(
    x: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor]:
    """`modulated_layernorm` as e4m3 rows, quantised before it is rounded to any wide dtype."""
    return quantize_rows(modulated_layernorm(_wide(x), scale, shift, eps), x.dtype)


def gated_residual_layernorm_fp8(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`gated_residual_layernorm` with the second result as e4m3 rows: residual, values, scale, carrier."""
    residual = gated_residual(x, y, gate)
    return residual, *modulated_layernorm_fp8(residual, scale, shift, eps)


def gelu_fp8(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`gelu` as e4m3 rows."""
    return quantize_rows(gelu(_wide(x)), x.dtype)


def unequal_groups(op, rows: tuple, tables: tuple, offsets: Tensor, *rest) -> Tensor | tuple:
    """An op on groups of unequal length: rows [total, d] cut at offsets [g + 1], tables [g, d]."""
    parts, bounds = [], offsets.tolist()
    for group, (first, last) in enumerate(zip(bounds, bounds[1:], strict=False)):
        cut = [x[first:last].unsqueeze(0) for x in rows]
        parts.append(op(*cut, *(x[group : group + 1] for x in tables), *rest))
    if isinstance(parts[0], Tensor):
        return torch.cat([x.squeeze(0) for x in parts])
    return tuple(torch.cat([x.squeeze(0) for x in column]) for column in zip(*parts, strict=True))


def linear_fp8(
    x: Tensor | tuple, weight: Tensor, bias: Tensor | None, rows: bool = True, wide_gradient: bool = True
) -> Tensor:
    """x·weightᵀ + bias of x and weight as e4m3 over a largest number of 448, of each row or of the whole tensor.

    Values only: what the gradients round is said, and tested, at `kernels.linear_fp8`.
    """

    def rounded(tensor: Tensor) -> Tensor:
        largest = tensor.abs().amax(-1, keepdim=True) if rows else tensor.abs().amax()
        scale = largest.clamp_min(1e-12) / E4M3_MAX
        return (tensor / scale).clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn).to(tensor.dtype) * scale

    wide = x[0].float() * x[1] if isinstance(x, tuple) else rounded(_wide(x))
    dtype = x[2].dtype if isinstance(x, tuple) else x.dtype
    return F.linear(wide, rounded(_wide(weight)), None if bias is None else _wide(bias)).to(dtype)


class _Carrier(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dtype):
        ctx.dtype = x.dtype
        return x.new_empty_strided(x.shape, (0,) * x.ndim, dtype=dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype), None


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
