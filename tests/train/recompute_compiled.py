"""Compiled blocks under every kind of recomputation: the eager gradients, and less kept where less should be."""

from dataclasses import replace

import torch

from unity.config import MODELS
from unity.model.dit import UnityDiT
from unity.train.recompute import recompute

SHAPE = replace(MODELS["debug"], num_layers=1, stem=0, patch=(1, 2, 2), latent_channels=8)


def run(model: UnityDiT, arguments: tuple) -> tuple[list[torch.Tensor], int]:
    """Loss and gradients, and the bytes that autograd keeps between the directions."""
    kept = {}

    def note(x):
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes(), x
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
        loss = sum(stream.square().mean() for stream in model(*arguments))
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))], sum(n for n, _ in kept.values())


def main() -> None:
    torch.manual_seed(0)
    rgb, aux = torch.randn(2, 2, 8, 2, 8, 8)
    caption, prompt = torch.randn(2, 2, 5, SHAPE.text_dim)
    length, modality = torch.tensor([5, 3]), torch.tensor([0, 3])
    arguments = rgb, aux, torch.rand(2, 2), modality, caption, length, prompt, length
    state = {n: p + 0.05 * torch.randn_like(p) for n, p in UnityDiT(SHAPE).state_dict().items()}
    plain = UnityDiT(SHAPE)
    plain.load_state_dict(state)
    expected, _ = run(plain, arguments)
    sizes = []
    for name in ("none", "selective", "full"):
        model = UnityDiT(SHAPE)
        model.load_state_dict(state)
        recompute(model, name)
        for block in model.blocks:
            # this back end divides the graph as inductor does, and compiles nothing
            block.compile(backend="aot_eager_decomp_partition", fullgraph=True)
        found, size = run(model, arguments)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        sizes.append(size)
        print(name)
    if sizes[0] > sizes[1] > sizes[2]:
        print("in order")
    else:
        raise AssertionError(sizes)


if __name__ == "__main__":
    main()
