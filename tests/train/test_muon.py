"""Muon against its definition in float64: what its polynomial makes of singular values, and the polar factor."""

import pytest
import torch

from unity.config import MODELS
from unity.model.dit import UnityDiT
from unity.model.names import is_hidden
from unity.train import muon
from unity.train.muon import Muon, Piece, orthogonal
from unity.train.optim import SetOptim, optimizer

# how far the polynomial leaves singular values from 1, and what rounding to bfloat16 adds
FROM_ONE, ROUNDING = 0.15, {torch.bfloat16: 0.12, torch.float32: 1e-4}


def in_float64(matrix: torch.Tensor) -> torch.Tensor:
    """The five steps on the singular values themselves."""
    u, values, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / (values.norm() * muon._MARGIN)
    for step, (a, b, c) in enumerate(muon._COEFFICIENTS):
        x = values / (muon._MARGIN if step < 4 else 1)
        values = a * x + b * x**3 + c * x**5
    return u @ torch.diag(values) @ vh


def polar(matrix: torch.Tensor) -> torch.Tensor:
    u, _, vh = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u @ vh


def conditioned(rows: int, columns: int, smallest: float, seed: int = 0) -> torch.Tensor:
    """A matrix whose singular values fall from 1 to `smallest`."""
    g = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(torch.randn(rows, columns, generator=g).double(), full_matrices=False)
    return u @ torch.diag(torch.logspace(0, torch.tensor(smallest).log10().item(), len(vh)).double()) @ vh


@pytest.mark.parametrize("shape", [(48, 48), (32, 128), (128, 32)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
@pytest.mark.parametrize("products", ROUNDING)
def test_a_matrix_is_brought_to_its_polar_factor(shape, scale, products):
    matrix = conditioned(*shape, smallest=0.03)
    found, exact = orthogonal((scale * matrix).to(products).unsqueeze(0))[0].double(), in_float64(matrix)
    assert (torch.linalg.svdvals(found) - 1).abs().max() < FROM_ONE
    assert (found - exact).norm() < ROUNDING[products] * exact.norm()
    assert (found - polar(matrix)).norm() < FROM_ONE * polar(matrix).norm()


def test_matrices_of_a_stack_do_not_see_each_other():
    stack = torch.stack([conditioned(16, 24, 0.1, seed).float() * 10.0**seed for seed in range(3)])
    for one, whole in zip(stack, orthogonal(stack), strict=True):
        torch.testing.assert_close(orthogonal(one.unsqueeze(0))[0], whole, rtol=0, atol=1e-5)


def test_nothing_comes_of_no_gradient():
    assert not orthogonal(torch.zeros(2, 8, 8)).any()


@pytest.fixture(params=ROUNDING)
def three(world, request):
    """Three matrices of two shapes in one flat, behind five numbers that are nobody's; and a flat of AdamW's."""
    pieces = [Piece(offset=5, numel=48, shape=(6, 8)), Piece(offset=53, numel=48, shape=(6, 8))]
    pieces.append(Piece(offset=101, numel=40, shape=(4, 10)))
    g = torch.Generator().manual_seed(0)
    flats = [torch.nn.Parameter(torch.randn(size, generator=g)) for size in (141, 20)]
    rows = [
        {"params": [flat], "weight_decay": 0.1, "muon": hidden, "lr": 0.02}
        for flat, hidden in zip(flats, (True, False), strict=True)
    ]
    found = Muon(rows, betas=(0.9, 0.95), eps=1e-8, momentum=0.9, products=request.param)
    found.pieces = {flats[0]: pieces, flats[1]: []}
    for flat in flats:
        found.state[flat].update(
            step=torch.zeros(()), exp_avg=torch.zeros_like(flat), exp_avg_sq=torch.zeros_like(flat)
        )
    return found, flats, pieces


def test_steps_follow_the_definition_and_leave_the_rest_to_adamw(three):
    """Nesterov's momentum, its polar factor at a root mean square of 0.2 lr, decay of the weight by itself."""
    found, flats, pieces = three
    twin = torch.nn.Parameter(flats[1].detach().clone())
    adamw = torch.optim.AdamW([twin], lr=0.02, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    weights = [flats[0].detach()[p.offset :][: p.numel].view(p.shape).double() for p in pieces]
    nobodys, momenta, generator = flats[0].detach()[:5].clone(), [0.0] * 3, torch.Generator().manual_seed(1)
    for _ in range(3):
        for flat in flats:
            flat.grad = torch.randn(flat.shape, generator=generator)
        twin.grad = flats[1].grad.clone()
        found.step()
        adamw.step()
        for i, piece in enumerate(pieces):
            gradient = flats[0].grad[piece.offset :][: piece.numel].view(piece.shape).double()
            momenta[i] = 0.9 * momenta[i] + 0.1 * gradient
            step = in_float64(0.1 * gradient + 0.9 * momenta[i])
            weights[i] = weights[i] * (1 - 0.02 * 0.1) - 0.02 * 0.2 * max(piece.shape) ** 0.5 * step
    torch.testing.assert_close(flats[1].detach(), twin.detach(), rtol=1e-5, atol=1e-6)
    for weight, piece in zip(weights, pieces, strict=True):
        now = flats[0].detach()[piece.offset :][: piece.numel].view(piece.shape).double()
        # of the three steps' own length
        assert (now - weight).norm() < ROUNDING[found.products] * 3 * 0.02 * 0.2 * (
            piece.shape[0] * piece.shape[1]
        ) ** 0.5
    torch.testing.assert_close(flats[0].detach()[:5], nobodys * (1 - 0.02 * 0.1) ** 3)


def test_matrices_between_hidden_features_take_muon_and_nothing_else_does():
    names = {n for n, p in UnityDiT(MODELS["debug"]).named_parameters() if is_hidden(n, p.shape)}
    wanted = {"stem.down.weight", "stem_head.up.weight"}
    for side in ("stem", "stem_head"):
        wanted |= {f"{side}.blocks.0.{part}.weight" for part in ("first", "second")}
    for block in range(2):
        attentions = {f"{kind}_attn.{part}" for kind in ("self", "cross") for part in "qkvo"}
        wanted |= {f"blocks.{block}.{part}.weight" for part in attentions | {"ffn.0", "ffn.2"}}
    assert names == wanted


def test_every_weight_is_in_one_group_and_only_matrices_decay():
    named = dict(UnityDiT(MODELS["debug"]).named_parameters())
    groups = optimizer(SetOptim(kind="muon", lr=1.0, warmup=0, weight_decay=0.3), named.items()).param_groups
    found = [p for group in groups for p in group["params"]]
    assert len(found) == len(named) == len(set(map(id, found)))
    hidden = {id(p): group["muon"] for group in groups for p in group["params"]}
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    for name, p in named.items():
        assert hidden[id(p)] == is_hidden(name, p.shape), name
        assert not hidden[id(p)] or decay[id(p)] == 0.3, name
