"""A study from models' folders: blind videos and an empty ballot, whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from unity.apps.study.design import MOST, QUESTIONS, RUINED, Design, checks, count
from unity.apps.study.folders import Contestants, contestants
from unity.apps.study.store import BASE, INVITATIONS, VIDEOS, Blind, Store, create
from unity.command import say
from unity.data.film import look, read_film
from unity.data.picture import fit
from unity.data.video import write_video
from unity.files import check_writable, plain, sha256, whole_folder, write_text
from unity.randomness import Purpose, draw

if TYPE_CHECKING:
    from unity.apps.study.options import Options

# most pixels of a video, as bytes in memory: ten seconds of 1080p, more than a rater sits through
_MOST_BYTES = 2 << 30
# height of a ruined video in blocks
_BLOCKS = 4

Video = UInt8[np.ndarray, "t h w 3"]


def make(options: "Options") -> None:
    """Write the study into its folder; one that is the same already stays. ValueError for what cannot be done."""
    found = contestants(options.models, options.prompts, options.view, options.clips)
    design = _design(options, found)
    if (options.out / BASE).is_file():
        _check_same(options.out, design)
        return
    _check(design)
    check_writable(options.out)
    _check_films(found)
    with whole_folder(options.out, last=BASE) as folder:
        blind = list(_videos(folder / VIDEOS, found, design))
        codes = [secrets.token_hex(6) for _ in range(design.invite)]
        create(folder / BASE, design, blind, codes)
        if codes:
            write_text(folder / INVITATIONS, "".join(f"#{code}\n" for code in codes))
    say(
        f"study: {len(design.models)} models, {len(design.clips)} clips, {count(design)} comparisons, of which a "
        f"rater sees {min(count(design), design.asks)}, and {design.checks} checks; in {options.out}"
    )


def _design(options: "Options", found: Contestants) -> Design:
    return Design(
        models=found.models,
        clips=found.clips,
        prompts=found.prompts,
        digests=tuple(sha256(path) for row in found.files for path in row),
        questions=tuple(options.questions),
        at_once=options.at_once,
        asks=options.asks,
        checks=options.checks,
        missed=options.missed,
        invite=options.invite,
        seed=options.seed,
    )


def _check(design: Design) -> None:
    if not design.questions or len(set(design.questions)) < len(design.questions):
        raise ValueError(f"--questions names none, or one twice; give some of {', '.join(QUESTIONS)}")
    worded = [name for name in design.questions if QUESTIONS[name].worded]
    if worded and "" in design.prompts:
        clip = design.clips[design.prompts.index("")]
        others = [name for name in QUESTIONS if not QUESTIONS[name].worded]
        raise ValueError(
            f"nothing says what {clip} should show, and raters are asked how well it does; give --prompts, or "
            f"--questions {' '.join(others)}"
        )
    if design.at_once > len(design.models):
        raise ValueError(f"--at-once is {design.at_once}, and there are {len(design.models)} models; give less")
    if design.checks > len(design.clips):
        raise ValueError(f"--checks is {design.checks}, and there are {len(design.clips)} clips; give less")
    if count(design) > MOST:
        raise ValueError(f"there are {count(design):,} comparisons, more than {MOST:,}; give fewer --clips")


def _check_films(found: Contestants) -> None:
    for path in (path for row in found.files for path in row):
        facts = look(path)
        if 3 * facts.frames * prod(facts.size) > _MOST_BYTES:
            raise ValueError(
                f"{plain(str(path))} has {facts.frames} frames of {facts.size[1]}x{facts.size[0]}, more than can "
                f"be held; cut it shorter, or make it smaller"
            )


def _check_same(out: Path, design: Design) -> None:
    """ValueError unless the folder's study is the one that is asked for."""
    with closing(Store(out)) as store:
        there = asdict(store.design)
    differ = [name for name, value in asdict(design).items() if there[name] != value]
    if differ:
        words = {"digests": "the videos' bytes"}.get(differ[0], differ[0].replace("_", " "))
        raise ValueError(
            f"{out} is another study: {words} differ; go on with it without --models, or give another --out"
        )


def _videos(folder: Path, found: Contestants, design: Design) -> Iterator[Blind]:
    """All videos under made-up names, by one encoder: nothing but pictures tells them apart."""
    places = [(clip, model) for clip in range(len(design.clips)) for model in range(len(design.models))]
    for number, (clip, model) in enumerate(places, 1):
        film = read_film(look(found.files[model][clip]))
        yield Blind(_write(folder, film.frames, film.fps), clip, model)
        say(f"study: [{number}/{len(places)}] {design.clips[clip]}, {design.models[model]}")
    for clip, shown in checks(design):
        film = read_film(look(found.files[shown[0]][clip]))
        for copy in range(len(shown) - 1):
            seed = draw(Purpose.STUDY, design.seed, clip, copy, len(shown))
            yield Blind(_write(folder, ruined(film.frames, seed), film.fps), clip, RUINED)


def ruined(frames: Video, seed: int) -> Video:
    """The video in so few blocks that nothing can be made out, its frames in any order."""
    height, width = frames.shape[1:3]
    few = (min(height, _BLOCKS), max(1, min(width, round(_BLOCKS * width / height))))
    mixed = frames[np.random.default_rng(seed).permutation(len(frames))]
    blocks = (fit(frame, (height, width), few, whole=True) for frame in mixed)
    rows, columns = (np.arange(side) * n // side for side, n in zip((height, width), few, strict=True))
    return np.stack([block[rows][:, columns] for block in blocks])


def _write(folder: Path, frames: Video, fps: float) -> str:
    """Its made-up name."""
    name = secrets.token_hex(8)
    path = write_video(frames, folder / f"{name}.mp4", fps)
    # servers tell when a file was written, and they are written model by model
    os.utime(path, (0, 0))
    return name
