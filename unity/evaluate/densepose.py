"""Body parts of a clip against the truth, pixel by pixel."""

import numpy as np
from jaxtyping import Float

from unity.evaluate.segmentation import iou_table

Surface = Float[np.ndarray, "t h w 3"]


def score(prediction: Surface, truth: Surface) -> dict[str, float]:
    """`part_miou`, mean IoU over the labels that the truth has (background is one), and `part_accuracy`.

    The accuracy is the share of true body pixels that carry the right part, NaN where nobody is seen. U and V are
    not scored: a prediction has none (unity.modality.densepose).
    """
    parts, wanted = (np.rint(surface[..., 0]).astype(np.int64) for surface in (prediction, truth))
    body = wanted > 0
    diagonal = np.diagonal(iou_table(parts, wanted))
    return {
        "part_miou": float(diagonal[np.unique(wanted)].mean()),
        "part_accuracy": float((parts == wanted)[body].mean()) if body.any() else float("nan"),
    }


def trivial(truth: Surface) -> Surface:
    """Nobody is there."""
    return np.zeros_like(truth)
