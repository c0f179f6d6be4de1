"""One differentiable op behind two doors, built from one forward and one backward function.

Under torch.compile the op is a `torch.library` custom op: one node, no graph break. In eager mode that boundary
costs tens of microseconds a call, so the same functions run directly, as an autograd.Function.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch


class Op(NamedTuple):
    """A function on tensors and the same function as a node `torch.ops.unity.<name>` of a traced graph."""

    direct: Callable
    traced: Callable
    definition: Any


def library_op(name: str, function: Callable, fake: Callable) -> Op:
    """Register `unity::<name>`: an annotated function to new tensors, and the same on shapes alone."""
    definition = torch.library.custom_op(f"unity::{name}", function, mutates_args=())
    definition.register_fake(fake)
    return Op(function, getattr(torch.ops.unity, name).default, definition)


def differentiable(forward: Op, backward: Op, setup: Callable, gradients: Callable) -> Callable:
    """Tie a backward op to a forward op; returns the call that picks the door.

    `setup(ctx, inputs, output)` saves for the backward; `gradients(run, ctx, *grads)` returns one gradient per
    input and reaches the backward op through `run`.
    """
    forward.definition.register_autograd(partial(gradients, backward.traced), setup_context=setup)

    def forward_and_setup(ctx, *inputs):
        # a separate setup_context would have torch inspect the signature in every call: 30 microseconds
        output = forward.direct(*inputs)
        setup(ctx, inputs, output)
        return output

    methods = {"forward": forward_and_setup, "backward": partial(gradients, backward.direct)}
    function = type("Direct", (torch.autograd.Function,), {k: staticmethod(f) for k, f in methods.items()})

    def call(*inputs):
        if torch.compiler.is_compiling():
            return forward.traced(*inputs)
        if torch.is_grad_enabled() and any(isinstance(x, torch.Tensor) and x.requires_grad for x in inputs):
            return function.apply(*inputs)
        return forward.direct(*inputs)

    return call
