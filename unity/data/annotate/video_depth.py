"""Depth of a clip as a whole: Video Depth Anything (Chen et al., 2025), from a program that torch.export wrote."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from unity.data.annotate.base import Annotation, Video, Weights
from unity.data.annotate.depth import relative

# as its authors infer: frames of a window, and which of them the next one shows again as its first; of those the
# last ones are the film's own and are faded, the others tell scale and shift
_WINDOW, _AGAIN = 32, (0, 12, *range(24, 32))
_STEP, _FADED = _WINDOW - len(_AGAIN), 8
_FIRST = len(_AGAIN) - _FADED
_MEAN, _DEVIATION = np.array([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)], np.float32)

# as many as there are, here and there
Inverse = Float32[np.ndarray, "_ h w"]
Map = Float32[np.ndarray, "h w"]
Prepared = Float32[np.ndarray, "_ 3 high wide"]


def load_video_depth(
    weights: Weights, settings: Mapping[str, float], device: str
) -> Callable[[Video], Annotation]:
    """Inverse depth of windows of 32 frames, brought to one scale and shift; docs/data.md has how to export it."""
    network, size = _program(weights["video-depth-anything"], device)
    return lambda video: Annotation(relative(inverse(video, size, network)))


def _program(path: Path, device: str) -> tuple[Callable[[Prepared], np.ndarray], tuple[int, int]]:
    """The network, windows in and maps [t, high, wide] out, and the size that it was exported for."""
    import torch
    from torch.export.passes import move_to_device_pass

    try:
        program = torch.export.load(str(path))
    except Exception as error:
        # of a file that is none it raises whatever its parts do
        words = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path} is no program of torch.export ({words[:200]})") from error
    shape = [tuple(value.shape) for value in (program.example_inputs or ((),))[0]]
    if len(shape) != 1 or len(shape[0]) != 5 or shape[0][:3] != (1, _WINDOW, 3):
        raise ValueError(
            f"{path} takes {shape}, not one window of shape (1, {_WINDOW}, 3, height, width); "
            f"export it as docs/data.md says"
        )
    module = move_to_device_pass(program, device).module()

    def network(window: Prepared) -> np.ndarray:
        with torch.no_grad():
            return module(torch.from_numpy(window)[None].to(device))[0].float().cpu().numpy()

    return network, (shape[0][3], shape[0][4])


def inverse(video: Video, size: tuple[int, int], network: Callable[[Prepared], np.ndarray]) -> Inverse:
    """Inverse depth at the video's size; the film's last frame fills up the last window."""
    starts = range(0, len(video), _STEP)
    room = starts[-1] + _WINDOW - len(video)
    frames = np.stack([_prepared(frame, size) for frame in video])
    frames = np.concatenate([frames, np.repeat(frames[-1:], room, 0)])
    known, anchors, window = np.zeros((0, *video.shape[1:3]), np.float32), [], frames[:_WINDOW]
    for start in starts:
        if start:
            window = np.concatenate([window[list(_AGAIN)], frames[start:][len(_AGAIN) : _WINDOW]])
        known, anchors = _joined(known, _enlarged(network(window), video.shape[1:3]), anchors)
    return known[: len(video)]


def _joined(known: Inverse, maps: Inverse, anchors: Sequence[Map]) -> tuple[Inverse, list[Map]]:
    """All maps so far, and those of frames that the next window shows again before the ones that are faded."""
    if not len(known):
        return maps, [maps[place] for place in _AGAIN[:_FIRST]]
    scale, shift = _fit(maps[:_FIRST], np.stack(anchors))
    fitted = np.maximum(scale * maps + shift, 0).astype(np.float32)
    weight = np.linspace(0, 1, _FADED, dtype=np.float32)[:, None, None]
    faded = (1 - weight) * known[-_FADED:] + weight * fitted[_FIRST : len(_AGAIN)]
    again = [anchors[0], *(fitted[place] for place in _AGAIN[1:_FIRST])]
    return np.concatenate([known[:-_FADED], faded, fitted[len(_AGAIN) :]]), again


def _fit(maps: Inverse, wanted: Inverse) -> tuple[float, float]:
    """Scale and shift that bring maps nearest to others, by least squares; as they are where they are flat."""
    x, y = (values.astype(np.float64).ravel() for values in (maps, wanted))
    spread = ((x - x.mean()) ** 2).mean()
    scale = ((x - x.mean()) * (y - y.mean())).mean() / spread if spread > 0 else 1.0
    return float(scale), float(y.mean() - scale * x.mean())


def _enlarged(maps: np.ndarray, size: tuple[int, ...]) -> Inverse:
    """Corners on corners, as its authors do."""
    import torch
    from torch.nn.functional import interpolate

    large = interpolate(torch.from_numpy(maps)[:, None], size, mode="bilinear", align_corners=True)
    return large[:, 0].numpy()


def _prepared(frame: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> Float32[np.ndarray, "3 high wide"]:
    small = cv2.resize(frame.astype(np.float32) / 255, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(((small - _MEAN) / _DEVIATION).transpose(2, 0, 1))
