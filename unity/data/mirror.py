"""A dataset that lies in a bucket, as a folder that fetches its shards when they are wanted, and keeps so many.

python -m unity.data.mirror s3://bucket/films --out data/films --keep-gb 200
deepspeed launchers/train.py --stage 1 --data data/films

What describes the dataset, or its buckets of several shapes, comes at once, and is checked. The folder then serves
like any other dataset, on each node that has one; rights and servers are told as mosaicml-streaming has them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from unity.command import check_bounds, end, real, say
from unity.data.buckets import open_buckets
from unity.data.claim import dataset_folder
from unity.data.latents.facts import read_facts
from unity.data.latents.texts import TEXTS
from unity.data.shards.index import read_index, read_names, read_record
from unity.data.shards.mirror import Mirror, download


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which dataset is mirrored, and how much of it may stay here."""

    # where its files lie: s3://bucket/folder, gs://…, hf://datasets/owner/name/folder, a mounted folder, …
    address: tyro.conf.Positional[str]
    # folder to write; it must not exist, or be empty
    out: Path
    # gigabytes of shards that stay, those wanted last; by default all. What is just being fetched comes on top
    keep_gb: Annotated[float, real(0, above=True)] | None = None


def mirror(address: str, out: Path, most: int | None = None) -> int:
    """Write the folder; bytes of all shards there. `most` bytes of them may stay here, None: all.

    Raises ValueError for an address that holds no dataset, a damaged one, and a bound below its largest shard.
    """
    address = address.rstrip("/")
    with dataset_folder(out) as new:
        parts = _describe(address, new)
        whole = sum(sum(sizes) for sizes in parts.values())
        for name, sizes in parts.items():
            share = None if most is None else most * sum(sizes) // whole
            if share is not None and share < max(sizes):
                raise ValueError(
                    f"{share} bytes are to stay of {address}/{name}, and its largest shard has {max(sizes)}: "
                    f"let more stay"
                )
            Mirror(folder=new / name, address=f"{address}/{name}".rstrip("/"), most=share).mark()
        open_buckets(new)
    return whole


def _describe(address: str, new: Path) -> dict[str, list[int]]:
    """Fetch all but the shards; bytes of each shard, by the name of the bucket, "" where there are none."""
    download(f"{address}/dataset.json", new / "dataset.json")
    names = read_names(new, here=False) or [""]
    return {name: _describe_one(f"{address}/{name}".rstrip("/"), new / name) for name in names}


def _describe_one(address: str, folder: Path) -> list[int]:
    if not (folder / "dataset.json").exists():
        download(f"{address}/dataset.json", folder / "dataset.json")
    about, hashes = read_record(folder)
    if read_facts(about) is not None:
        download(f"{address}/{TEXTS}", folder / TEXTS)
    for source in about["sources"]:
        download(f"{address}/{source}/index.json", folder / source / "index.json")
    hashed = dict.fromkeys(about["sources"]) if hashes is None else hashes
    return [shard.bytes for source, sha256 in hashed.items() for shard in read_index(folder / source, sha256)]


def main() -> None:
    options = tyro.cli(Options, prog="python -m unity.data.mirror", description=__doc__)
    check_bounds(options)
    most = None if options.keep_gb is None else int(options.keep_gb * 1e9)
    whole = mirror(options.address, options.out, most)
    stays = "all of them stay" if most is None else f"{min(most, whole) / 1e9:.3g} GB of them stay"
    say(
        f"{options.out} mirrors {options.address}: {whole / 1e9:.3g} GB of shards come as they are wanted, {stays}"
    )


if __name__ == "__main__":
    end("mirror", main)
