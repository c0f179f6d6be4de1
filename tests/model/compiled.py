"""Run the model eagerly and as one graph and compare. A process of its own: shape checks would break the graph."""

from dataclasses import replace

import torch

from unity.config import MODELS
from unity.model.dit import UnityDiT
from unity.model.fp8 import Fp8Config, convert

SHAPE = replace(MODELS["debug"], num_layers=1)


def inputs():
    rgb, aux = torch.randn(2, 2, SHAPE.latent_channels, 2, 4, 4)
    caption, prompt = torch.randn(2, 2, 5, SHAPE.text_dim)
    length, modality = torch.tensor([5, 3]), torch.tensor([0, 3])
    return rgb, aux, torch.rand(2, 2), modality, caption, length, prompt, length


def run(call, model, arguments):
    loss = sum(stream.square().mean() for stream in call(*arguments))
    model.zero_grad()
    loss.backward()
    return loss.detach(), *(p.grad for p in model.parameters())


def main() -> None:
    torch.manual_seed(0)
    for fp8 in (False, True):
        model, arguments = UnityDiT(SHAPE), inputs()
        for p in model.parameters():
            p.data += 0.05 * torch.randn_like(p)
        if fp8:
            convert(model, Fp8Config())
        eager = run(model, model, arguments)
        compiled = run(torch.compile(model, fullgraph=True, backend="aot_eager"), model, arguments)
        for a, b in zip(eager, compiled, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
        print(f"one graph, fp8 {fp8}")


if __name__ == "__main__":
    main()
