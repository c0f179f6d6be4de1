"""A fixed 3-D DCT of video patches: the 48 strongest of 768 coefficients, each scaled to about unit variance."""

import numpy as np
import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from unity.model.dct_table import DC_MEAN, ROWS
from unity.model.strides import STRIDES

# Frames, rows and columns of a patch.
PATCH = STRIDES["dct"]
# Orthonormal axes of colour: grey, red - blue, green - magenta. Their covariance on film is near diagonal.
_COLOUR_AXES = torch.tensor([(1, 1, 1), (1, 0, -1), (-1, 2, -1)]).double()


def _cosines(n: int) -> Float[Tensor, "n n"]:
    """Orthonormal DCT-II: row k is √(2/n)·cos(π(2x+1)k / 2n), row 0 is 1/√n."""
    k, x = torch.meshgrid(torch.arange(n).double(), torch.arange(n).double(), indexing="ij")
    matrix = torch.cos(torch.pi * (2 * x + 1) * k / (2 * n)) * (2 / n) ** 0.5
    matrix[0] /= 2**0.5
    return matrix


def _full_basis() -> Float[Tensor, "768 768"]:
    """All basis patches: row (colour, time, row, column) frequency, column (channel, frame, y, x)."""
    axes = _COLOUR_AXES / _COLOUR_AXES.norm(dim=1, keepdim=True)
    frames, rows, columns = (_cosines(n) for n in PATCH)
    basis = einsum(axes, frames, rows, columns, "d c, u a, v p, w q -> d u v w c a p q")
    return rearrange(basis, "d u v w c a p q -> (d u v w) (c a p q)")


def basis() -> Float[Tensor, "48 768"]:
    """The basis patches that are kept, in the order of the table; fp32."""
    frequencies = tuple(np.array([row[:4] for row in ROWS]).T)
    return _full_basis()[np.ravel_multi_index(frequencies, (3, *PATCH))].float()


def constants() -> tuple[Float[Tensor, "48"], Float[Tensor, "48"]]:
    """Mean and standard deviation of every kept coefficient; only constant patches have a mean."""
    mean = [DC_MEAN[colour] if (time, row, column) == (0, 0, 0) else 0.0 for colour, time, row, column, _ in ROWS]
    return torch.tensor(mean), torch.tensor([row[4] for row in ROWS])


def patches(video: Float[Tensor, "b 3 t h w"]) -> Float[Tensor, "b u v x 768"]:
    """Patches of 4x8x8 pixels. The first frame fills a patch of its own, four times the same."""
    first = repeat(video[:, :, 0], "b c h w -> b c a h w", a=PATCH[0] - 1)
    padded = torch.cat([first, video], dim=2)
    a, p, q = PATCH
    return rearrange(padded, "b c (u a) (v p) (w q) -> b u v w (c a p q)", a=a, p=p, q=q)


def unpatch(pixels: Float[Tensor, "b u v x 768"]) -> Float[Tensor, "b 3 t h w"]:
    """Inverse of `patches`; the first frame is the mean of its four copies."""
    a, p, q = PATCH
    video = rearrange(pixels, "b u v w (c a p q) -> b c (u a) (v p) (w q)", c=3, a=a, p=p, q=q)
    return torch.cat([video[:, :, :a].mean(2, keepdim=True), video[:, :, a:]], dim=2)


def measure(kinds: dict[str, tuple[float, list[Float[Tensor, "3 t h w"]]]]) -> tuple[list[float], list[tuple]]:
    """`DC_MEAN` and `ROWS` for the given material: kind of video → (weight, videos in [-1, 1]).

    The coefficients with the most energy are kept, after the energy of each kind, constant patches aside, is
    scaled to 1, so that the bright kinds do not decide for all. Means and deviations are weighted the same way.
    """
    constant = torch.arange(3) * int(np.prod(PATCH))
    total = sum(weight for weight, _ in kinds.values())
    share, mean, square = torch.zeros(768).double(), torch.zeros(768).double(), torch.zeros(768).double()
    for weight, videos in kinds.values():
        found = [(patches(video[None]).double() @ _full_basis().T).flatten(0, 3) for video in videos]
        energy = torch.stack([c.square().mean(0) for c in found]).mean(0)
        varying = energy.clone()
        varying[constant] = 0
        share += weight / total * energy / varying.sum()
        mean += weight / total * torch.stack([c.mean(0) for c in found]).mean(0)
        square += weight / total * energy
    centred = torch.zeros(768).double()
    centred[constant] = mean[constant]
    deviation = (square - centred.square()).sqrt()
    kept = share.topk(len(ROWS)).indices.tolist()
    rows = [(*map(int, np.unravel_index(i, (3, *PATCH))), round(deviation[i].item(), 4)) for i in kept]
    return [round(mean[i].item(), 4) for i in constant.tolist()], rows
