"""Optical flow: OpenCV's dense inverse search, which learnt nothing, and RAFT."""

from collections.abc import Callable, Iterator, Mapping

import cv2
import numpy as np
from jaxtyping import Bool, Float32

from unity.data.annotate.base import Annotation, Video, Weights
from unity.modality.flow import classical

Flow = Float32[np.ndarray, "t h w 2"]
Map = Float32[np.ndarray, "h w"]
Mask = Bool[np.ndarray, "h w"]


def load_dis(weights: Weights, settings: Mapping[str, float], device: str) -> Callable[[Video], Annotation]:
    """Dense inverse search; needs nothing."""
    return lambda video: both_ways(video, _dis)


def _dis(video: Video) -> Flow:
    # the truth is asked for its shape alone
    return classical(video, np.broadcast_to(np.float32(0), (*video.shape[:3], 2)))


def load_raft(weights: Weights, settings: Mapping[str, float], device: str) -> Callable[[Video], Annotation]:
    """RAFT (Teed & Deng, 2020) of torchvision, from its own weight file or a folder that holds one."""
    import torch

    path = weights["raft"]
    files = sorted(path.glob("*.pth")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} holds no .pth file; give torchvision's raft_large weights")
    model = raft().eval().to(device)
    try:
        model.load_state_dict(torch.load(files[0], map_location=device, weights_only=True))
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{files[0]} holds no weights of raft_large: {str(error).splitlines()[0]}") from error
    return lambda video: both_ways(video, lambda frames: _raft(model, frames, int(settings["updates"])))


def raft():
    """The network, untrained."""
    from torchvision.models.optical_flow import raft_large

    return raft_large(weights=None)


def _raft(model, frames: Video, updates: int) -> Flow:
    """Maps of a clip; map 0 repeats map 1."""
    import torch
    from torch.nn.functional import pad

    device = next(model.parameters()).device
    height, width = frames.shape[1:3]
    # its features have an eighth of the size, and sixteen of them a side at least
    more = [max(128, -(-side // 8) * 8) - side for side in (height, width)]
    maps = []
    for pair in zip(frames, frames[1:], strict=False):
        both = torch.from_numpy(np.stack(pair)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
        both = pad(both, (0, more[1], 0, more[0]), mode="replicate")
        with torch.no_grad():
            found = model(both[:1], both[1:], num_flow_updates=updates)[-1]
        maps.append(found[0, :, :height, :width].permute(1, 2, 0).cpu().numpy())
    return np.stack([*maps[:1], *maps])


def both_ways(video: Video, estimate: Callable[[Video], Flow]) -> Annotation:
    """The flow of a clip, and how much of it the flow backwards takes to within a pixel of where it began."""
    forward = estimate(video)
    shares = [
        home.sum() / max(inside.sum(), 1) for _, _, inside, home in _arrivals(forward, estimate(video[::-1]))
    ]
    return Annotation(forward, {"returns": float(np.mean(shares))})


def moved(video: Video) -> Iterator[tuple[Map, Map, Mask]]:
    """Where each pixel of a frame is in the next one (x, y), by DIS, and whether it is seen in both."""
    for x, y, _, home in _arrivals(_dis(video), _dis(video[::-1])):
        yield x, y, home


def _arrivals(forward: Flow, backward: Flow) -> Iterator[tuple[Map, Map, Mask, Mask]]:
    """For each frame but the last where its pixels go, which stay inside, and which of them return to a pixel."""
    rows, columns = np.mgrid[: forward.shape[1], : forward.shape[2]].astype(np.float32)
    for there, again in zip(forward[1:], backward[1:][::-1], strict=True):
        x, y = columns + there[..., 0], rows + there[..., 1]
        inside = (x >= 0) & (y >= 0) & (x <= columns.max()) & (y <= rows.max())
        returned = there + cv2.remap(np.ascontiguousarray(again), x, y, cv2.INTER_LINEAR)
        yield x, y, inside, inside & (np.linalg.norm(returned, axis=-1) < 1)
