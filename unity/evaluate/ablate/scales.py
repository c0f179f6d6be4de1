"""At what size the arms are trained: equal clips, steps and batches for all of them."""

from dataclasses import dataclass

from unity.config import MODELS, ModelConfig


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The size of everything, and what it costs."""

    words: str
    # whose recipe (learning rate, optimizer) is used: a row of unity.config.MODELS
    model: str
    architecture: ModelConfig
    # simulated clips of each source to learn from, and to be examined on
    clips: int
    held_out: int
    frames: int
    # height and width
    size: int
    steps: int
    batch: int
    # how often in a run its held-out errors are measured; divides the steps
    marks: int
    precision: str
    # processor seconds (of a GPU: seconds) of a step, and of all that is measured after a run
    step_seconds: float
    exam_seconds: float


SCALES: dict[str, Scale] = {
    # for tests: nothing can be learnt so
    "least": Scale(
        words="two steps", model="debug", architecture=MODELS["debug"], clips=2, held_out=1, frames=5, size=32,
        steps=2, batch=4, marks=2, precision="fp32", step_seconds=0.1, exam_seconds=10,
    ),
    "cpu": Scale(
        words="one processor core", model="debug", architecture=MODELS["debug"], clips=256, held_out=12, frames=9,
        size=32, steps=500, batch=8, marks=4, precision="fp32", step_seconds=0.12, exam_seconds=20,
    ),
    # not measured: its seconds are a guess from the shipped model's training
    "gpu": Scale(
        words="one GPU", model="mini", architecture=MODELS["mini"], clips=512, held_out=16, frames=17, size=64,
        steps=3000, batch=32, marks=6, precision="bf16", step_seconds=0.12, exam_seconds=120,
    ),
}  # fmt: skip
