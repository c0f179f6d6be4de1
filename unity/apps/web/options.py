"""What the page may be asked to show and to bear: the options of `python -m unity.apps.web`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from unity.apps.listening import Listening
from unity.command import whole
from unity.thrift import Thrift


@dataclass(frozen=True, kw_only=True)
class Options(Thrift, Listening):
    """Serve the page until Ctrl-C. Jobs wait in a queue that outlives the program."""

    # folder of the queue, the inputs and the results
    out: Path = Path("runs/web")
    # folders whose models (safetensors) may be chosen, beside the shipped one
    models: tuple[Path, ...] = (Path("runs"),)
    # run folders of launchers/train.py to watch
    run: tuple[Path, ...] = ()
    # datasets to look through
    data: tuple[Path, ...] = ()
    # cpu, cuda or cuda:1 …; by default a GPU if there is one
    device: str | None = None
    # weights of the Wan VAE and of UMT5, for the models that use them
    codec_weights: Path | None = None
    text_weights: Path | None = None
    # most jobs of one address that wait
    queue: Annotated[int, whole(1, 10_000)] = 20
    # most that a video may have: megabytes, frames, and pixels of a frame
    most_megabytes: Annotated[int, whole(1, 1 << 20)] = 256
    most_frames: Annotated[int, whole(1, 1_000_000)] = 3_000
    most_pixels: Annotated[int, whole(256, 1 << 28)] = 3840 * 2160
    # most seconds that reading a video may take
    most_seconds: Annotated[int, whole(1, 3600)] = 60
