"""What the blocks compute again in the backward instead of keeping it; gradients are the same bits.

To keep the outputs of self-attention and recompute what is around it, torch has contexts
(`create_selective_checkpoint_contexts`) that want the recomputation to call the same ops in the same order. Under
ZeRO-3 it does not: the backward gathers weights at other moments. The modes here look at attention alone; where
torch.compile traces, and nothing is gathered, torch's own serve.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from unity.config import RECOMPUTE
from unity.model.layout import Conditioning, Layout, Pending

# forward ops of the back ends of unity.attention
OPS = {
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "flash_attn::_flash_attn_forward",
    "flash_attn_3::_flash_attn_forward",
    "flash_attn_3::fwd",
    "unity::flash_attention_4",
}


def recompute(model: nn.Module, name: str) -> None:
    """Let the blocks of a UnityDiT, or of what benchmarks measure of one, follow a row of RECOMPUTE, in place.

    Between forward and backward a chosen block keeps its inputs, and what the row keeps. Without gradients nothing
    changes. `torch.compile` belongs around the block, or the model, not inside.
    """
    row = RECOMPUTE[name]
    for index, block in enumerate(model.blocks):  # pyright: ignore[reportArgumentType]
        if row.chooses(index):
            block.forward = partial(_checkpointed, block.forward, row.keeps_attention)


def _checkpointed(
    forward: Callable, keeps_attention: bool, pending: Pending, given: Conditioning, layout: Layout
) -> Pending:
    if not torch.is_grad_enabled():
        return forward(pending, given, layout)
    parts = len(pending)

    # tensors one by one: those checkpoint saves as any op does, and others it holds out of autograd's sight
    def run(*tensors: Any) -> Pending:
        return forward(Pending(*tensors[:parts]), Conditioning(*tensors[parts:]), layout)

    # no block draws random numbers
    again = partial(checkpoint, run, *pending, *given, use_reentrant=False, preserve_rng_state=False)
    if not keeps_attention:
        return again()
    if torch.compiler.is_compiling():
        return again(context_fn=_traced)
    shelf = _Shelf()
    out = again(context_fn=lambda: (_Put(shelf), _Take(shelf)))
    return Pending(*shelf.hold(*out))


def is_self_attention(op: Any, args: tuple, kwargs: dict) -> bool:
    """Whether an op is one of OPS on queries, keys and values alone: cross-attention, cheap, has a bias too."""
    tensors = sum(isinstance(x, Tensor) for x in (*args, *kwargs.values()))
    return tensors == 3 and op.name() in OPS


class _Shelf:
    """Outputs of a block's attention, in the order of the calls.

    Between forward and backward they lie with autograd, like all that is saved: hooks on saved tensors see them.
    """

    def __init__(self):
        self.outputs: list = []

    def hold(self, *results: Tensor) -> tuple[Tensor, ...]:
        """The block's results; whatever comes back through them puts the outputs on the shelf again first."""
        leaves, self.spec = tree_flatten(self.outputs)
        self.leaves = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        self.places = [place for place, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        self.outputs = []
        return _Hold.apply(self, len(results), *results, *(leaves[place] for place in self.places))

    def refill(self, tensors: tuple[Tensor, ...]) -> None:
        leaves = list(self.leaves)
        for place, tensor in zip(self.places, tensors, strict=True):
            leaves[place] = tensor.detach()
        self.outputs = tree_unflatten(leaves, self.spec)


class _Hold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, shelf: _Shelf, count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.shelf, ctx.kept = shelf, len(tensors) - count
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[count:])
        return tensors[:count]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple:
        ctx.shelf.refill(ctx.saved_tensors)
        return None, None, *gradients, *(None,) * ctx.kept


class _Put(TorchDispatchMode):
    """In the forward: attention's outputs go on the shelf, too."""

    def __init__(self, shelf: _Shelf):
        super().__init__()
        self.shelf = shelf

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if is_self_attention(func, args, kwargs or {}):
            self.shelf.outputs.append(tree_map_only(Tensor, Tensor.detach, out))
        return out


class _Take(_Put):
    """In the recomputation: from the shelf, as long as there are any."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if self.shelf.outputs and is_self_attention(func, args, kwargs or {}):
            return self.shelf.outputs.pop(0)
        return func(*args, **(kwargs or {}))


def _traced() -> tuple:
    def policy(_context: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
        kept = is_self_attention(op, args, kwargs)
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)
