"""Self-attention by whatever computes it best here: FlashAttention 4 or 3, cuDNN, FlashAttention 2, torch.

One convention for all: queries [b, m, n, k], keys and values [b, l, n, k]. All of them are read and written as
they lie: no back end gets a transposed copy.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from unity import flash4


class Backend(NamedTuple):
    """A way to attend. `refusal` takes the arguments of `run` and says why it cannot take them, or None."""

    name: str
    refusal: Callable[..., str | None]
    run: Callable[..., Tensor]


# sizes of heads, steps as their multiples
_HEADS = range(8, 257, 8)
_CUDNN_HEADS = range(8, 129, 8)
# 4.0.0b36 was right on an H100 at 32, 64, 96 and 128, and wrong without a word at 16 and 80
_FLASH_4_HEADS = range(32, 129, 32)
# of queries: below, what their kernels save (0.1 ms of an H100) is less than the time their Python takes
_FLASH_FEWEST = 4096


class _Library(NamedTuple):
    """A package, what it is for (GPUs by major version), and what calls it where not its flash_attn_func."""

    module: str
    least: int
    most: int
    fewest: int = 1
    heads: range = _HEADS
    run: Callable[..., Tensor] | None = None


_LIBRARIES = {
    "flash-attention 4": _Library("flash_attn.cute", 9, 10, _FLASH_FEWEST, _FLASH_4_HEADS, flash4.attend),
    "flash-attention 3": _Library("flash_attn_interface", 9, 9, _FLASH_FEWEST),
    "flash-attention 2": _Library("flash_attn", 8, 12),
}


def _refuse_gpu(q: Tensor, least: int, most: int, heads: range) -> str | None:
    if not q.is_cuda:
        return f"tensors are on {q.device.type}, not on a CUDA GPU"
    if q.dtype not in (torch.bfloat16, torch.float16):
        return f"dtype {q.dtype} is neither bfloat16 nor float16"
    if q.shape[-1] not in heads:
        return f"head size {q.shape[-1]} is not a multiple of {heads.step} up to {heads[-1]}"
    major, minor = torch.cuda.get_device_capability(q.device)
    return None if least <= major <= most else f"the GPU has compute capability {major}.{minor}"


# not functools.cache, which torch.compile warns of
_FOUND: dict[str, bool] = {}


def _absent(module: str) -> str | None:
    """Why a package cannot be imported, or None. The parent is looked for first: find_spec would import it."""
    if module not in _FOUND:
        parent = module.partition(".")[0]
        _FOUND[module] = (
            importlib.util.find_spec(parent) is not None and importlib.util.find_spec(module) is not None
        )
    return None if _FOUND[module] else f"{module} is not installed"


def _library(name: str) -> Backend:
    module, least, most, fewest, heads, own_run = _LIBRARIES[name]

    def refusal(q: Tensor, k: Tensor, v: Tensor) -> str | None:
        few = f"{q.shape[1]} tokens are fewer than {fewest:,}" if q.shape[1] < fewest else None
        return _refuse_gpu(q, least, most, heads) or _absent(module) or few

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        package = importlib.import_module(module)
        options = {"deterministic": True} if torch.are_deterministic_algorithms_enabled() else {}
        out = package.flash_attn_func(q, k, v, **options)
        # versions differ in whether they return the log-sum-exp too
        return out[0] if isinstance(out, tuple) else out

    return Backend(name, refusal, own_run or run)


def _refuse_cudnn(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    return _refuse_gpu(q, 9, 12, _CUDNN_HEADS)


def _run_cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        return _run_torch(q, k, v)


def _run_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


# tokens between which two products in bfloat16 beat torch's own kernel on a CPU, forward and backward
_PRODUCTS = range(64, 2049)


def _refuse_products(q: Tensor, k: Tensor, v: Tensor) -> str | None:
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return f"{q.dtype} on {q.device.type}, not bfloat16 on a CPU"
    return None if q.shape[1] in _PRODUCTS else f"{q.shape[1]} tokens are not {_PRODUCTS[0]} to {_PRODUCTS[-1]}"


def _run_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    weights = torch.softmax((q * q.shape[-1] ** -0.5) @ k.mT, dim=-1)
    return (weights @ v).transpose(1, 2).contiguous()


def cross_attention(
    q: Float[Tensor, "g l n k"],
    key: Float[Tensor, "g m n k"],
    value: Float[Tensor, "g m n k"],
    bias: Float[Tensor, "g m"],
) -> Float[Tensor, "g l n k"]:
    """torch's attention with a float32 bias on the logits.

    In 16 bits torch takes a bias of 16 bits only, which would miss log(count) by up to 2%. The last key, the one
    that stands for many, is therefore given twice, with a rounded part of the count and with the rest.
    """
    if q.dtype in (torch.bfloat16, torch.float16):
        key, value = (torch.cat((x, x[:, -1:]), 1) for x in (key, value))
        last = bias[:, -1:]
        most = (last * (1 - torch.finfo(q.dtype).eps)).to(q.dtype).float()
        rest = torch.where(last > most, most + torch.expm1(last - most).log(), -torch.inf)
        bias = torch.cat((bias[:, :-1], most, rest), 1)
    mask = bias.to(q.dtype)[:, None, None, :].expand(-1, 1, q.shape[1], -1)
    heads_first = (x.transpose(1, 2) for x in (q, key, value))
    return F.scaled_dot_product_attention(*heads_first, attn_mask=mask).transpose(1, 2)


# best first: by the first three, an H100 takes 1,063, 1,081 and 1,208 ms for a step of two layers of 10b
BACKENDS = (
    _library("flash-attention 4"),
    _library("flash-attention 3"),
    Backend("cudnn", _refuse_cudnn, _run_cudnn),
    _library("flash-attention 2"),
    Backend("products", _refuse_products, _run_products),
    Backend("torch", lambda *_: None, _run_torch),
)
