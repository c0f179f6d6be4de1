"""Values of one picture for another of a different size (h, w) that shows the same."""

import numpy as np

Size = tuple[int, int]


def nearest(values: np.ndarray, old: Size, new: Size) -> np.ndarray:
    """Of labels: there is nothing between two names. Values stand at the middle of their pixels."""
    rows, columns = (
        np.minimum(((np.arange(n) + 0.5) * o / n).astype(int), o - 1) for o, n in zip(old, new, strict=True)
    )
    return values[:, rows[:, None], columns]


def smooth(values: np.ndarray, old: Size, new: Size) -> np.ndarray:
    """Linear between the middles of pixels; of more of them, their mean."""
    # half a second of imports
    import cv2

    mode = cv2.INTER_AREA if new[0] <= old[0] and new[1] <= old[1] else cv2.INTER_LINEAR
    return np.stack([cv2.resize(np.ascontiguousarray(frame), new[::-1], interpolation=mode) for frame in values])


def inverse_depth(values: np.ndarray, old: Size, new: Size) -> np.ndarray:
    """Of depth, in its inverse, as it is drawn: infinite only where nothing is seen all around."""
    with np.errstate(divide="ignore"):
        return (1 / smooth(1 / values, old, new)).astype(np.float32)


def motion(values: np.ndarray, old: Size, new: Size) -> np.ndarray:
    """Of flow, whose pixels change with the picture."""
    ratio = np.array((new[1] / old[1], new[0] / old[0]), np.float32)
    return smooth(values, old, new) * ratio


def points(values: np.ndarray, old: Size, new: Size) -> np.ndarray:
    """Of x, y, ...: whole numbers are pixels' middles, before and after."""
    moved, ratio = values.copy(), np.array((new[1] / old[1], new[0] / old[0]), values.dtype)
    moved[..., :2] = (values[..., :2] + 0.5) * ratio - 0.5
    return moved
