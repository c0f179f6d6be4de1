"""A converted model under ZeRO-3 on two ranks, checked against the same model alone; prints one line a rank."""

import copy

import torch

from unity.config import ModelConfig
from unity.model.fp8 import Fp8Config, Fp8Linear, convert
from unity.model.layers import Block
from unity.model.layout import Conditioning, Layout, Pending
from unity.train.world import start_world, stop_world

SHAPE = ModelConfig(dim=64, ffn_dim=128, num_heads=2, num_layers=2, latent_channels=16)
SETTINGS = {
    "train_batch_size": 2,
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {
        "stage": 3,
        "stage3_param_persistence_threshold": 0,
        "stage3_max_reuse_distance": 0,
        "stage3_max_live_parameters": 0,
    },
    # linear in the gradient: AdamW's first step is its sign, which rounding decides where it is almost zero
    "zero_allow_untested_optimizer": True,
    # left out, it is 1
    "gradient_clipping": 1e9,
    "steps_per_print": 10**9,
}


class Blocks(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = torch.nn.ModuleList(Block(SHAPE, 1) for _ in range(SHAPE.num_layers))

    def forward(self, x, embedding, text):
        given = Conditioning(embedding, torch.zeros(1, 2, dtype=torch.long), text, torch.zeros(2, 3))
        pending = Pending(x)
        for block in self.blocks:
            pending = block(pending, given, Layout((1, 2, 4)))
        x, y, gate = pending
        return (x + gate.unsqueeze(1) * y).square().mean()


def inputs(rank: int):
    g = torch.Generator().manual_seed(rank)
    d = SHAPE.dim
    return (
        torch.randn(2, 8, d, generator=g),
        torch.randn(1, 2, 6, d, generator=g),
        torch.randn(2, 3, d, generator=g),
    )


def alone(model, size: int) -> tuple[list[float], dict]:
    """Losses of all ranks at every step, and final weights, in one process."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    losses = []
    for _ in range(3):
        every = [model(*inputs(rank)) for rank in range(size)]
        (sum(every) / size).backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append([loss.item() for loss in every])
    return losses, dict(model.named_parameters())


def main() -> None:
    world = start_world()
    rank, size = world.rank, world.size
    import deepspeed

    torch.manual_seed(0)
    model = Blocks()
    convert(model, Fp8Config())
    truth, weights = alone(copy.deepcopy(model), size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=SETTINGS)
    layer = engine.module.blocks[0].ffn[0]
    assert isinstance(layer, Fp8Linear) and layer.weight.numel() == 0, "the weight is not cut up"
    for step in range(3):
        loss = engine(*inputs(rank))
        assert layer.weight.numel() == 0, "the weight stays whole between forward and backward"
        engine.backward(loss)
        engine.step()
        torch.testing.assert_close(loss.item(), truth[step][rank], atol=1e-5, rtol=1e-4)
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters(parameter):
            torch.testing.assert_close(parameter.data, weights[name].data, atol=2e-4, rtol=1e-3)
    print(f"rank {rank} of {size} agrees", flush=True)
    stop_world()


if __name__ == "__main__":
    main()
