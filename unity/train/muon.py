"""Muon for matrices, AdamW for the rest, over weights that ZeRO-3 has cut up over the ranks.

Muon (Jordan, 2024) steps along the nearest orthogonal matrix to a momentum. That needs whole matrices, so equally
shaped ones are shared out: every rank puts its share together, orthogonalises it, and sends the pieces back.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

# Five quintic steps that bring every singular value from 1/1000 to 1 close to 1 (Amsel et al., 2025, arXiv
# 2505.16932). Rounding may lift values a little above 1, where the steps would not hold: hence the margin.
_COEFFICIENTS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
)
_MARGIN = 1.01


@dataclass(frozen=True, kw_only=True)
class Piece:
    """A matrix of which this rank holds `numel` values from `offset` of a flat; the last ranks' are padded."""

    offset: int
    numel: int
    # rows and columns
    shape: tuple[int, int]


def orthogonal(matrices: Float[Tensor, "m o i"]) -> Float[Tensor, "m o i"]:
    """U·Vᵀ of each matrix U·S·Vᵀ, its singular values 1 to within 0.15, in the matrices' precision."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    # no gradient at all gives no step
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * _MARGIN).clamp(min=1e-30)
    for step, (a, b, c) in enumerate(_COEFFICIENTS):
        if step < len(_COEFFICIENTS) - 1:
            a, b, c = a / _MARGIN, b / _MARGIN**3, c / _MARGIN**5
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Groups with `pieces` are flats of matrices and take Muon's step, the others AdamW's.

    The update of a matrix has a root mean square of 0.2·lr, as AdamW's has, so both can share a rate (Liu et al.,
    2025, arXiv 2502.16982). The momentum is kept as `exp_avg`; `exp_avg_sq` of a flat of matrices is empty.
    Matrices travel and are multiplied as `products`: bfloat16 is fast, float32 nearly the same on every machine.
    """

    def __init__(
        self,
        groups: Iterable[dict],
        *,
        betas: tuple[float, float],
        eps: float,
        momentum: float,
        products: torch.dtype,
    ):
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "momentum": momentum})
        self.products = products
        # flat → its matrices; known once ZeRO has cut the weights
        self.pieces: Mapping[Tensor, Sequence[Piece]] = {}

    # takes no closure, so there is no loss to give back
    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for flat in group["params"]:
                assert flat.grad is not None
                take = self._muon if group["muon"] else self._adamw
                take(flat, flat.grad, group, self.state[flat])

    def _muon(self, flat: Tensor, gradient: Tensor, group: dict, state: dict) -> None:
        momentum = state["exp_avg"]
        momentum.lerp_(gradient, 1 - group["momentum"])
        # Nesterov's: where the momentum will be
        ahead = gradient.lerp(momentum, group["momentum"])
        flat.mul_(1 - group["lr"] * group["weight_decay"])
        shapes = {piece.shape for piece in self.pieces[flat]}
        for shape in sorted(shapes):
            pieces = [piece for piece in self.pieces[flat] if piece.shape == shape]
            rate = group["lr"] * 0.2 * max(shape) ** 0.5
            for piece, update in zip(pieces, self._orthogonal_pieces(ahead, pieces), strict=True):
                flat.narrow(0, piece.offset, piece.numel).add_(update, alpha=-rate)

    def _orthogonal_pieces(self, flat: Tensor, pieces: Sequence[Piece]) -> Float[Tensor, "m numel"]:
        """This rank's pieces of the orthogonalised matrices, all of one shape."""
        ranks = dist.get_world_size()
        mine = torch.stack([flat.narrow(0, piece.offset, piece.numel) for piece in pieces])
        # rounded before it travels: fewer bytes, and the products round it anyway
        share = torch.nn.functional.pad(mine.to(self.products), (0, 0, 0, -len(pieces) % ranks))
        whole = rearrange(_exchange(rearrange(share, "(m r) n -> r m n", r=ranks)), "r m n -> m (r n)")
        rows, columns = pieces[0].shape
        found = torch.zeros_like(whole)
        found[:, : rows * columns] = orthogonal(whole[:, : rows * columns].unflatten(1, (rows, columns))).flatten(
            1
        )
        back = _exchange(rearrange(found, "m (r n) -> r m n", r=ranks))
        return rearrange(back, "r m n -> (m r) n")[: len(pieces)].to(flat.dtype)

    def _adamw(self, flat: Tensor, gradient: Tensor, group: dict, state: dict) -> None:
        state["step"] += 1
        torch._fused_adamw_(
            [flat.data], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]],
            amsgrad=False, lr=group["lr"], beta1=group["betas"][0], beta2=group["betas"][1],
            weight_decay=group["weight_decay"], eps=group["eps"], maximize=False,
        )  # fmt: skip


def _exchange(parts: Float[Tensor, "r m n"]) -> Float[Tensor, "r m n"]:
    """Part i goes to rank i; what rank i sent here comes back in its place."""
    if len(parts) == 1:
        return parts
    received = torch.empty_like(parts, memory_format=torch.contiguous_format)
    dist.all_to_all_single(received, parts.contiguous())
    return received
