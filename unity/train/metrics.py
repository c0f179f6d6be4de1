"""What a step says about itself: summed over the ranks, checked, and written to files and to the terminal."""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from unity.files import json_text, whole_file
from unity.modality.table import MODALITIES
from unity.tasks import TASKS
from unity.train.world import World

# tally columns: the losses' sums and counts per task, then per modality
_KINDS = [*(f"loss/{name}" for name in TASKS), *(f"loss/{name}" for name in MODALITIES)]


class Tally:
    """Losses of one step on this rank, by task and modality."""

    def __init__(self, world: World):
        self.world = world
        # on the device, so that nothing waits before the step's reduction
        self.sums, self.counts = torch.zeros(2, len(_KINDS), dtype=torch.float64, device=world.device)
        # of this rank's latents, and after the reduction of all ranks'
        self.places = 0

    def add(
        self,
        losses: Float[Tensor, "b 2"],
        noisy: Bool[Tensor, "b 2"],
        task: Int[Tensor, " b"],
        modality: Int[Tensor, " b"],
    ) -> None:
        """A micro-batch's errors per stream; a sample's loss is the mean over its noisy streams."""
        loss = ((losses * noisy).sum(1) / noisy.sum(1)).double()
        for column in (task, len(TASKS) + modality):
            belongs = torch.nn.functional.one_hot(column, len(_KINDS)).double()
            self.sums += loss @ belongs
            self.counts += belongs.sum(0)

    def reduce(self, step: int, stop: bool) -> tuple[dict[str, float], bool]:
        """Mean losses over all ranks, and whether any rank wants to stop. The step's only synchronisation.

        Raises FloatingPointError on every rank when a loss is not finite on any.
        """
        bad = self.sums.new_zeros(self.world.size)
        bad[self.world.rank] = ~self.sums.isfinite().all()
        numbers = (self.sums.nan_to_num(0, 0, 0), self.counts, bad, self.sums.new_tensor([stop, self.places]))
        parts = (len(_KINDS), len(_KINDS), self.world.size, 1, 1)
        sums, counts, bad, stops, places = self.world.total(torch.cat(numbers)).split(parts)
        self.places = int(places)
        if bad.any():
            ranks = ", ".join(str(rank) for rank in bad.nonzero().flatten().tolist())
            raise FloatingPointError(
                f"the loss of step {step} is not finite on rank {ranks}: stopped before the update. Nothing was "
                f"overwritten; --resume goes on from the last checkpoint, for instance with a smaller --optim.lr"
            )
        tasks = slice(len(TASKS))
        means = {"loss": float(sums[tasks].sum() / counts[tasks].sum())}
        rows = zip(_KINDS, sums.tolist(), counts.tolist(), strict=True)
        return means | {name: total / count for name, total, count in rows if count}, bool(stops)


def require_finite_norm(norm: float, step: int) -> None:
    """DeepSpeed skips an update whose gradient is not finite, but counts the step; we stop instead."""
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"the gradient of step {step} is not finite though the loss is: the update was not applied. "
            f"--resume goes on from the last checkpoint, for instance with a smaller --optim.lr"
        )


def high_water(device: torch.device) -> float:
    """The most GiB that this process has held so far: of the GPU's memory, or of the machine's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # in KiB on Linux, where training runs
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class Journal:
    """metrics.jsonl and TensorBoard in the run folder, and the progress on the terminal; rank 0 keeps it.

    `ideal`: seconds that a step would take at the peak of the GPUs, by which its MFU is known (docs/cluster.md).
    A resumed run drops what an earlier one wrote beyond the step it resumes from, and says what was damaged.
    """

    def __init__(
        self, run: Path, start: int, steps: int, every: int, say: Callable[[str], None] = lambda line: None,
        ideal: float | None = None,
    ):  # fmt: skip
        self.steps, self.every, self.last, self.ideal = steps, every, time.perf_counter(), ideal
        self.path = run / "metrics.jsonl"
        _forget(self.path, start, say)
        self.file = self.path.open("a", buffering=1)
        self.board = SummaryWriter(str(run / "tensorboard"), purge_step=start)
        self.bar = tqdm(total=steps, initial=start, unit="step") if sys.stderr.isatty() else None

    def write(self, step: int, record: dict[str, float]) -> None:
        """One finished step: its losses, grad_norm, lr, and the tokens that all ranks worked through.

        May have `wait_seconds`, for data, and `memory_gib`, both of rank 0. Adds the step's seconds, saving and
        drawing of the one before with them, tokens_per_second, and mfu where there are GPUs of a known kind.
        """
        now = time.perf_counter()
        seconds, self.last = now - self.last, now
        record = {**record, "seconds": seconds, "tokens_per_second": record["tokens"] / seconds}
        if self.ideal is not None:
            record["mfu"] = self.ideal / seconds
        self.file.write(json_text({"step": step, **record}, indent=None) + "\n")
        for name, value in record.items():
            self.board.add_scalar(name, value, step)
        self._show(step, record)

    def _show(self, step: int, record: dict[str, float]) -> None:
        losses = " ".join(f"{task} {record[f'loss/{task}']:.3f}" for task in TASKS if f"loss/{task}" in record)
        line = f"loss {record['loss']:.4f} ({losses}) norm {record['grad_norm']:.2f} lr {record['lr']:.1e}"
        if self.bar is not None:
            self.bar.set_postfix_str(line)
            self.bar.update()
        elif (step + 1) % self.every == 0 or step + 1 == self.steps:
            speed = f"{record['seconds']:.2f} s {record['tokens_per_second']:.0f} tokens/s"
            print(f"step {step + 1}/{self.steps} {line} {speed}{_cost(record)}", flush=True)

    def close(self) -> None:
        self.file.close()
        self.board.close()
        if self.bar is not None:
            self.bar.close()


def _cost(record: Mapping[str, float]) -> str:
    """What else is known of a step's time and memory."""
    forms = {"mfu": "MFU {:.1%}", "wait_seconds": "waited {:.2f} s", "memory_gib": "{:.1f} GiB"}
    return "".join(f" {form.format(record[name])}" for name, form in forms.items() if name in record)


def _forget(path: Path, start: int, say: Callable[[str], None]) -> None:
    """Keep the lines of steps before `start`; a line that a killed run left unfinished goes too."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, and the run's metrics are to be written there; move it away")
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    steps = [_step(line) for line in lines]
    if damaged := sum(step is None for step in steps):
        say(f"{path}: {damaged} of {len(lines)} lines are damaged and are left out")
    kept = [line for line, step in zip(lines, steps, strict=True) if step is not None and step < start]
    if kept != lines:
        with whole_file(path) as fresh:
            fresh.write_bytes(b"".join(kept))


def _step(line: bytes) -> int | None:
    """Which step a whole line of the journal tells of."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    step = record.get("step") if isinstance(record, dict) else None
    return step if isinstance(step, int) and not isinstance(step, bool) and step >= 0 else None
