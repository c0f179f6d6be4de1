"""What a step of training costs beyond its model, on one process.

    python benchmarks/trainer_bench.py [--model tiny mini --samples 8 1 --seconds 10 --json FILE]

`trainer` is `unity.train.step.train_step` as the launcher calls it: encoding, texts, noise, ZeRO-3's hooks, the
update, the tally and the average. `model` is the least that any trainer of this model does: forward, backward,
clipping and the optimizer's own arithmetic, in plain torch on the same numbers. Their losses and gradient norms
over three steps are compared first; then they take turns. `share` is the model's part of the trainer's step.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from harness import RESULTS, at_least, measure_all, result_file, write_result
from torch import Tensor, nn

from unity.config import MODELS
from unity.modality.table import MODALITIES
from unity.model.dit import UnityDiT
from unity.objective import routed_loss
from unity.train import step, zero
from unity.train.config import resolve
from unity.train.muon import Muon, Piece
from unity.train.optim import learning_rate, optimizer
from unity.train.options import MACHINES, Options
from unity.train.run import Run, build
from unity.train.signals import StopRequest
from unity.train.world import World, start_world, stop_world

COLUMNS = "model  samples  trainer ms      ±   model ms      ±   share"
# of losses and gradient norms, in float32
TOLERANCE = 1e-4


def prepared(name: str, samples: int, folder: Path, world: World) -> Run:
    """A run of the second stage at the sizes that training has on a CPU."""
    machine, launcher = MACHINES["cpu"], Path(__file__).parents[1] / "launchers/zero3.json"
    options = Options(
        stage=2, model=name, architecture=MODELS[name], out=folder / "run", data=folder / "data",
        batch_size=samples, micro_batch=samples, precision="fp32", deepspeed=launcher, picture_every=0,
        steps=machine.steps,
    )  # fmt: skip
    about = {"frames": machine.frames, "size": (machine.size, machine.size)}
    return build(resolve(options, about, world.size), world, lambda line: None)


def batch_of(samples: int) -> dict:
    """What the loader gives of as many clips, of all modalities in turn."""
    machine = MACHINES["cpu"]
    shape = (samples, machine.frames, machine.size, machine.size, 3)
    rgb, aux = (torch.randint(256, shape, dtype=torch.uint8) for _ in range(2))
    modality = torch.arange(samples) % len(MODALITIES)
    captions = [f"person number {i} walks past a red house" for i in range(samples)]
    return {
        "step": 0, "slot": torch.arange(samples), "rgb": rgb, "aux": aux, "modality": modality, "caption": captions
    }  # fmt: skip


class Plain:
    """The same model, weights and optimizer as a run's, in plain torch: weights and gradients lie in flats."""

    def __init__(self, run: Run):
        self.config = run.config.optim
        self.model = UnityDiT(run.config.architecture)
        weights = zero.gather(run.world, zero.layout(run.engine), zero.masters(run.engine))
        self.model.load_state_dict(dict(weights))
        self.muon = optimizer(self.config, self.model.named_parameters())
        assert isinstance(self.muon, Muon)
        self.flats = [self._flatten(group) for group in self.muon.param_groups]
        for group in self.muon.param_groups:
            group["lr"] = learning_rate(self.config, 0, run.config.steps) * group["scale"]

    def _flatten(self, group: dict) -> Tensor:
        """Let the parameters and gradients of a group be views of one tensor each, as the optimizer wants them."""
        parameters, place, pieces = group["params"], 0, []
        flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
        flat.grad = torch.zeros_like(flat)
        for p in parameters:
            p.data, p.grad = (whole[place : place + p.numel()].view_as(p) for whole in (flat.data, flat.grad))
            pieces.append(Piece(offset=place, numel=p.numel(), shape=(len(p), p[0].numel())))
            place += p.numel()
        group["params"] = [flat]
        second = flat.new_empty(0) if group["muon"] else torch.zeros_like(flat)
        self.muon.state[flat] = {"step": torch.zeros(()), "exp_avg": torch.zeros_like(flat), "exp_avg_sq": second}
        if group["muon"]:
            self.muon.pieces = {**self.muon.pieces, flat: pieces}
        return flat

    def step(self, given: tuple) -> tuple[float, float]:
        """An optimizer step on what `routed_loss` takes: the loss of its samples, and the gradient's norm."""
        for flat in self.flats:
            flat.grad.zero_()
        loss, losses = routed_loss(self.model, *given)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.flats, self.config.clip)
        self.muon.step()
        noisy = given[2].noisy
        return ((losses * noisy).sum(1) / noisy.sum(1)).mean().item(), norm.item()


def seen_by_model(run: Run, batch: dict) -> tuple:
    """What `routed_loss` is given in a step of this batch, whose update is left out."""
    parts = step.micro_batches(batch, run.engine.train_micro_batch_size_per_gpu())
    (part,) = parts
    route = step.drawn(run, part)
    (latents,) = step.encoded(run, [(part, route)])
    noise = step.draw_noise(
        run.config.seed, part["step"], part["slot"].tolist(), latents.shape[1:], run.world.device
    )
    return latents, noise, route, part["modality"], step.words(run, part, route)


def bench(run: Run, samples: int, seconds: float) -> dict:
    """A row; AssertionError where trainer and plain torch do not learn alike."""
    batch, plain = batch_of(samples), Plain(run)
    given = seen_by_model(run, batch)
    for _ in range(3):
        record, _ = step.train_step(run, batch, StopRequest())
        for one, other in zip((record["loss"], record["grad_norm"]), plain.step(given), strict=True):
            assert abs(one / other - 1) <= TOLERANCE, (one, other)
    calls = {"trainer": lambda: step.train_step(run, batch, StopRequest()), "model": lambda: plain.step(given)}
    found = measure_all(calls, seconds, warmup=0)
    trainer, model = found["trainer"], found["model"]
    row = {"model": run.config.model, "samples": samples}
    row |= {"trainer_ms": 1e3 * trainer.median, "trainer_spread_ms": 1e3 * trainer.spread}
    row |= {"model_ms": 1e3 * model.median, "model_spread_ms": 1e3 * model.spread}
    return row | {"share": model.median / trainer.median}


def main() -> None:
    parser = argparse.ArgumentParser(prog="trainer_bench", description=__doc__)
    parser.add_argument("--model", nargs="+", choices=["debug", "tiny", "mini", "small"], default=["tiny", "mini"])
    parser.add_argument("--samples", nargs="+", type=at_least(1), default=[8])
    parser.add_argument("--seconds", type=at_least(0, float), default=20.0, help="spent on each timing")
    parser.add_argument("--json", type=result_file, default=RESULTS / "trainer_bench.json")
    args = parser.parse_args()
    # processor time of one thread: what else runs does not count
    torch.set_num_threads(1)
    world, rows = start_world(), []
    torch.set_num_threads(1)
    print(COLUMNS)
    for name in args.model:
        for samples in args.samples:
            with tempfile.TemporaryDirectory() as folder:
                row = bench(prepared(name, int(samples), Path(folder), world), int(samples), args.seconds)
            rows.append(row)
            print(
                f"{name:6} {samples:7} {row['trainer_ms']:11.1f} {row['trainer_spread_ms']:6.1f} "
                f"{row['model_ms']:10.1f} {row['model_spread_ms']:6.1f}  {row['share']:6.1%}",
                flush=True,
            )
    stop_world()
    print(write_result(args.json.stem, rows, "cpu", args.json.parent, method=" ".join(__doc__.split())))


if __name__ == "__main__":
    main()
