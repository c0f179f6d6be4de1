"""The processes of a run: joining them, and what they tell each other."""

import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from unity.command import say, sentence
from unity.train.meeting import TEMPORARY, check_gpus, meet

T = TypeVar("T")

# how long a rank waits for another: simulating data or hashing a large checkpoint may keep one long
PATIENCE = timedelta(hours=2)
# what the back ends say where a process of the run has ended
_GONE = ("connection closed", "connection reset", "broken pipe", "gloo", "nccl")


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run, and this one's place among them."""

    rank: int
    size: int
    local_rank: int
    device: torch.device
    # by which the processes met, for what must not wait for all of them
    store: dist.Store = field(default_factory=dist.HashStore)

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        dist.barrier()

    def gather(self, value) -> list:
        """Every rank's value, in rank order, on every rank."""
        values = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def from_lead(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank; an error of its user's, too."""
        mine: list[T] = []
        box: list = [None, None]
        if self.leads:
            try:
                mine.append(make())
                # what cannot travel stays with rank 0
                box[0] = mine[0] if _travels(mine[0]) else None
            except (ValueError, OSError, SystemExit) as error:
                box[1] = _portable(error)
        dist.broadcast_object_list(box, src=0, device=self.device)
        told, error = box
        if error is not None:
            error.add_note("raised by rank 0")
            raise error
        return mine[0] if self.leads else told

    def agree(self, make: Callable[[], T]) -> T:
        """What each rank makes for itself; an error of its user's that any rank raises, on every rank."""
        mine: list[T] = []
        error = None
        try:
            mine.append(make())
        except (ValueError, OSError) as raised:
            error = _portable(raised)
        first = next((found for found in self.gather(error) if found is not None), None)
        if first is not None:
            first.add_note("raised by all ranks")
            raise first
        return mine[0]

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over ranks, in float64."""
        numbers = numbers.to(self.device, torch.float64)
        dist.all_reduce(numbers)
        return numbers.cpu()


# kinds of device that this process only speaks for
_expected: list[str] = []


@contextmanager
def expecting(kind: str) -> Iterator[None]:
    """Inside, what depends on the machine is that of machines of another kind, on which a run is to start."""
    _expected.append(kind)
    try:
        yield
    finally:
        _expected.pop()


def device_kind() -> str:
    """cuda or cpu."""
    if _expected:
        return _expected[-1]
    return "cuda" if torch.cuda.is_available() else "cpu"


def computes_bf16() -> bool:
    """Whether products in bfloat16 run on units of their own: on a GPU, and on CPUs since about 2021."""
    return device_kind() == "cuda" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def start_world() -> World:
    """Join the processes that a launcher started; without one, be a world of one."""
    os.environ.setdefault("DS_ACCELERATOR", device_kind())
    # zero.Init reads the first; without the second DeepSpeed counts NUMA nodes in a subprocess, every step
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("LOCAL_SIZE", os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # imported late: the accelerator must be named first, or every process prints a warning
    import deepspeed

    # or DeepSpeed would try every compiled operation on the compiler, and build one for inference on CPUs
    deepspeed.ops.__compatible_ops__ = {}  # pyright: ignore[reportAttributeAccessIssue]
    rank, size, local_rank = (
        int(os.environ.get(name, alone)) for name, alone in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    check_gpus(local_rank)
    if device_kind() == "cuda":
        torch.cuda.set_device(local_rank)
        device, backend = torch.device("cuda", local_rank), "nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
        _share_cores()
    # one process needs no address to meet at: none is given without a launcher, and its port may be taken
    store = dist.HashStore() if size == 1 else meet(rank, size)
    store.set_timeout(PATIENCE)
    bound = device if device.type == "cuda" else None
    dist.init_process_group(backend, timeout=PATIENCE, device_id=bound, store=store, rank=rank, world_size=size)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
    return World(rank=rank, size=size, local_rank=local_rank, device=device, store=store)


@contextmanager
def told_once(world: World) -> Iterator[None]:
    """What all ranks know is said by rank 0 alone, what only one of them knows by that one.

    A rank that finds another one gone says so in a sentence, and ends with the code TEMPORARY: its user can mend
    nothing, and another go may do better.
    """
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        shared = isinstance(error, FloatingPointError) or hasattr(error, "__notes__")
        if shared and not world.leads:
            raise SystemExit(2) from None
        raise ValueError(str(error)) from error
    except KeyboardInterrupt:
        if not world.leads:
            raise SystemExit(130) from None
        raise
    except RuntimeError as error:
        words = str(error)
        if "DataLoader worker" in words:
            raise ValueError(
                f"a data worker of rank {world.rank} was killed; where memory is short, give fewer --workers or a "
                f"smaller --size. --resume goes on from the last checkpoint"
            ) from error
        if world.size > 1 and any(sign in words.lower() for sign in _GONE):
            say(
                f"train: rank {world.rank} lost another process of the run, which may have said why; --resume "
                f"goes on from the last checkpoint"
            )
            raise SystemExit(TEMPORARY) from error
        raise


def stop_world() -> None:
    dist.destroy_process_group()


def _share_cores() -> None:
    """Processes of one machine share its cores, unless the user has said how."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_SIZE"])))


def _portable(error: BaseException) -> BaseException:
    """An error that every rank can unpickle: one of our own words."""
    return error if isinstance(error, SystemExit) else ValueError(sentence(error))


def _travels(value: object) -> bool:
    try:
        pickle.dumps(value)
    except (TypeError, AttributeError, pickle.PicklingError):
        return False
    return True
