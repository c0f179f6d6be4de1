"""How others load the same clips: PyAV or OpenCV in torch's DataLoader, webdataset, mosaicml's StreamingDataset.

Each door is endless, so that no peer pays for the start of an epoch, and gives batches of rgb and one view. Peers
that bring no decoder get one of two: PyAV as its documentation has it, or `decode` of this project.
"""

import io
import random
import shutil
import statistics
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import av
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, RandomSampler

from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.shards import Shards
from unity.data.video import decode, write_video

# batches of an epoch: more than any run takes
_ENDLESS = 1 << 20

Door = Callable[[int], Iterator[dict]]
Decoder = Callable[[bytes], torch.Tensor]


class Files(Dataset):
    """The usual way: one H.264 mp4 per stream."""

    def __init__(self, clips: list[Clip], folder: Path, read: Callable[[str], torch.Tensor]):
        self.files, self.read = [file for clip in clips for file in _write_pairs(clip, folder / clip.name)], read

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: int) -> dict:
        rgb, aux, _ = self.files[number]
        return {"rgb": self.read(rgb), "aux": self.read(aux)}

    def loss(self) -> float:
        """Mean error, in levels of 255, of the views that these files give back."""
        errors = [np.abs(self.read(aux).numpy().astype(int) - exact) for _, aux, exact in self.files]
        return float(np.mean([error.mean() for error in errors]))

    def size(self) -> int:
        """Bytes of the two videos of a sample."""
        return statistics.mean(Path(rgb).stat().st_size + Path(aux).stat().st_size for rgb, aux, _ in self.files)


def _write_pairs(clip: Clip, stem: Path) -> list[tuple[str, str, np.ndarray]]:
    paths = {name: str(write_video(video, f"{stem}-{name}.mp4", clip.fps)) for name, video in clip.video.items()}
    return [(paths["rgb"], paths[name], clip.video[name]) for name in clip.available]


def with_opencv(path: str) -> torch.Tensor:
    capture, frames = cv2.VideoCapture(path), []
    while True:
        there, frame = capture.read()
        if not there:
            return torch.from_numpy(np.stack(frames))
        frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))


def with_pyav(file: str | io.BytesIO) -> torch.Tensor:
    with av.open(file) as container:
        # threads of a parent leave forked workers waiting
        container.streams.video[0].thread_type = "NONE"
        return torch.from_numpy(np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)]))


# how a peer may decode the bytes of a shard's videos
DECODERS: dict[str, Decoder] = {
    "PyAV": lambda data: with_pyav(io.BytesIO(data)),
    "our decoder": lambda data: torch.from_numpy(decode(data)),
}


def files(data: Files, batch: int) -> Door:
    def door(workers: int) -> Iterator[dict]:
        sampler = RandomSampler(data, replacement=True, num_samples=_ENDLESS * batch)
        return iter(DataLoader(data, batch, sampler=sampler, num_workers=workers))

    return door


def _decoded(sample: dict, read: Decoder) -> dict:
    """RGB and one of the views of a sample that is still encoded as shards have it."""
    view = random.choice([name for name in MODALITY_NAMES if sample.get(name)])
    return {"rgb": read(sample["rgb"]), "aux": read(sample[view])}


def tars(shards: Shards, folder: Path, batch: int, read: Decoder) -> Door:
    """webdataset, of the very bytes that the shards hold, one tar a source."""
    import webdataset

    folder.mkdir()
    for source, count in shards.counts.items():
        with tarfile.open(folder / f"{source}.tar", "w") as archive:
            for index in range(count):
                _add(archive, index, shards.sample(source, index))

    def door(workers: int) -> Iterator[dict]:
        names = sorted(map(str, folder.glob("*.tar")))
        data = webdataset.WebDataset(names, resampled=True, shardshuffle=False).shuffle(16)
        data = data.map(lambda s: {k.removesuffix(".ivf"): v for k, v in s.items() if k.endswith(".ivf")})
        # forked workers know what a lambda is
        data = data.map(partial(_decoded, read=read))
        return iter(webdataset.WebLoader(data, batch_size=batch, num_workers=workers))

    return door


def _add(archive: tarfile.TarFile, index: int, sample: dict) -> None:
    for name in ("rgb", *MODALITY_NAMES):
        if data := sample.get(name):
            info = tarfile.TarInfo(f"{index:06}.{name}.ivf")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def mosaic(shards: Shards, folder: Path, batch: int, read: Decoder) -> Door:
    """mosaicml's StreamingDataset on the same shards, every batch with equal shares of the sources."""
    from streaming import Stream, StreamingDataLoader, StreamingDataset

    shutil.copytree(shards.folder, folder)

    class Decoding(StreamingDataset):
        def __getitem__(self, at):
            return _decoded(super().__getitem__(at), read)

    def door(workers: int) -> Iterator[dict]:
        share = 1 / len(SOURCES)
        streams = [Stream(local=str(folder / source), proportion=share) for source in SOURCES]
        many = {"epoch_size": 4096 * batch, "batching_method": "stratified", "shuffle": True}
        data = Decoding(streams=streams, batch_size=batch, **many)
        return iter(StreamingDataLoader(data, batch_size=batch, num_workers=workers))

    return door
