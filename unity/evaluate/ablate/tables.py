"""The paper's ablations, a row each: which arms, what is compared of them, and what the paper printed."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number that both arms of a comparison have, by its name in `unity.evaluate.ablate.measure`."""

    words: str
    key: str
    more: bool = False
    # of the second arm, where it is another number
    other: str = ""

    @property
    def keys(self) -> tuple[str, str]:
        return self.key, self.other or self.key


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Whether the first arm is better than the second."""

    first: str
    second: str
    columns: tuple[Column, ...]
    # the paper's numbers of both, all better where they are more; where it printed none, it claims the first
    paper: tuple[tuple[float, float], ...] = ()

    @property
    def arms(self) -> tuple[str, str]:
        return self.first, self.second


@dataclass(frozen=True, kw_only=True)
class Ablation:
    """One table or figure."""

    words: str
    comparisons: tuple[Comparison, ...]
    # names of numbers that are followed through the runs
    curves: tuple[str, ...] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(arm for row in self.comparisons for arm in row.arms))


def _pairs(first: Sequence[float], second: Sequence[float]) -> tuple[tuple[float, float], ...]:
    return tuple(zip(first, second, strict=True))


VIDEO = Column(words="RGB from its caption: error", key="video/rgb")
JOINT = Column(words="RGB of a pair: error", key="joint/*/rgb")
VIEW = Column(words="view of a pair: error", key="joint/*/aux")
CONTROL = Column(words="RGB that follows: error", key="control/*/rgb")
ESTIMATE = Column(words="estimates: error", key="estimate/*/aux")
CONFUSION = Column(words="estimates taken for another modality", key="confusion")
FLICKER = Column(words="flickering (1 is none)", key="made/*/flicker", more=True)
SMOOTH = Column(words="motion smoothness", key="made/*/smoothness", more=True)
PAIR = (JOINT, VIEW, FLICKER, SMOOTH)
PARTS = (JOINT, VIEW, CONTROL, ESTIMATE, CONFUSION, FLICKER, SMOOTH)

# subject, background, imaging, overall
_BASE = (96.51, 96.06, 64.99, 23.17)
_FLOW, _ALL_FLOW = (97.82, 97.14, 67.34, 23.70), (97.97, 97.19, 69.36, 23.74)
_DEPTH, _ALL_DEPTH = (98.13, 97.29, 69.09, 23.48), (98.01, 97.24, 69.18, 23.75)
# subject, background, flicker, smoothness
_NEITHER, _LEARNER = (96.51, 96.06, 98.73, 99.30), (97.92, 97.08, 99.04, 99.42)
_SWITCHER, _BOTH = (97.94, 97.18, 99.13, 99.48), (98.31, 97.54, 99.35, 99.54)
_CONTROL, _ALL_CONTROL = (96.53, 95.58, 98.45, 99.28), (96.53, 96.08, 98.79, 99.38)
_JOINT, _ALL_JOINT = (98.01, 97.24, 99.10, 99.44), (97.94, 97.18, 99.13, 99.48)
_THREE, _FIVE = (98.01, 97.24, 99.10, 99.44), (98.31, 97.54, 99.35, 99.54)
_THREE_CONTROL, _FIVE_CONTROL = (97.83, 96.86, 98.87, 99.33), (97.87, 97.32, 99.57, 99.39)

TABLES: dict[str, Ablation] = {
    "2": Ablation(
        words="one modality or five",
        comparisons=(
            Comparison(first="flow", second="t2v", columns=(VIDEO,), paper=_pairs(_FLOW, _BASE)),
            Comparison(first="depth", second="t2v", columns=(VIDEO,), paper=_pairs(_DEPTH, _BASE)),
            Comparison(first="unified", second="flow", columns=(VIDEO, *PAIR), paper=_pairs(_ALL_FLOW, _FLOW)),
            Comparison(first="unified", second="depth", columns=(VIDEO, *PAIR), paper=_pairs(_ALL_DEPTH, _DEPTH)),
        ),
    ),
    "3": Ablation(
        words="one task or three",
        comparisons=(
            Comparison(
                first="unified", second="control", columns=(CONTROL,), paper=_pairs(_ALL_CONTROL, _CONTROL)
            ),
            Comparison(first="unified", second="joint", columns=(VIDEO, *PAIR), paper=_pairs(_ALL_JOINT, _JOINT)),
        ),
    ),
    "4": Ablation(
        words="in-context learner, switcher, both or neither",
        comparisons=(
            Comparison(first="learner", second="neither", columns=PARTS, paper=_pairs(_LEARNER, _NEITHER)),
            Comparison(first="switcher", second="neither", columns=PARTS, paper=_pairs(_SWITCHER, _NEITHER)),
            Comparison(first="unified", second="learner", columns=PARTS, paper=_pairs(_BOTH, _LEARNER)),
            Comparison(first="unified", second="switcher", columns=PARTS, paper=_pairs(_BOTH, _SWITCHER)),
        ),
    ),
    "a1": Ablation(
        words="output projections: one for all, or one each",
        comparisons=(
            Comparison(first="unified", second="shared-output", columns=PARTS, paper=((98.700, 98.685),)),
        ),
    ),
    "a2": Ablation(
        words="text to video, or joint generation",
        comparisons=(Comparison(first="joint", second="t2v", columns=(VIDEO,), paper=_pairs(_JOINT, _NEITHER)),),
    ),
    "a3": Ablation(
        words="three modalities or five",
        comparisons=(
            Comparison(first="unified", second="three", columns=(VIDEO, *PAIR), paper=_pairs(_FIVE, _THREE)),
            Comparison(
                first="unified", second="three", columns=(CONTROL,), paper=_pairs(_FIVE_CONTROL, _THREE_CONTROL)
            ),
        ),
    ),
    "a4": Ablation(
        words="zero shot: two persons after one, two objects after two persons",
        comparisons=(
            Comparison(
                first="single-person", second="single-person",
                columns=tuple(
                    Column(words=f"{m} of two persons: error (second: without a model)",
                           key=f"two_persons/{m}/own", other=f"two_persons/{m}/nothing")
                    for m in ("skeleton", "densepose", "segmentation", "depth", "flow")
                ),
            ),
            Comparison(
                first="two-persons", second="two-persons",
                columns=(
                    Column(words='objects, asked for as "two objects": error (second: without a model)',
                           key="general/segmentation/two objects", other="general/segmentation/nothing"),
                    Column(words='objects, asked for as "two objects": error (second: as "two persons")',
                           key="general/segmentation/two objects", other="general/segmentation/two persons"),
                ),
            ),
        ),
    ),
    "fig2": Ablation(
        words="RGB error during training, one modality or several",
        comparisons=tuple(
            Comparison(first="unified", second=arm, columns=(VIDEO,)) for arm in ("t2v", "depth", "flow")
        ),
        curves=("video/rgb",),
    ),
    "figa1": Ablation(
        words="attention between the streams grows during training",
        comparisons=(
            Comparison(
                first="unified", second="unified",
                columns=tuple(
                    Column(words=f"share of attention, {way} (second: at the first mark)", more=True,
                           key=f"attention/{way}", other=f"attention/{way}@first")
                    for way in ("rgb→aux", "aux→rgb")
                ),
            ),
        ),
        curves=("attention/rgb→aux", "attention/aux→rgb"),
    ),
}  # fmt: skip
