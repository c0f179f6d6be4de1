"""Training on clips of several shapes: exact resume, tokens as they are, and what buckets rule out."""

import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from unity.data.buckets import describe, join
from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.loader import training_batches
from unity.data.shards import write_shards
from unity.train import loop
from unity.train.config import resolve


@pytest.fixture(scope="module")
def buckets(dataset, tmp_path_factory):
    """The small dataset, of 5 frames of 32x32, and as many clips of one source that are wide and short."""
    here = tmp_path_factory.mktemp("buckets")
    random = np.random.default_rng(0)
    video = {s: random.integers(0, 256, (1, 16, 48, 3)).astype(np.uint8) for s in ("rgb", *MODALITY_NAMES)}
    clips = (Clip(name=f"wide {i}", source=SOURCES[0], caption="", fps=8.0, video=video) for i in range(4))
    write_shards(clips, here / "wide")
    join([dataset, here / "wide"], here / "all")
    return here / "all"


@pytest.fixture
def options(buckets, four_steps):
    return four_steps(buckets, seed=2)


@pytest.mark.slow
def test_a_resumed_run_on_buckets_equals_the_unbroken_one(options, world):
    loop.train(options, world)
    shutil.copytree(options.out, options.out.with_name("cut"), symlinks=True)
    cut = replace(options, out=options.out.with_name("cut"), resume=options.out.with_name("cut"))
    shutil.rmtree(cut.out / "checkpoints/step-00000004")
    loop.train(cut, world)
    one, other = (run / "checkpoints/step-00000004" for run in (options.out, cut.out))
    names = sorted(path.relative_to(one) for path in one.rglob("*.safetensors"))
    assert len(names) >= 5
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    lines = [json.loads(line) for line in (options.out / "metrics.jsonl").read_text().splitlines()]
    # of cells of 4 frames and 4x4 pixels, in patches of 4x4 cells
    shapes = [[v.shape for v in batch["rgb"]] for batch in itertools.islice(_batches(options), 4)]
    tokens = [sum(2 * (1 + (t - 1) // 4) * (h // 16) * (w // 16) for t, h, w, _ in step) for step in shapes]
    assert [line["tokens"] for line in lines] == tokens and len(set(tokens)) == 2


def _batches(options):
    return training_batches(options.data, options.curriculum, options.batch_size, options.seed)


def test_what_buckets_rule_out_is_said(options):
    about = describe(options.data)
    config = resolve(options, about)
    assert (config.frames, config.size, config.micro_batch) == (5, (32, 32), 2)
    with pytest.raises(ValueError, match="--micro-batch 8 would mix buckets; give a divisor of the 2 clips"):
        resolve(replace(options, micro_batch=8), about)
    with pytest.raises(ValueError, match="leave --frames and --size out"):
        resolve(replace(options, frames=1), about)
    with pytest.raises(ValueError, match="does not divide 3 tokens of a stream"):
        resolve(replace(options, sequence_parallel=2), about, 2)
