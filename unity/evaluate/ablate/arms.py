"""What is compared: an arm is the method with something left out or changed, and all else equal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from unity.modality.table import MODALITIES


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Clips of a source that the arm did not learn from, estimated under the names of their modality."""

    source: str
    modalities: tuple[str, ...]
    # what the type prompt says in place of the arm's own words, each in turn
    words: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Arm:
    """Settings, by name, that differ from those of the method: of the model, the routing, the run."""

    words: str
    architecture: Mapping[str, Any] = field(default_factory=dict)
    routing: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    probes: tuple[Probe, ...] = ()


def _only(task: str, **more: float) -> dict[str, float]:
    return {"joint": 0.0, "control": 0.0, "estimate": 0.0, task: 1.0} | more


# the words of the paper's compositional example, which latents must hold
PEOPLE, OBJECTS = "two persons", "two objects"
_TWO = Probe(source="two_persons", modalities=tuple(MODALITIES))

ARMS: dict[str, Arm] = {
    "unified": Arm(words="the method: five modalities, three tasks, every part", probes=(_TWO,)),
    "t2v": Arm(words="text to video, no second stream", routing=_only("joint", video_only=1.0)),
    "depth": Arm(words="one modality: depth", options={"learn": ("depth",)}),
    "flow": Arm(words="one modality: flow", options={"learn": ("flow",)}),
    "three": Arm(words="three modalities", options={"learn": ("depth", "flow", "densepose")}),
    "control": Arm(words="one task: control", routing=_only("control")),
    "joint": Arm(words="one task: joint", routing=_only("joint")),
    "neither": Arm(
        words="neither learner nor switcher", architecture={"in_context_learner": False, "switcher": False}
    ),
    "learner": Arm(words="in-context learner alone", architecture={"switcher": False}),
    "switcher": Arm(words="switcher alone", architecture={"in_context_learner": False}),
    "shared-output": Arm(words="one output projection for all streams", architecture={"output": "shared"}),
    "single-person": Arm(words="single persons alone", options={"sources": ("single_person",)}, probes=(_TWO,)),
    "two-persons": Arm(
        words=f'two persons alone, segmentation named "{PEOPLE}"',
        options={"sources": ("two_persons",), "type_prompts": {"segmentation": PEOPLE}},
        probes=(Probe(source="general", modalities=("segmentation",), words=(PEOPLE, OBJECTS)),),
    ),
}
