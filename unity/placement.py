"""Where the parts of a model lie while it answers, and what it leaves out: what `unity.thrift` asks for, done."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from unity.encoders import Encoders
from unity.model.card import ModelCard
from unity.model.codec import WAN, tile
from unity.model.dit import UnityDiT
from unity.thrift import Thrift


def home(thrift: Thrift, device: torch.device) -> torch.device:
    """Where weights are read to: main memory, if they are to wait there."""
    return device if thrift.offload == "none" else torch.device("cpu")


def needless(thrift: Thrift, card: ModelCard, device: torch.device) -> Iterator[str]:
    """What of it saves nothing with this model on this device, a sentence each."""
    if thrift.offload != "none" and device.type == "cpu":
        yield "all is in main memory here, without a GPU; --offload changes nothing"
    if thrift.tiled_vae and card.model.codec not in WAN:
        yield f"the codec {card.model.codec} of this checkpoint is no VAE; --tiled-vae changes nothing here"


def placed(model: UnityDiT, card: ModelCard, encoders: Encoders, thrift: Thrift) -> nn.Module:
    """The model as it is to answer on the encoders' device, and they, too; all of them lie at `home` before."""
    if thrift.tiled_vae:
        tile(encoders.codec)
    if not thrift.hooked:
        return model
    # diffusers, whose hooks these are, takes seconds to import
    from diffusers import TaylorSeerCacheConfig

    from unity.pipeline.model import UnityTransformer3DModel

    hooked = UnityTransformer3DModel.of(model, card)
    OFFLOADS[thrift.offload](hooked, encoders)
    if thrift.step_cache > 1:
        hooked.enable_cache(
            TaylorSeerCacheConfig(cache_interval=thrift.step_cache, taylor_factors_dtype=hooked.dtype)
        )
    return hooked


class Turns:
    """Modules of which one at a time has its weights on a device; the others' wait where they were read to."""

    def __init__(self, device: torch.device):
        self.device = device
        self._there: nn.Module | None = None
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, part: nn.Module) -> None:
        """From now on its turn comes whenever it, or one of its own modules, computes."""
        # a VAE is asked through these, not through its forward
        for module in (part, *part.children()):
            module.register_forward_pre_hook(lambda *given: self._take(part))

    def _take(self, part: nn.Module) -> None:
        if part is self._there:
            return
        # weights do not change: nothing is copied back
        for tensor, waiting in self._waiting:
            tensor.data = waiting
        self._waiting = [(tensor, tensor.data) for tensor in (*part.parameters(), *part.buffers())]
        for tensor, waiting in self._waiting:
            tensor.data = waiting.to(self.device, copy=True)
        self._there = part


def _take_turns(model: nn.Module, encoders: Encoders) -> None:
    turns = Turns(encoders.device)
    for part in (model, *encoders.modules):
        turns.add(part)


def _by_block(model: nn.Module, encoders: Encoders) -> None:
    from diffusers.hooks import apply_group_offloading

    # copies run beside the computing
    there = {"onload_device": encoders.device, "use_stream": encoders.device.type == "cuda"}
    apply_group_offloading(model, offload_type="block_level", num_blocks_per_group=1, **there)
    for part in encoders.modules:
        if part is getattr(encoders.codec, "vae", None):
            # small, and asked in pieces
            part.to(encoders.device)
        else:
            apply_group_offloading(part, offload_type="leaf_level", **there)


# rows of Thrift.offload
OFFLOADS: dict[str, Callable[[nn.Module, Encoders], None]] = {
    "none": lambda model, encoders: None,
    "parts": _take_turns,
    "blocks": _by_block,
}
