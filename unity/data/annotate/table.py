"""The annotators, one row each, and the gates that their work must pass."""

from unity.data.annotate import depth, flow, masks, people, pose, track, video_depth
from unity.data.annotate.base import Annotator, Weights
from unity.data.rules import Rule

_ROWS = (
    # honest without a network, on any machine
    Annotator(
        name="dis",
        modality="flow",
        words="OpenCV's dense inverse search, which learnt nothing",
        packages=("opencv-python-headless",),
        load=flow.load_dis,
    ),
    Annotator(
        name="mediapipe-pose",
        modality="skeleton",
        words="MediaPipe's BlazePose, four people at most",
        packages=("mediapipe",),
        weights=("mediapipe",),
        settings={"confidence": 0.5},
        load=pose.load_skeleton,
    ),
    Annotator(
        name="mediapipe-masks",
        modality="segmentation",
        words="MediaPipe's mask of each person; things are background",
        packages=("mediapipe",),
        weights=("mediapipe",),
        settings={"confidence": 0.5},
        load=pose.load_masks,
    ),
    Annotator(
        name="salient",
        modality="segmentation",
        words="U²-Net's most salient object, one instance",
        packages=("onnxruntime",),
        weights=("salient",),
        load=masks.load_salient,
    ),
    # of the paper's kind, for machines that have their weights
    Annotator(
        name="raft",
        modality="flow",
        words="torchvision's RAFT large",
        packages=("torch", "torchvision"),
        weights=("raft",),
        settings={"updates": 12},
        load=flow.load_raft,
    ),
    Annotator(
        name="depth-anything",
        modality="depth",
        words="Depth Anything V2, relative depth frame by frame",
        packages=("torch", "transformers"),
        weights=("depth-anything",),
        load=depth.load_depth_anything,
    ),
    Annotator(
        name="video-depth-anything",
        modality="depth",
        words="Video Depth Anything, relative depth of windows of 32 frames",
        packages=("torch",),
        weights=("video-depth-anything",),
        load=video_depth.load_video_depth,
    ),
    Annotator(
        name="dwpose",
        modality="skeleton",
        words="DWPose through rtmlib",
        packages=("rtmlib", "onnxruntime"),
        weights=("dwpose",),
        settings={"confidence": 0.3},
        load=people.load_dwpose,
    ),
    Annotator(
        name="sam2-salient",
        modality="segmentation",
        words="SAM 2 follows the most salient object that U²-Net finds",
        packages=("torch", "transformers", "onnxruntime"),
        weights=("sam2", "salient"),
        load=track.follower(masks.load_salient),
    ),
    Annotator(
        name="sam2-people",
        modality="segmentation",
        words="SAM 2 follows the people that MediaPipe finds",
        packages=("torch", "transformers", "mediapipe"),
        weights=("sam2", "mediapipe"),
        settings={"confidence": 0.5},
        load=track.follower(pose.load_masks),
    ),
    Annotator(
        name="sam2-dwpose",
        modality="segmentation",
        words="SAM 2 follows the people that DWPose finds",
        packages=("torch", "transformers", "rtmlib", "onnxruntime"),
        weights=("sam2", "dwpose"),
        settings={"confidence": 0.3},
        load=track.follower(people.load_dwpose),
    ),
    Annotator(
        name="densepose",
        modality="densepose",
        words="detectron2's DensePose, exported as TorchScript",
        packages=("torch", "torchvision"),
        weights=("densepose",),
        settings={"confidence": 0.8},
        load=masks.load_densepose,
    ),
)
ANNOTATORS = {row.name: row for row in _ROWS}
# names under which --weights gives theirs
WEIGHTS = tuple(dict.fromkeys(name for row in _ROWS for name in row.weights))

# modality → what an annotation must be, or it is left out; the clip stays
GATES: dict[str, tuple[Rule, ...]] = {
    "depth": (
        Rule(
            name="depth_steady",
            score="flicker",
            keep="at most",
            threshold=0.1,
            reason="what moves changes its depth from frame to frame",
        ),
    ),
    "flow": (
        Rule(
            name="flow_returns",
            score="returns",
            keep="at least",
            threshold=0.8,
            reason="the flow backwards does not lead to where it began",
        ),
    ),
    "skeleton": (
        Rule(
            name="skeleton_seen",
            score="seen",
            keep="at least",
            threshold=0.8,
            reason="frames show nobody, where others do",
        ),
        Rule(
            name="skeleton_whole",
            score="joints",
            keep="at least",
            threshold=8,
            reason="too few joints of the people are seen",
        ),
    ),
    "segmentation": (
        Rule(
            name="masks_large",
            score="cover",
            keep="at least",
            threshold=0.003,
            reason="masks cover next to nothing",
        ),
        Rule(
            name="masks_seen",
            score="seen",
            keep="at least",
            threshold=0.8,
            reason="frames have no mask, where others do",
        ),
        Rule(name="masks_small", score="cover", keep="at most", threshold=0.9, reason="masks cover all"),
        Rule(
            name="masks_steady",
            score="overlap",
            keep="at least",
            threshold=0.5,
            reason="masks jump from frame to frame",
        ),
        Rule(
            name="masks_keep_names",
            score="swaps",
            keep="at most",
            threshold=0,
            reason="things take the numbers of others",
        ),
    ),
    "densepose": (
        Rule(
            name="parts_large",
            score="cover",
            keep="at least",
            threshold=0.003,
            reason="bodies cover next to nothing",
        ),
        Rule(
            name="parts_steady",
            score="overlap",
            keep="at least",
            threshold=0.4,
            reason="bodies jump from frame to frame",
        ),
    ),
}


def annotators(names: tuple[str, ...] | None, weights: Weights) -> dict[str, Annotator]:
    """One annotator for each modality that has one: those of these names, or whichever has its weights.

    Raises ValueError for a name that is none, or for two of one modality.
    """
    if names is None:
        # of those with weights the last: networks come after what needs none
        usable = {row.modality: row.name for row in _ROWS if not row.missing(weights)}
        names = tuple(usable.values())
    if strange := sorted(set(names) - ANNOTATORS.keys()):
        raise ValueError(f"there is no annotator {strange[0]!r}; there are {', '.join(ANNOTATORS)}")
    found: dict[str, Annotator] = {}
    for row in (ANNOTATORS[name] for name in names):
        if other := found.get(row.modality):
            raise ValueError(f"{other.name} and {row.name} both make {row.modality}; name one of them")
        row.check(weights)
        found[row.modality] = row
    return found
