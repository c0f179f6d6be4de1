"""What a modality is: exact values ↔ a three-channel video, files of the values, and how they are scored."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from unity.modality.sizes import nearest

Constants = dict[str, float]
# of a clip: true values of modalities by their names, and "camera" as the simulated world's meta has it
Facts = Mapping[str, Any]
Picture = UInt8[np.ndarray, "h w 3"]
Video = UInt8[np.ndarray, "t h w 3"]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One number of a score, for people and for comparisons."""

    words: str
    # whether more is better; then it is a share, from 0 to 1
    more: bool

    @property
    def worst(self) -> float:
        """What a prediction that cannot be scored gets."""
        return 0.0 if self.more else float("inf")

    def error(self, value: float) -> float:
        """The same with 0 as the best: 1 - value where more is better."""
        return 1 - value if self.more else value


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A prediction that no training went into, which a model should beat."""

    # what it is, in words
    words: str
    # whether it looks at the video: then it can read one that was generated, too
    looks: bool = False
    # (rgb video, true values) → predicted values; of the truth it may use the shape alone
    predict: Callable[[Video, np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Modality:
    """One kind of auxiliary video: all that the project knows of it.

    Values, numpy arrays of one clip:
        depth         float32 [t, h, w]      metres along the optical axis, inf where nothing is seen
        flow          float32 [t, h, w, 2]   pixels (right, down) from frame i-1 to i, seen at i-1; map 0 = map 1
        densepose     float32 [t, h, w, 3]   part 0..24 (0 background), U and V in [0, 1]
        skeleton      float32 [t, p, 18, 3]  x, y in pixels, visibility 0 or 1; joints in OpenPose's order
        segmentation  uint8 [t, h, w]        instance, 0 background

    Functions:
        constants(values, (h, w))     what decoding this clip needs beside the video; a JSON-able dict
        unknown_constants(h, w)       the same for a prediction whose true constants nobody knows
        encode(values, constants)     uint8 [t, h, w, 3], what the model sees
        decode(video, constants)      values again, up to rounding (densepose: U = V = 0)
        picture(values, constants)    uint8 [t, h, w, 3] for people to look at
        save(values, stem, fps)       writes the values beside `stem`, returns the paths; whole files or none
        agree(earlier, later)         values of a later clip in the terms of an earlier one, of which `earlier` is
                                      what both show: the first frames of `later`
        mix(a, b, weight)             values between two of the same frame, all of `b` at weight 1
        resize(values, from, to)      values of a picture of another size (h, w) that shows the same
        score(prediction, truth)      numbers by name, of the values of one clip; NaN where the truth defines none
        benchmark(prediction, truth, facts)
                                      more: they take longer, other facts of the clip or the extra `evaluate`
    """

    name: str
    # C_m of the paper: what the aux tokens' cross-attention reads
    type_prompt: str
    # what the colours of its video say, for people
    meaning: str
    # False: drawn from detections rather than measured at every pixel (second stage of the curriculum)
    pixel_aligned: bool
    # nothing of it is to be seen where no people are
    of_people: bool = False
    # every colour names a label, and a mix of two names a third: resized without mixing
    flat_colours: bool = False
    # map i tells of the step from frame i-1 to i, so that in every clip map 0 repeats map 1
    between_frames: bool = False
    # of a user's own (unity.modality.plug_in): the modality whose expert and table rows it starts from
    like: str | None = None
    # (exact values of other modalities, focal length in pixels) → its own: how the simulated world shows it
    derive: Callable[[Mapping[str, np.ndarray], float], np.ndarray] | None = None
    # what other datasets call it
    also_called: tuple[str, ...] = ()
    # mean and deviation of the encoded video's pixels in [-1, 1], over simulated clips
    spread: tuple[float, float]
    constants: Callable[[np.ndarray, tuple[int, int]], Constants]
    unknown_constants: Callable[[int, int], Constants]
    encode: Callable[[np.ndarray, Constants], Video]
    decode: Callable[[Video, Constants], np.ndarray]
    picture: Callable[[np.ndarray, Constants], Video]
    save: Callable[[np.ndarray, Path, float], list[Path]]
    # of clips that overlap (unity.windows); None: nothing to agree on, and nothing in between
    agree: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None
    mix: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    # by default each pixel's nearest value (unity.modality.sizes)
    resize: Callable[[np.ndarray, tuple[int, int], tuple[int, int]], np.ndarray] = nearest
    # (one picture, ratio) → its colours where the whole is 1/ratio as wide, cut or padded; None: they are the same
    redraw: Callable[[Picture, float], Picture] | None = None
    score: Callable[[np.ndarray, np.ndarray], dict[str, float]]
    # name in the score → what it means; the first is the one to look at
    measures: Mapping[str, Measure]
    benchmark: Callable[[np.ndarray, np.ndarray, Facts], dict[str, float]] | None = None
    benchmark_measures: Mapping[str, Measure] = field(default_factory=dict)
    # (prediction, truth) → what a score of all clips as one set needs of one (unity.modality.coco); the names of
    # that score's numbers
    detections: Callable[[Any, Any], Any] | None = None
    detection_measures: Mapping[str, Measure] = field(default_factory=dict)
    # "trivial" is what knowing nothing would predict; "classical", where there is one, needs no learning
    baselines: Mapping[str, Baseline]

    def redrawn(self, video: Video, ratio: float) -> Video:
        """Every picture of a video in its colours for a whole that is 1/ratio as wide; see `redraw`."""
        if self.redraw is None or ratio == 1:
            return video
        return np.stack([self.redraw(picture, ratio) for picture in video])
