"""A benchmark as a command: who answers to which clips, checked before anything is loaded or written."""

from dataclasses import asdict
from pathlib import Path

import torch

from unity.data.annotate.base import Weights
from unity.data.annotate.table import WEIGHTS
from unity.data.video import write_video
from unity.data.weights import found_weights
from unity.evaluate.contestants import Answers, of_baseline, of_checkpoint, of_files
from unity.evaluate.exam import Effort
from unity.evaluate.options import Options, loaded
from unity.evaluate.peers import PEERS
from unity.evaluate.standing import write
from unity.evaluate.truth import Bench, own, simulated
from unity.evaluate.unibench import Contest, Journal, items, run
from unity.evaluate.vbench import DIMENSIONS, NETWORKS, lacking, load_judges
from unity.evaluate.witnesses import absent, load_witnesses
from unity.extras import require
from unity.files import check_writable, write_text
from unity.generate import Generator
from unity.jobs import share
from unity.modality.table import MODALITIES
from unity.tasks import TASKS
from unity.thrift import NONE

# what UniBench has where nothing else is asked for; the shipped model's frames and pixels
CLIPS, FRAMES, SIZE = 200, 17, (64, 64)


def run_bench(options: Options) -> list[Path]:
    """Answer, score, and write the report; the paths of its files."""
    folder = options.out or Path("runs/unibench")
    _check(options, folder)
    if options.export is not None:
        return _export(options, options.export)
    share([], options.part)
    weights = found_weights(options.weights, (*WEIGHTS, *NETWORKS, *PEERS))
    contest, name = _contest(options, weights)
    folder.mkdir(parents=True, exist_ok=True)
    everything = items(contest, options.tracks, tuple(options.modality or MODALITIES))
    run(contest, share(everything, options.part), folder, options.part)
    found = Journal(folder, contest.asked).found
    done = {item: found[item] for item in everything if item in found}
    about = {"contestant": name, "done": f"{len(done)} of {len(everything)}", **contest.asked}
    about["left out, as their weights are not given"] = absent(weights) | lacking(weights)
    paths = write(folder, name, done, about)
    for path in paths:
        print(f"wrote {path}")
    return paths


def _check(options: Options, folder: Path) -> None:
    if options.predictions is not None and options.baseline is not None:
        raise ValueError("--predictions and --baseline both answer; give one of them")
    if options.bench == "folder" and options.data is None:
        raise ValueError("--bench folder has no --data; give the folder of your clips")
    if options.predictions is not None and not options.predictions.is_dir():
        raise ValueError(f"{options.predictions} is no folder; give --predictions one with a folder for each clip")
    if folder.is_file():
        raise ValueError(f"{folder} is a file; give --out the name of a folder")
    if not options.tracks:
        raise ValueError("--tracks names none; give some of estimate, control, joint")
    require("evaluate")
    check_writable(options.export or folder)


def _contest(options: Options, weights: Weights) -> tuple[Contest, str]:
    effort = Effort(steps=options.steps, guidance=options.guidance, seed=options.seed)
    answers: Answers | None = None
    name, device = options.checkpoint.name, options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.baseline is not None:
        answers, name = of_baseline(options.baseline, weights, device, effort), options.baseline
    elif options.predictions is not None:
        answers, name = of_files(options.predictions), options.predictions.name
    # other baselines make no videos to be judged
    judged = options.baseline is None or options.baseline in PEERS
    referee = loaded(options) if judged else None
    bench = _bench(options, referee)
    if answers is None:
        assert referee is not None
        answers = of_checkpoint(referee, effort)
    witnesses, judges = load_witnesses(weights, device), load_judges(weights, device)
    asked = {
        "bench": options.bench,
        "data": options.data,
        "count": len(bench.names),
        "extent": _extent(referee),
        "predictions": options.predictions,
        "baseline": options.baseline,
        "witnesses": {one.name: one.made_by for one in witnesses},
        "judges": {name: weights[DIMENSIONS[name].weights].name for name in judges},
        "checkpoint": None if referee is None else options.checkpoint.name,
        "step": None if referee is None else referee.card.step,
        "schedules": None if referee is None else {task: asdict(referee.card.schedule(task)) for task in TASKS},
        **asdict(effort),
    }
    if options.baseline is not None and options.baseline in weights:
        # another size of the same model is another contestant
        asked["weights"] = weights[options.baseline].name
    if referee is not None and referee.thrift != NONE:
        asked["thrift"] = asdict(referee.thrift)
    contest = Contest(
        bench=bench,
        answers=answers,
        referee=referee,
        witnesses=witnesses,
        judges=judges,
        effort=effort,
        asked=asked,
    )
    return contest, name


def _bench(options: Options, referee: Generator | None) -> Bench:
    count = options.clips or CLIPS
    if options.bench == "folder":
        assert options.data is not None
        return own(options.data, count)
    frames, height, width = _extent(referee)
    return simulated(count, frames, (height, width))


def _extent(referee: Generator | None) -> tuple[int, int, int]:
    """Frames, height and width of the clips: those that the model was trained at."""
    return (FRAMES, *SIZE) if referee is None else (referee.card.frames, *referee.card.size)


def _export(options: Options, folder: Path) -> list[Path]:
    """TRACK/CLIP/rgb.mp4, caption.txt and the exact values, for programs of others to answer."""
    bench = _bench(options, None)
    for track in options.tracks:
        for place, name in enumerate(bench.names):
            clip, target = bench.clip(track, place), folder / track / name
            write_video(clip.video["rgb"], target / "rgb.mp4", clip.fps)
            write_text(target / "caption.txt", clip.caption + "\n")
            for modality, values in clip.values.items():
                MODALITIES[modality].save(values, target / modality, clip.fps)
            print(target, flush=True)
    return [folder]
