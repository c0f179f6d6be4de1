"""A sixth modality and a fourth task, each one row of its table and nothing else; run by test_one_more.py.

What is told here at the start would be a file of unity/modality with its line in the table, and a line of
unity/tasks.py. The rest is the project as everybody uses it.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from einops import repeat

from unity.modality.base import Baseline, Measure
from unity.modality.table import MODALITIES
from unity.tasks import TASKS, Task

MODALITIES["brightness"] = replace(
    MODALITIES["depth"],
    name="brightness",
    type_prompt="the brightness of every pixel",
    meaning="white is bright",
    constants=lambda values, size: {},
    unknown_constants=lambda height, width: {},
    encode=lambda values, constants: repeat(values.astype(np.uint8), "t h w -> t h w c", c=3),
    decode=lambda video, constants: video.mean(-1).astype(np.float32),
    picture=lambda values, constants: repeat(values.astype(np.uint8), "t h w -> t h w c", c=3),
    score=lambda prediction, truth: {"error": float(np.abs(prediction - truth).mean())},
    measures={"error": Measure(words="mean error", more=False)},
    baselines={"trivial": Baseline(words="black", predict=lambda rgb, truth: np.zeros_like(truth))},
)
TASKS["restyle"] = Task(
    name="restyle", noisy=(True, False), captioned=False, share=0.0, words="a video of a view, without words"
)

FRAMES, SIZE = 5, 32


def clips():
    """Two clips of every source; all have the sixth modality, none another."""
    from unity.data.clips import SOURCES, Clip

    random = np.random.default_rng(0)
    for source in SOURCES:
        for index in range(2):
            rgb = np.broadcast_to(
                random.integers(0, 255, (SIZE, SIZE, 3), np.uint8), (FRAMES, SIZE, SIZE, 3)
            ).copy()
            values = rgb.mean(-1).round().astype(np.float32)
            row = MODALITIES["brightness"]
            yield Clip(
                name=f"{source}-{index}", source=source, caption="noise", fps=8.0, values={"brightness": values},
                video={"rgb": rgb, "brightness": row.encode(values, {})}, constants={"brightness": {}},
            )  # fmt: skip


def main(folder: Path):
    # after the rows, as in a project that has them
    from unity.config import MODELS, STAGES
    from unity.data.shards import open_shards, write_shards
    from unity.evaluate.held_out import examine
    from unity.generate import load_generator
    from unity.infer import infer
    from unity.request import Request

    assert MODELS["debug"].num_modalities == 6
    assert STAGES[1].modalities == ("depth", "flow", "densepose", "brightness") and len(STAGES[2].modalities) == 6
    data = write_shards(clips(), folder / "data", seed=0, values=True)
    STAGES[2] = replace(STAGES[2], modalities=("brightness",))
    for record in train(data, folder / "run"):
        assert record["loss/brightness"] > 0 and record["loss/restyle"] > 0
    generator, shards = load_generator(folder / "run", device="cpu"), open_shards(data)
    exam = examine(generator, "brightness", [shards.clip("general", i) for i in range(2)], steps=1, guidance=1.0)
    assert exam.scores["trivial"]["error"] > 50
    assert set(exam.errors) == set(exam.samples) == set(TASKS)
    result = infer(Request(modality="brightness", out=folder / "out", steps=1, frames=5, size=(32, 32)), generator)
    assert result.values.shape == (5, 32, 32)
    print("one more of each")


def train(data: Path, out: Path) -> list[dict]:
    from unity.routing import RoutingConfig
    from unity.train import loop
    from unity.train.options import Options
    from unity.train.world import start_world, stop_world

    world = start_world()
    config = Options(
        stage=2, model="debug", data=data, out=out, steps=2, batch_size=16, save_every=2, picture_every=2,
        routing=RoutingConfig(joint=0, control=0, estimate=0.5, restyle=0.5),
        deepspeed=Path(__file__).parents[2] / "launchers/zero3.json",
    )  # fmt: skip
    loop.train(config, world)
    stop_world()
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
