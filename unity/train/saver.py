"""Checkpoints beside the steps: a copy in the host's memory, and a thread that writes it while the steps go on."""

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from unity.command import sentence
from unity.train.exchange import Exchange
from unity.train.kept import Keep
from unity.train.remote import Remote
from unity.train.world import World
from unity.train.writer import Content, write
from unity.train.zero import Flats


class Snapshot:
    """Memory of the host, taken once and pinned for a GPU, for all that a rank saves."""

    def __init__(self):
        self.held: dict[str, Tensor] = {}

    def of(self, content: Content) -> Content:
        """The content as it is now, whatever becomes of the tensors later."""
        shards = {kind: self._copies(kind, flats) for kind, flats in content.shards.items()}
        parts = self._copies("frozen", [part for part, _ in content.frozen.values()])
        frozen = {
            name: (part, shape) for part, (name, (_, shape)) in zip(parts, content.frozen.items(), strict=True)
        }
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return replace(content, shards=shards, frozen=frozen)

    def _copies(self, kind: str, flats: Flats) -> Flats:
        return [self._copy(f"{kind}/{i}", flat) for i, flat in enumerate(flats)]

    def _copy(self, key: str, flat: Tensor) -> Tensor:
        if key not in self.held:
            self.held[key] = _host(flat)
        return self.held[key].copy_(flat, non_blocking=True)


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How the checkpoints of a run are written."""

    run: Path
    keep: Keep = field(default_factory=Keep)
    # the steps wait for a copy in the host's memory alone, not until the checkpoint is whole
    beside: bool = False
    # where each is copied to when it is whole
    remote: Remote | None = None


class Saver:
    """Writes the checkpoints of a run, one after the other; all ranks call `save` and `finish` together."""

    def __init__(self, world: World, manner: Manner, say: Callable[[str], None]):
        self.world, self.manner, self.say = world, manner, say
        self.snapshot = Snapshot() if manner.beside else None
        # what of the second place is to be said at the end
        self.behind = ""
        self.name, self.count = world.from_lead(lambda: secrets.token_hex(4)), 0
        self.thread: threading.Thread | None = None
        self.error: Exception | None = None
        self.over = threading.Event()

    @property
    def failed(self) -> bool:
        """Whether this rank's part of the checkpoint that is being written will not come."""
        return self.error is not None

    def save(self, step: int, content: Content) -> None:
        """Begin to write a checkpoint, when the one before is whole; raises as `finish` does."""
        self.finish()
        start = time.perf_counter()
        if self.snapshot is not None:
            content = self.snapshot.of(content)
        arguments = step, content, start, time.perf_counter() - start
        self.thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self.thread.start()
        if self.snapshot is None:
            self.finish()

    def finish(self) -> None:
        """Wait for what is being written; raises ValueError on all ranks where one of them could not."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
            self.world.agree(self._raise)

    def close(self) -> None:
        """The same at the end of a run; raises ValueError, too, where its last checkpoint was not copied."""
        self.finish()
        self.world.agree(self._raise_behind)

    def leave(self, patient: bool) -> None:
        """Let what is being written end before the run does, which has failed; without patience, give it up."""
        if not patient:
            self.over.set()
        if self.thread is not None:
            self.thread.join()

    def _write(self, step: int, content: Content, start: float, copied: float) -> None:
        self.count += 1
        exchange = Exchange(
            store=self.world.store, rank=self.world.rank, size=self.world.size, name=f"{self.name}/{self.count}",
            over=self.over,
        )  # fmt: skip
        try:
            write(exchange, self.manner.run, step, content, self.manner.keep)
        # whatever it is, the main thread of every rank must hear of it
        except Exception as error:
            self.error = error
            exchange.fail(sentence(error))
            return
        took = time.perf_counter() - start
        held = f"the steps waited {copied:.2f} s" if self.snapshot is not None else "the steps waited"
        self.say(f"saved step {step} in {took:.2f} s ({held})")
        if self.manner.remote is not None and self.world.leads:
            self._send(self.manner.remote, step)

    def _send(self, remote: Remote, step: int) -> None:
        start = time.perf_counter()
        try:
            remote.send(self.manner.run / "checkpoints" / f"step-{step:08}", self.manner.keep)
        # each file system has errors of its own, and a network that fails for a while must not cost the run
        except Exception as error:
            self.behind = f"step {step} was not copied to {remote.address} ({sentence(error)})"
            self.say(f"WARNING: {self.behind}; it is whole in {self.manner.run}, and the next save tries again")
        else:
            self.behind = ""
            self.say(f"copied step {step} to {remote.address} in {time.perf_counter() - start:.2f} s")

    def _raise(self) -> None:
        if self.error is not None:
            raise ValueError(
                f"the checkpoint could not be written: {sentence(self.error)}. --resume {self.manner.run} goes on "
                f"from the last whole one"
            ) from self.error

    def _raise_behind(self) -> None:
        if self.behind:
            raise ValueError(f"{self.behind}; {self.manner.run} holds it: copy that, or resume it to try again")


@contextmanager
def saving(world: World, manner: Manner, say: Callable[[str], None]) -> Iterator[Saver]:
    """Inside, checkpoints are written; at the end, also of a run that fails, the last one is waited for."""
    saver = Saver(world, manner, say)
    try:
        yield saver
    except BaseException as error:
        # a rank that is gone would be waited for without end
        saver.leave(patient=world.size == 1 or not isinstance(error, RuntimeError))
        raise
    saver.close()


def _host(flat: Tensor) -> Tensor:
    """Memory for a copy of a tensor; torch's own pinned memory comes in powers of two, up to twice of it."""
    held = torch.empty(flat.shape, dtype=flat.dtype)
    if flat.is_cuda and held.nbytes:
        runtime = torch.cuda.cudart()
        assert runtime is not None
        error = runtime.cudaHostRegister(held.data_ptr(), held.nbytes, 0)
        assert int(error) == 0, f"pinning {held.nbytes} bytes failed with {error}"
    return held
