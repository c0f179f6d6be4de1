"""A block of the transformer as several write it: the same function of the same parameters, for `block_bench`."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor

from unity import ops
from unity.config import MODELS, ModelConfig
from unity.model.fp8 import Fp8Config, convert
from unity.model.layers import Block
from unity.model.layout import Conditioning, Layout, Pending

# Tokens of a sample → grid of one stream. 1152: the authors' release, 33 frames of 256×256; 65520: the paper.
GRIDS = {288: (2, 12, 6), 1152: (9, 8, 8), 37440: (12, 30, 52), 65520: (21, 30, 52)}
WORDS, PADDED = 64, 512
GRAPH = "unity, CUDA graph"

Forward = Callable[..., Tensor]


@dataclass(frozen=True)
class Case:
    """A width of the model at a number of tokens, and the tensors of one step."""

    name: str
    config: ModelConfig
    grid: tuple[int, int, int]
    block: Block
    inputs: tuple[Tensor, ...]
    slope: Tensor

    @property
    def tokens(self) -> int:
        return 2 * self.grid[0] * self.grid[1] * self.grid[2]


def make_case(name: str, tokens: int, device: str, dtype: torch.dtype) -> Case:
    """Random weights and inputs: residual and pending sublayer [2, l, d], its gate, time embedding and text."""
    torch.manual_seed(0)
    config = MODELS[name]
    block = Block(config, ids=2).to(device, dtype)
    with torch.no_grad():
        block.modulation.table.normal_(std=0.2)
    x, y, slope = (torch.randn(2, tokens // 2, config.dim, device=device).to(dtype) for _ in range(3))
    gate, embedding = (0.2 * torch.randn(*s, config.dim, device=device) for s in ((2,), (1, 2, 6)))
    text = torch.randn(2, WORDS + 1, config.dim, device=device).to(dtype)
    inputs = (x.requires_grad_(), y.requires_grad_(), gate, embedding, text.requires_grad_())
    return Case(name, config, GRIDS[tokens], block, inputs, slope)


def ours(case: Case, block: Block) -> Forward:
    """Our block as the function of the comparison: the last sublayer is added, which the next block would do."""
    device = case.slope.device
    stream_id = torch.tensor([[0, 1]], device=device)
    bias = torch.zeros(2, WORDS + 1, device=device)
    bias[:, -1] = torch.tensor(float(PADDED - WORDS)).log()

    def forward(x, y, gate, embedding, text):
        given = Conditioning(embedding, stream_id, text, bias)
        return ops.gated_residual(*block(Pending(x, y, gate), given, Layout(case.grid)))

    return forward


@contextlib.contextmanager
def only(rows: dict[str, tuple[ops.Implementation, ...]]) -> Iterator[None]:
    """These rows in the place of the table's."""
    before = dict(ops.IMPLEMENTATIONS)
    ops.IMPLEMENTATIONS.update(rows)
    try:
        yield
    finally:
        ops.IMPLEMENTATIONS.update(before)


def only_torch() -> contextlib.ContextDecorator:
    """The ops as a user would write them: plain torch, one after the other."""
    return only(dict.fromkeys(ops.IMPLEMENTATIONS, ()))


def only_attention(name: str) -> contextlib.ContextDecorator:
    """Self-attention by one back end, which fails where it cannot."""
    (backend,) = (row for row in ops.IMPLEMENTATIONS["self_attention"] if row.name == name)
    return only({"self_attention": (backend._replace(refusal=lambda *_: None),)})


def plain(case: Case) -> Forward:
    return only_torch()(ours(case, case.block))


def eight_bits(case: Case) -> Forward:
    """Our block with 8-bit Linears, on the same weights."""
    model = torch.nn.Module()
    block = Block(case.config, ids=2).to(case.slope.device, case.slope.dtype)
    block.load_state_dict(dict(case.block.named_parameters()), assign=True)
    model.blocks = torch.nn.ModuleList([block])
    convert(model, Fp8Config())
    return ours(case, block)


def diffusers_block(case: Case) -> Forward:
    """diffusers' WanTransformerBlock with our weights, its sublayers applied per stream where ours are."""
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock

    config, tensor = case.config, case.slope
    block = WanTransformerBlock(config.dim, config.ffn_dim, config.num_heads, cross_attn_norm=True, eps=config.eps)
    block = block.to(tensor.device, tensor.dtype)
    state = {_theirs(name): p for name, p in case.block.named_parameters() if "modulation" not in name}
    missing, unexpected = block.load_state_dict(state, strict=False, assign=True)
    assert not unexpected and missing == ["scale_shift_table"], (missing, unexpected)
    table = case.block.modulation.table
    rotary = ops.Rotary(case.grid, 2, config.num_heads, config.rope_theta)
    cos, sin = rotary.angles(config.head_dim, tensor.device)
    turns = tuple(repeat(angle.float(), "l k -> 1 l 1 (k 2)") for angle in (cos, sin))

    def forward(x, y, gate, embedding, text):
        x = (x.float() + gate.unsqueeze(1) * y).type_as(x)
        modulation = (embedding.squeeze(0) + table.float()).chunk(6, dim=1)
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = modulation
        # the padding of a text is one key here, and PADDED - WORDS equal ones there
        text = torch.cat((text[:, :WORDS], text[:, WORDS:].expand(-1, PADDED - WORDS, -1)), 1)
        h = (block.norm1(x.float()) * (1 + scale) + shift).type_as(x)
        h = block.attn1(rearrange(h, "s l d -> 1 (s l) d"), None, None, turns)
        x = (x.float() + rearrange(h, "1 (s l) d -> s l d", s=2) * gate).type_as(x)
        x = x + block.attn2(block.norm2(x.float()).type_as(x), text, None, None)
        h = (block.norm3(x.float()) * (1 + scale_ffn) + shift_ffn).type_as(x)
        return (x.float() + block.ffn(h).float() * gate_ffn).type_as(x)

    return forward


def _theirs(name: str) -> str:
    table = {"self_attn": "attn1", "cross_attn": "attn2", "norm3": "norm2", "ffn.0": "ffn.net.0.proj"}
    table |= {"ffn.2": "ffn.net.2", ".q.": ".to_q.", ".k.": ".to_k.", ".v.": ".to_v.", ".o.": ".to_out.0."}
    for ours_, theirs in table.items():
        name = name.replace(ours_, theirs)
    return name


class Whole(torch.nn.Module):
    """The function of the comparison as a module: a capture looks for parameters in modules alone."""

    def __init__(self, case: Case):
        super().__init__()
        self.block = case.block
        self.function = ours(case, case.block)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(*inputs)


def graphed(case: Case) -> Forward:
    """Our block as two CUDA graphs, forward and backward, which are replayed: no launch waits for Python."""
    if case.slope.device.type != "cuda":
        raise ValueError("CUDA graphs need a CUDA GPU")
    return torch.cuda.make_graphed_callables(Whole(case), case.inputs)


def compiled(make: Callable[[Case], Forward]) -> Callable[[Case], Forward]:
    return lambda case: torch.compile(make(case), dynamic=False)


CONTESTANTS: dict[str, Callable[[Case], Forward]] = {
    "unity": lambda case: ours(case, case.block),
    "unity fp8": eight_bits,
    "torch eager": plain,
    "diffusers eager": diffusers_block,
    "diffusers compiled": compiled(diffusers_block),
    GRAPH: graphed,
}
