"""Look over the machines before training: what would end a run after hours is said within seconds."""

import json
import platform
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata

import torch
import torch.distributed as dist

from unity.command import sentence
from unity.data.buckets import open_buckets
from unity.files import check_space, sha256
from unity.train.config import TrainConfig
from unity.train.planner.auto import here, trained
from unity.train.planner.count import parameters
from unity.train.planner.gpus import Gpu
from unity.train.planner.memory import NUMBERS, PERSISTENT
from unity.train.revision import digest
from unity.train.submit.script import FOLDER
from unity.train.world import World

PACKAGES = ("torch", "deepspeed", "triton", "unity-video")
# seconds by which clocks may differ: signs of life and the ages of files are compared across nodes
CLOCKS = 30.0
# of the expected bandwidth; below it the run says so
_SLOW = 0.5
# numbers that are summed over the ranks to measure it, and how often
_NUMBERS, _TIMES = {"cuda": 1 << 27, "cpu": 1 << 18}, 3


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a rank finds on its machine."""

    host: str
    # at one moment for all ranks, seconds since 1970
    clock: float
    # SHA-256 of the dataset's dataset.json
    data: str
    # why the dataset cannot be read here, where it cannot
    fault: str = ""
    # version by package, Python's with them, and the digest of our code
    versions: Mapping[str, str] = field(default_factory=dict)


def preflight(config: TrainConfig, world: World, say: Callable[[str], None]) -> None:
    """Compare the machines of all ranks, and measure how fast they sum; all ranks must call it.

    Raises ValueError on all ranks for what would go wrong; only warns of a slow network.
    """
    started = time.perf_counter()
    world.barrier()
    rows = world.gather(facts(config))
    world.agree(lambda: compare(rows))
    need = 2 * checkpoint_bytes(config)
    world.from_lead(lambda: check_space(config.out, need))
    if (frozen := frozen_code(config)) not in (None, rows[0].versions["code"]):
        say(f"preflight: WARNING: the code is no longer that which was submitted (digest {frozen})")
    nodes = len({row.host for row in rows})
    words = [
        f"{world.size} ranks on {nodes} machine{'s' * (nodes > 1)}",
        f"room for two checkpoints of {need / 2e9:.3g} GB",
    ]
    if world.size > 1:
        words.append(bandwidth_line(measured(world), expected(world.size, nodes)))
    say(f"preflight: {'; '.join(words)} ({time.perf_counter() - started:.1f} s)")


def facts(config: TrainConfig) -> Facts:
    """Of this rank, now."""
    now, data, fault = time.time(), "", ""
    try:
        data = sha256(config.data / "dataset.json")
        check_shards(config)
    except (OSError, ValueError) as error:
        fault = sentence(error)
    versions = {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}
    versions["code"] = digest()[:12]
    return Facts(host=socket.gethostname(), clock=now, data=data, fault=fault, versions=versions)


def check_shards(config: TrainConfig) -> None:
    """Raises ValueError for a shard that the run will want, and that is not here or not whole."""
    for bucket in open_buckets(config.data):
        for source in set(config.curriculum.sources) & bucket.counts.keys():
            bucket.shard_sizes(source)


def compare(rows: Sequence[Facts]) -> None:
    """Raises ValueError for the first thing in which the ranks' machines differ that training cannot stand."""
    unread = [f"rank {rank} on {row.host}" for rank, row in enumerate(rows) if row.fault]
    if unread:
        why = next(row.fault for row in rows if row.fault)
        raise ValueError(
            f"{_some(unread)} cannot read --data: {why}. Put the dataset where every node has it under the same "
            f"path"
        )
    _alike("another dataset.json", [row.data[:12] for row in rows], rows, "copy the same dataset to every node")
    for name in rows[0].versions:
        found = [row.versions.get(name, "") for row in rows]
        _alike(f"another {name}", found, rows, "use one environment and one checkout on every node")
    apart = max(row.clock for row in rows) - min(row.clock for row in rows)
    if apart > CLOCKS:
        late, early = (pick(rows, key=lambda row: row.clock).host for pick in (min, max))
        raise ValueError(
            f"the clocks of {late} and {early} are {apart:.0f} s apart, and {CLOCKS:.0f} may be; set them by NTP"
        )


def frozen_code(config: TrainConfig) -> str | None:
    """The digest of the code with which launchers/submit.py handed the run in, if it did."""
    try:
        return json.loads((config.out / FOLDER / "submission.json").read_bytes())["code"]["digest"][:12]
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _alike(what: str, values: Sequence[str], rows: Sequence[Facts], way: str) -> None:
    usual = Counter(values).most_common(1)[0][0]
    odd = [
        f"rank {rank} on {row.host} ({value or 'none'})"
        for rank, (row, value) in enumerate(zip(rows, values, strict=True))
        if value != usual
    ]
    if odd:
        raise ValueError(f"{_some(odd)} has {what} than the others ({usual or 'none'}); {way}")


def checkpoint_bytes(config: TrainConfig) -> int:
    """Of one checkpoint: masters, average and moments in float32, and the model for inference."""
    count = parameters(config.architecture, trained(config), PERSISTENT)
    model = count.trained if config.lora.rank else count.total
    return 4 * (4 * count.trained - count.matrices) + NUMBERS[config.precision].bytes * model


def measured(world: World) -> float:
    """Bytes/s that a rank sends while all ranks sum large tensors, as a ring of them would."""
    kind = world.device.type
    numbers = torch.zeros(_NUMBERS[kind], dtype=torch.bfloat16 if kind == "cuda" else torch.float32)
    numbers = numbers.to(world.device)
    dist.all_reduce(numbers)
    _settle(world)
    start = time.perf_counter()
    for _ in range(_TIMES):
        dist.all_reduce(numbers)
    _settle(world)
    seconds = (time.perf_counter() - start) / _TIMES
    return 2 * (world.size - 1) / world.size * numbers.nbytes / seconds


def expected(ranks: int, nodes: int) -> float | None:
    """Of `measured`, by the row of the GPU; None where there is none for it."""
    gpu = here()
    return link(gpu, ranks, nodes) if gpu and torch.cuda.is_available() else None


def link(gpu: Gpu, ranks: int, nodes: int) -> float:
    """Bytes/s of the narrowest place of a ring: inside a machine, or between machines over all their cards."""
    return gpu.link if nodes == 1 else min(gpu.link, gpu.network * ranks / nodes)


def bandwidth_line(found: float, wanted: float | None) -> str:
    """What was measured, and a warning where it is far below what was to be expected."""
    line = f"sums at {found / 1e9:.3g} GB/s a rank"
    if wanted is None:
        return line
    if found < _SLOW * wanted:
        return (
            f"WARNING: {line}, {found / wanted:.0%} of the {wanted / 1e9:.3g} expected: steps will wait for the "
            f"network (NCCL_DEBUG=INFO shows which one it took)"
        )
    return f"{line}, {found / wanted:.0%} of the {wanted / 1e9:.3g} expected"


def _settle(world: World) -> None:
    if world.device.type == "cuda":
        torch.cuda.synchronize(world.device)
    world.barrier()


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
