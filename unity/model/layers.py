"""The parts of a UnityDiT. Names and shapes of parameters follow Wan, so that its weights load as they are.

Letters: b batch, s streams, g = b·s groups, n heads, l and m tokens, d width.
Every initialisation happens inside the module that owns the parameter: ZeRO-3 partitions a module's
parameters as soon as its constructor returns, so a parent could no longer reach them.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from unity import ops
from unity.config import ModelConfig
from unity.ops import Quantized


class Linear(nn.Linear):
    """nn.Linear with its initialisation stated: Xavier by default, normal of `std`, or zero for `std=0`."""

    def __init__(self, d_in: int, d_out: int, std: float | None = None):
        self.std = std
        super().__init__(d_in, d_out)

    def reset_parameters(self):
        _initialise(self.weight, self.std)
        nn.init.zeros_(self.bias)


class Linear32(Linear):
    """A Linear computed in float32 whatever its parameters are stored in: time and modulation need it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.float(), self.weight.float(), self.bias.float())


class PatchEmbedding(nn.Module):
    """Latent patches to tokens; with `experts`, one projection per modality.

    The weight has the shape of Wan's Conv3d, `[d, c, *patch]` (`[m, d, c, *patch]` with experts). One stacked
    parameter serves all experts, so that every expert takes part in every step: under ZeRO-3 a parameter that
    a step leaves out would be updated again with its last gradient.
    """

    def __init__(self, config: ModelConfig, experts: int | None = None):
        super().__init__()
        self.patch = config.patch
        lead = () if experts is None else (experts,)
        self.weight = nn.Parameter(torch.empty(*lead, config.dim, config.latent_channels, *config.patch))
        self.bias = nn.Parameter(torch.zeros(*lead, config.dim))
        _initialise(self.weight, None, fan_in=config.latent_channels * math.prod(config.patch))

    def forward(
        self, latent: Float[Tensor, "b c t h w"], modality: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b l d"]:
        p, q, r = self.patch
        patches = rearrange(latent, "b c (t p) (h q) (w r) -> b (t h w) (c p q r)", p=p, q=q, r=r)
        patches = patches.to(self.weight.dtype)
        if modality is None:
            return F.linear(patches, self.weight.flatten(1), self.bias)
        return _expert_linear(patches, self.weight.flatten(2), self.bias, modality)


class SelfAttention(nn.Module):
    """Attention over the tokens of all streams, with full-width RMSNorm and 3-D rotary positions."""

    # whether its input should come as 8-bit rows (unity.model.fp8)
    takes_rows = False

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.q, self.k, self.v, self.o = (Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q, self.norm_k = (nn.RMSNorm(config.dim, eps=config.eps) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "b l d"] | Quantized, grid: tuple[int, int, int], wanted: tuple[bool, ...]
    ) -> Float[Tensor, "b m d"]:
        """Of l = streams·t·h·w tokens, in a grid (t, h, w), those of the wanted streams."""
        c, streams = self.config, len(wanted)
        q, k = ops.qk_norm_rope(
            self.q(x), self.k(x), self.norm_q.weight, self.norm_k.weight,
            grid, streams, c.num_heads, c.rope_theta, c.eps, inplace=not torch.is_grad_enabled(),
        )  # fmt: skip
        if not all(wanted):
            q = q.unflatten(1, (streams, -1))[:, wanted.index(True)]
        v = rearrange(self.v(x), "b l (n k) -> b l n k", n=c.num_heads)
        return self.o(rearrange(ops.self_attention(q, k, v), "b l n k -> b l (n k)"))


class CrossAttention(nn.Module):
    """Each group's tokens attend to that group's text: rgb to the caption, aux to the type prompt."""

    takes_rows = False

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.q, self.k, self.v, self.o = (Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q, self.norm_k = (nn.RMSNorm(config.dim, eps=config.eps) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "g l d"] | Quantized, text: Float[Tensor, "g m d"], bias: Float[Tensor, "g m"]
    ) -> Float[Tensor, "g l d"]:
        key = ops.rms_norm(self.k(text), self.norm_k.weight, self.norm_k.eps)
        q, k, v = (rearrange(p, "g l (n k) -> g l n k", n=self.num_heads) for p in (self.q(x), key, self.v(text)))
        attended = ops.dual_cross_attention(q, k, v, bias, self.norm_q.weight, self.norm_q.eps)
        return self.o(rearrange(attended, "g l n k -> g l (n k)"))


class FeedForward(nn.Sequential):
    """Linear, GELU (tanh), Linear: parameters `0` and `2`, as in Wan."""

    takes_rows = False

    def __init__(self, d_in: int, d_hidden: int, d_out: int, std: float | None = None):
        super().__init__(Linear(d_in, d_hidden, std), nn.Identity(), Linear(d_hidden, d_out, std))

    def forward(self, x: Float[Tensor, "g l d"] | Quantized) -> Float[Tensor, "g l e"]:
        return self[2](ops.gelu(self[0](x)))


class Modulation(nn.Module):
    """A learned table of shifts, scales and gates: one row set per modality, the last one for RGB."""

    def __init__(self, rows: int, parts: int, dim: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(rows, parts, dim))

    def forward(
        self, embedding: Float[Tensor, "b s e d"], row: Int[Tensor, "b s"]
    ) -> tuple[Float[Tensor, "g d"], ...]:
        """Table rows plus the time's share, in float32: per part one vector for each (sample, stream)."""
        return rearrange(embedding + self.table[row].float(), "b s p d -> p (b s) d").unbind(0)


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward, modulated per (sample, stream).

    A block receives the residual together with the last sublayer's output and gate, not yet added. Each
    boundary between two sublayers, also between two blocks, is then one pass over memory.
    """

    def __init__(self, config: ModelConfig, rows: int):
        super().__init__()
        self.eps, self.cross_modulation = config.eps, config.cross_modulation
        self.modulation = Modulation(rows, 9 if config.cross_modulation else 6, config.dim)
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.cross_attn_aux = CrossAttention(config) if config.cross_attention == "separate" else None
        self.ffn = FeedForward(config.dim, config.ffn_dim, config.dim)

    def forward(
        self,
        x: Float[Tensor, "g l d"],
        y: Float[Tensor, "g l d"] | None,
        gate: Float[Tensor, "g d"] | None,
        embedding: Float[Tensor, "b s e d"],
        row: Int[Tensor, "b s"],
        text: Float[Tensor, "g m d"],
        bias: Float[Tensor, "g m"],
        grid: tuple[int, int, int],
        wanted: tuple[bool, ...] | None = None,
    ) -> tuple[Float[Tensor, "k l d"], Float[Tensor, "k l d"], Float[Tensor, "k d"]]:
        """Residual, last sublayer's output and its gate, of the wanted streams alone (by default of all)."""
        s = row.shape[1]
        wanted = wanted or (True,) * s
        shift, scale, *rest = self.modulation(embedding, row)
        gate_self, shift_ffn, scale_ffn, gate_ffn, *cross = (pick(part, wanted) for part in rest)
        shift_cross, scale_cross, gate_cross = self._cross_modulation(cross, len(gate_self))

        x, h = add_and_norm(x, y, gate, scale, shift, self.eps, self.self_attn.takes_rows)
        y = self.self_attn(regroup(h, "(b s) l d -> b (s l) d", s=s), grid, wanted)
        x, text, bias = (pick(z, wanted) for z in (x, text, bias))
        y = rearrange(y, "b (s l) d -> (b s) l d", s=sum(wanted))
        x, h = add_and_norm(x, y, gate_self, scale_cross, shift_cross, self.eps, self.cross_attn.takes_rows)
        y = self._attend_text(h, text, bias, sum(wanted))
        x, h = add_and_norm(x, y, gate_cross, scale_ffn, shift_ffn, self.eps, self.ffn.takes_rows)
        return x, self.ffn(h), gate_ffn

    def _cross_modulation(self, cross: list[Tensor], groups: int) -> tuple[Tensor, Tensor, Tensor]:
        """norm3's weight and bias written as a modulation, with the learned one on top if there is one.

        The learned part is stored so that zero is the identity: shift 0, scale 0, gate 1 + 0.
        """
        weight, bias = (p.float().expand(groups, -1) for p in (self.norm3.weight, self.norm3.bias))
        if not self.cross_modulation:
            return bias, weight - 1, torch.ones_like(weight)
        shift, scale, gate = cross
        return bias * (1 + scale) + shift, weight * (1 + scale) - 1, 1 + gate

    def _attend_text(self, h: Tensor | Quantized, text: Tensor, bias: Tensor, streams: int) -> Tensor:
        if self.cross_attn_aux is None or streams == 1:
            return self.cross_attn(h, text, bias)
        rgb, aux = zip(*(_streams(z) for z in (h, text, bias)), strict=True)
        return rearrange([self.cross_attn(*rgb), self.cross_attn_aux(*aux)], "s b l d -> (b s) l d")


class Head(nn.Module):
    """Tokens to patches of velocity, starting at zero; with `experts`, one projection per modality."""

    def __init__(self, config: ModelConfig, experts: int | None = None):
        super().__init__()
        lead = () if experts is None else (experts,)
        self.modulation = Modulation(experts or 1, 2, config.dim)
        self.weight = nn.Parameter(
            torch.zeros(*lead, config.latent_channels * math.prod(config.patch), config.dim)
        )
        self.bias = nn.Parameter(torch.zeros(*lead, self.weight.shape[-2]))

    def forward(self, x: Float[Tensor, "b l d"], modality: Int[Tensor, " b"] | None) -> Float[Tensor, "b l e"]:
        if modality is None:
            return F.linear(x, self.weight, self.bias)
        return _expert_linear(x, self.weight, self.bias, modality)


def add_and_norm(
    x: Tensor, y: Tensor | None, gate: Tensor | None, scale: Tensor, shift: Tensor, eps: float, rows: bool = False
) -> tuple[Tensor, Tensor | Quantized]:
    """The residual with the pending sublayer added, and the next sublayer's normalised, modulated input.

    `rows`: that input as 8-bit rows.
    """
    if y is None:
        norm = ops.modulated_layernorm_fp8 if rows else ops.modulated_layernorm
        return x, norm(x, scale, shift, eps)
    both = ops.gated_residual_layernorm_fp8 if rows else ops.gated_residual_layernorm
    return both(x, y, gate, scale, shift, eps)


def regroup(h: Tensor | Quantized, pattern: str, **sizes: int) -> Tensor | Quantized:
    """einops' rearrange, also of 8-bit rows, their scales and their carrier."""
    if isinstance(h, Quantized):
        return Quantized(*(rearrange(part, pattern, **sizes) for part in h))
    return rearrange(h, pattern, **sizes)


def pick(x: Float[Tensor, "g ..."], wanted: tuple[bool, ...]) -> Float[Tensor, "k ..."]:
    """The groups of the wanted streams, as a view: all of them, or those of one stream."""
    return x if all(wanted) else x.unflatten(0, (-1, len(wanted)))[:, wanted.index(True)]


def time_features(time: Float[Tensor, "b s"], dim: int) -> Float[Tensor, "b s dim"]:
    """Sinusoids of 1000·time, cosines first, formed in float64 (as Wan)."""
    half = dim // 2
    frequency = 1e4 ** (-torch.arange(half, dtype=torch.float64, device=time.device) / half)
    angle = 1000 * time.double().unsqueeze(-1) * frequency
    return torch.cat((angle.cos(), angle.sin()), dim=-1).float()


def _streams(h: Tensor | Quantized) -> list[Tensor | Quantized]:
    """The groups of rgb and those of aux, as views."""
    if isinstance(h, Quantized):
        return [Quantized(*parts) for parts in zip(*(_streams(part) for part in h), strict=True)]
    return list(h.unflatten(0, (-1, 2)).unbind(1))


def _expert_linear(x: Tensor, weight: Tensor, bias: Tensor, expert: Tensor) -> Tensor:
    """Each sample through its own expert: x [b, l, i], weight [m, o, i], bias [m, o], expert [b]."""
    return torch.baddbmm(bias[expert].unsqueeze(1), x, weight[expert].transpose(1, 2))


def _initialise(weight: Tensor, std: float | None, fan_in: int | None = None) -> None:
    if std == 0:
        nn.init.zeros_(weight)
    elif std is not None:
        nn.init.normal_(weight, std=std)
    elif fan_in is not None:
        nn.init.uniform_(weight, -(fan_in**-0.5), fan_in**-0.5)
    else:
        nn.init.xavier_uniform_(weight)
