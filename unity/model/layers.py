"""The parts of a UnityDiT. Names and shapes of parameters follow Wan, so that its weights load as they are.

Letters: b batch, s streams, g = b·s groups, n heads, l and m tokens, d width, i ids of streams.
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
from unity.model.layout import Conditioning, Layout, Pending
from unity.ops import Quantized


def rows(table: Float[Tensor, "i *row"], ids: Int[Tensor, "*any"]) -> Tensor:
    """table[ids], whose gradients add up in one order; those of indexing do as a CPU's threads come by."""
    return F.embedding(ids, table.flatten(1)).unflatten(-1, table.shape[1:])


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

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.float(), self.weight.float(), self.bias.float())


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
        self, latent: Float[Tensor, "b c t h w"], layout: Layout, modality: Int[Tensor, " b"] | None = None
    ) -> Float[Tensor, "b l d"]:
        """The tokens of the layout's slice."""
        p, q, r = self.patch
        patches = rearrange(latent, "b c (t p) (h q) (w r) -> b (t h w) (c p q r)", p=p, q=q, r=r)
        patches = layout.cut(patches).to(self.weight.dtype)
        if modality is None:
            return F.linear(patches, self.weight.flatten(1), self.bias)
        return _expert_linear(patches, self.weight.flatten(2), self.bias, modality)


class SelfAttention(nn.Module):
    """Attention over the tokens of all streams, with full-width RMSNorm and 3-D rotary positions.

    Where the layout is a slice of them, the keys and values of the others come from its peers.
    """

    # whether its input should come in 8 bits (unity.model.fp8)
    reads_eight_bits = False

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.q, self.k, self.v, self.o = (Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q, self.norm_k = (nn.RMSNorm(config.dim, eps=config.eps) for _ in range(2))

    def forward(self, x: Float[Tensor, "b l d"] | Quantized, layout: Layout) -> Float[Tensor, "b m d"]:
        """Of l = streams·tokens of the layout, those of the wanted streams."""
        c = self.config
        norms, rotary = (self.norm_q.weight, self.norm_k.weight), layout.rotary(c)
        q, k = ops.qk_norm_rope(self.q(x), self.k(x), *norms, rotary, c.eps, inplace=not torch.is_grad_enabled())
        v = rearrange(self.v(x), "b l (n k) -> b l n k", n=c.num_heads)
        attend = ops.self_attention if layout.peers is None else layout.peers.attend
        attended = attend(layout.pick_tokens(q), k, v)
        return self.o(rearrange(attended, "b l n k -> b l (n k)"))


class CrossAttention(nn.Module):
    """Each group's tokens attend to that group's text: rgb to the caption, aux to the type prompt."""

    reads_eight_bits = False

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_heads, self.eps = config.num_heads, config.eps
        self.q, self.k, self.v, self.o = (Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q, self.norm_k = (nn.RMSNorm(config.dim, eps=config.eps) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "g l d"] | Quantized, text: Float[Tensor, "g m d"], bias: Float[Tensor, "g m"]
    ) -> Float[Tensor, "g l d"]:
        key = ops.rms_norm(self.k(text), self.norm_k.weight, self.eps)
        q, k, v = (rearrange(p, "g l (n k) -> g l n k", n=self.num_heads) for p in (self.q(x), key, self.v(text)))
        attended = ops.dual_cross_attention(q, k, v, bias, self.norm_q.weight, self.eps)
        return self.o(rearrange(attended, "g l n k -> g l (n k)"))


class FeedForward(nn.Sequential):
    """Linear, GELU (tanh), Linear: parameters `0` and `2`, as in Wan."""

    reads_eight_bits = False

    def __init__(self, d_in: int, d_hidden: int, d_out: int, std: float | None = None):
        super().__init__(Linear(d_in, d_hidden, std), nn.Identity(), Linear(d_hidden, d_out, std))

    def __getitem__(self, index: int | slice):  # pyright: ignore[reportIncompatibleMethodOverride]
        """A slice is of modules, not sizes: hooks of diffusers take it block by block."""
        return nn.Sequential(*list(self)[index]) if isinstance(index, slice) else super().__getitem__(index)

    def forward(self, input: Float[Tensor, "g l d"] | Quantized) -> Float[Tensor, "g l e"]:
        return self[2](ops.gelu(self[0](input)))


class Modulation(nn.Module):
    """A learned table of shifts, scales and gates: an entry per modality, the last one for RGB."""

    def __init__(self, ids: int, parts: int, dim: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(ids, parts, dim))

    def forward(
        self, embedding: Float[Tensor, "b s e d"], stream_id: Int[Tensor, "b s"]
    ) -> tuple[Float[Tensor, "g d"], ...]:
        """The table plus the time's share, in float32: per part one vector for each (sample, stream)."""
        return rearrange(embedding + rows(self.table, stream_id).float(), "b s p d -> p (b s) d").unbind(0)


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward, modulated per (sample, stream) of `ids` kinds."""

    def __init__(self, config: ModelConfig, ids: int):
        super().__init__()
        self.eps, self.cross_modulation = config.eps, config.cross_modulation
        self.modulation = Modulation(ids, 9 if config.cross_modulation else 6, config.dim)
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.cross_attn_aux = CrossAttention(config) if config.cross_attention == "separate" else None
        self.ffn = FeedForward(config.dim, config.ffn_dim, config.dim)

    def forward(self, pending: Pending, given: Conditioning, layout: Layout) -> Pending:
        """The residual of the wanted streams, with the feed-forward still to be added."""
        shift, scale, *rest = self.modulation(given.modulation, given.stream_id)
        gate_self, shift_ffn, scale_ffn, gate_ffn, *cross = map(layout.pick, rest)
        shift_cross, scale_cross, gate_cross = self._cross_modulation(cross, len(gate_self))

        x, h = add_and_norm(pending, scale, shift, self.eps, self.self_attn.reads_eight_bits)
        pending = Pending(layout.pick(x), layout.groups(self.self_attn(layout.samples(h), layout)), gate_self)
        x, h = add_and_norm(pending, scale_cross, shift_cross, self.eps, self.cross_attn.reads_eight_bits)
        pending = Pending(x, self._attend_text(h, given, layout), gate_cross)
        x, h = add_and_norm(pending, scale_ffn, shift_ffn, self.eps, self.ffn.reads_eight_bits)
        # here a forward without gradients takes most
        del pending
        return Pending(x, self.ffn(h), gate_ffn)

    def _cross_modulation(self, cross: list[Tensor], groups: int) -> tuple[Tensor, Tensor, Tensor]:
        """norm3's weight and bias written as a modulation, with the learned one on top if there is one.

        The learned part is stored so that zero is the identity: shift 0, scale 0, gate 1 + 0.
        """
        weight, bias = (p.float().expand(groups, -1) for p in (self.norm3.weight, self.norm3.bias))
        if not self.cross_modulation:
            return bias, weight - 1, torch.ones_like(weight)
        shift, scale, gate = cross
        return bias * (1 + scale) + shift, weight * (1 + scale) - 1, 1 + gate

    def _attend_text(self, h: Tensor | Quantized, given: Conditioning, layout: Layout) -> Tensor:
        text, bias = layout.pick(given.text), layout.pick(given.bias)
        if self.cross_attn_aux is None or sum(layout.wanted) == 1:
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
    pending: Pending,
    scale: Float[Tensor, "g d"],
    shift: Float[Tensor, "g d"],
    eps: float,
    eight_bits: bool = False,
) -> tuple[Float[Tensor, "g l d"], Float[Tensor, "g l d"] | Quantized]:
    """The residual with the pending sublayer added, and the next sublayer's normalised, modulated input."""
    x, y, gate = pending
    if y is None or gate is None:
        norm = ops.modulated_layernorm_fp8 if eight_bits else ops.modulated_layernorm
        return x, norm(x, scale, shift, eps)
    both = ops.gated_residual_layernorm_fp8 if eight_bits else ops.gated_residual_layernorm
    return both(x, y, gate, scale, shift, eps)


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
    if weight.is_meta:
        # to draw nothing, torch would import its compiler
        return
    if std == 0:
        nn.init.zeros_(weight)
    elif std is not None:
        nn.init.normal_(weight, std=std)
    elif fan_in is not None:
        nn.init.uniform_(weight, -(fan_in**-0.5), fan_in**-0.5)
    else:
        nn.init.xavier_uniform_(weight)
