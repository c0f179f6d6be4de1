"""A clip: an RGB video, what is known of its other views, and the words that go with it."""

import math
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8

from unity.modality.table import MODALITIES

# where clips come from (paper, section 3.4: OpenUni's four groups); a source's id is its place here
SOURCES = ("single_person", "two_persons", "general", "subject")

# in the order of their ids
MODALITY_NAMES = tuple(MODALITIES)


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One clip and its frame-aligned modality videos.

    `video` maps "rgb" and every available modality to uint8 [t, h, w, 3], all of one shape; a modality that
    is not there is absent. `constants` holds per modality what its decoder needs, `values` the exact numbers
    behind a modality video (may be empty), and `meta` anything that JSON can say.

    Raises ValueError for an unknown source or modality, a missing RGB video, shapes that differ, or constants that
    are no finite numbers.
    """

    name: str
    source: str
    caption: str
    fps: float
    video: dict[str, UInt8[np.ndarray, "t h w 3"]]
    constants: dict[str, dict[str, float]] = field(default_factory=dict)
    values: dict[str, np.ndarray] = field(default_factory=dict)
    meta: dict = field(default_factory=dict)

    def __post_init__(self):
        if self.source not in SOURCES:
            raise ValueError(f"clip {self.name!r} has source {self.source!r}; choose one of {SOURCES}")
        unknown = set(self.video) | set(self.values) | set(self.constants)
        unknown -= {"rgb", *MODALITY_NAMES}
        if unknown:
            raise ValueError(f"clip {self.name!r} has {sorted(unknown)}; known are rgb and {MODALITY_NAMES}")
        if "rgb" not in self.video:
            raise ValueError(f"clip {self.name!r} has no 'rgb' video; give uint8 [t, h, w, 3]")
        for stream, frames in self.video.items():
            self._check(stream, frames)
        for name, constants in self.constants.items():
            # bool is an int to Python
            kinds = {type(value) for value in constants.values()} if isinstance(constants, dict) else {dict}
            if kinds - {int, float} or not all(map(math.isfinite, constants.values())):
                raise ValueError(
                    f"clip {self.name!r}: the constants of {name} are {constants!r}; give finite numbers"
                )

    def _check(self, stream: str, frames: np.ndarray):
        shape = self.video["rgb"].shape
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape != shape:
            raise ValueError(
                f"clip {self.name!r}: {stream} is {frames.dtype} {frames.shape}, rgb is {shape}; "
                f"every video must be uint8 [t, h, w, 3] of the same shape"
            )

    @property
    def available(self) -> tuple[str, ...]:
        """The modalities that this clip has, in the order of their ids."""
        return tuple(name for name in MODALITY_NAMES if name in self.video)
