"""Instances followed through a clip by SAM 2 (Ravi et al., 2024), from boxes that another annotator gives."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from unity.data.annotate.base import Annotation, Video, Weights
from unity.data.weights import from_folder, loaded
from unity.modality.segmentation import INSTANCES

# of its height and width, that a box around joints is wider on each side: heads and hands reach beyond them
_BEYOND = 0.1
# of its largest box, that an instance must have where SAM 2 is told of it
_LARGE = 0.5

# x and y of one corner and of the other, in pixels, of every instance on every frame; zeros where it is not seen
Boxes = Float[np.ndarray, "n t 4"]
Load = Callable[[Weights, Mapping[str, float], str], Callable[[Video], Annotation]]


def follower(finder: Load) -> Load:
    """What loads SAM 2, which follows the instances that a finder (of masks or of skeletons) sees.

    The finder looks at the whole clip first. Of each of its instances SAM 2 is told one box, on a frame where that
    is large (`told_on`), and follows it from there forwards and backwards; all pixels of all frames are SAM 2's
    own judgement. An instance keeps its number, since each is followed by itself; where SAM 2 holds it for hidden,
    its mask is empty. Whom the finder never sees is background: SAM 2 itself looks for nobody.
    """

    def load(weights: Weights, settings: Mapping[str, float], device: str) -> Callable[[Video], Annotation]:
        from transformers import Sam2VideoModel, Sam2VideoProcessor

        model = from_folder(Sam2VideoModel, weights["sam2"], "SAM 2 of videos").to(device)
        processor = loaded(Sam2VideoProcessor, weights["sam2"], "SAM 2 of videos")
        find = finder(weights, settings, device)

        def annotate(video: Video) -> Annotation:
            found = find(video).values
            boxes = of_masks(found) if found.ndim == 3 else of_joints(found)
            return Annotation(followed(model, processor, video, boxes[:INSTANCES]))

        return annotate

    return load


def of_masks(labels: UInt8[np.ndarray, "t h w"]) -> Boxes:
    """Around the pixels of each instance."""
    masks = [labels == number for number in np.unique(labels[labels > 0])]
    return np.array([[_around_mask(mask) for mask in frames] for frames in masks]).reshape(-1, len(labels), 4)


def _around_mask(mask: Bool[np.ndarray, "h w"]) -> Float[np.ndarray, "4"]:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]) * 1.0 if len(rows) else np.zeros(4)


def of_joints(keypoints: Float[np.ndarray, "t p 18 3"]) -> Boxes:
    """Around the visible joints of each person, and somewhat wider."""
    people = keypoints.swapaxes(0, 1)
    boxes = [[_around(joints[joints[:, 2] > 0.5, :2]) for joints in person] for person in people]
    return np.array(boxes).reshape(-1, len(keypoints), 4)


def _around(points: Float[np.ndarray, "_ 2"]) -> Float[np.ndarray, "4"]:
    if not len(points):
        return np.zeros(4)
    low, high = points.min(0).astype(float), points.max(0).astype(float)
    room = _BEYOND * (high - low)
    return np.concatenate([low - room, high + room])


def told_on(boxes: Boxes) -> Int[np.ndarray, " n"]:
    """The frame where SAM 2 is told of each instance, -1 for one without any box.

    There it has half of its largest box at least; as few frames as possible are chosen, by their gain, so that
    most clips need one: every other one has SAM 2 go through the clip once more.
    """
    areas = np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)
    shares = areas / np.maximum(areas.max(1, keepdims=True), 1e-9)
    large = shares >= _LARGE
    frames = np.full(len(boxes), -1)
    while (left := large.any(1) & (frames < 0)).any():
        best = int(np.where(large, shares, 0)[left].sum(0).argmax())
        frames[left & large[:, best]] = best
    return frames


def followed(model: Any, processor: Any, video: Video, boxes: Boxes) -> UInt8[np.ndarray, "t h w"]:
    """Instances 1..n of every frame, in the order of their boxes; of several at a pixel the surest has it."""
    import torch

    frames, labels = told_on(boxes), np.zeros(video.shape[:3], np.uint8)
    if not (frames >= 0).any():
        return labels
    # a frame as SAM 2 sees it has 12 MB
    session = processor.init_video_session(list(video), inference_device=model.device, video_storage_device="cpu")
    # background is where no logit is above 0
    surest = np.zeros(video.shape[:3], np.float32)
    with torch.inference_mode():
        for start in sorted(set(frames[frames >= 0].tolist())):
            numbers = np.flatnonzero(frames == start)
            session.reset_tracking_data()
            for frame, maps in _through(model, processor, session, start, boxes[numbers, start]):
                for number, logits in zip(numbers, _enlarged(processor, maps, video.shape[1:3]), strict=True):
                    surer = logits > surest[frame]
                    labels[frame][surer], surest[frame][surer] = number + 1, logits[surer]
    return labels


def _through(
    model: Any, processor: Any, session: Any, start: int, boxes: Float[np.ndarray, "n 4"]
) -> Iterator[tuple[int, Any]]:
    """Logits [n, 1, high, wide] of every frame: from that of the boxes to the last, and back to the first."""
    told = [[[float(edge) for edge in box] for box in boxes]]
    processor.add_inputs_to_inference_session(session, start, list(range(len(boxes))), input_boxes=told)
    for frame in (*range(start, session.num_frames), *range(start)[::-1]):
        yield frame, model(session, frame_idx=frame, reverse=frame < start).pred_masks


def _enlarged(processor: Any, maps: Any, size: Sequence[int]) -> Float[np.ndarray, "n h w"]:
    return processor.post_process_masks([maps.float()], [list(size)], binarize=False)[0][:, 0].cpu().numpy()
