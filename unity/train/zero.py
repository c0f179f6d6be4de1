"""DeepSpeed ZeRO-3 around the model: the one file that knows DeepSpeed's insides.

ZeRO-3 cuts every parameter into one *fragment* per rank and keeps the fragments of a rank, in float32, in a few
*flats*. All that belongs to a parameter (master weight, both moments of AdamW, its average) lies at the same
place of equally shaped flats, so one layout serves averaging, checkpoints and export.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar, cast, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unity.train.adam8 import Adam8
from unity.train.muon import Muon, Piece
from unity.train.world import World

# of which DeepSpeed must not know (unity.train.sequence)
_GROUPS = {"sequence_parallel_size", "data_parallel_size"}
# one entry per flat
Flats = list[Tensor]
Model = TypeVar("Model", bound=nn.Module)


@runtime_checkable
class Engine(Protocol):
    """What other files use of a DeepSpeedEngine, which turns a model's losses into steps."""

    module: nn.Module
    # DeepSpeed's own around ours
    optimizer: Any

    def __call__(self, *inputs: Any, **more: Any) -> Any: ...
    def backward(self, loss: Tensor) -> Any: ...
    def step(self) -> None: ...
    def get_global_grad_norm(self) -> float: ...
    def train_micro_batch_size_per_gpu(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """Where a rank keeps its share of a parameter: `numel` values of flat `flat` from `offset` on.

    All ranks' shares are equally long; the last ones are padded beyond the parameter's own size.
    """

    flat: int
    offset: int
    numel: int
    shape: tuple[int, ...]


def settings(
    base: Mapping,
    *,
    precision: str,
    batch_size: int,
    micro_batch: int,
    world_size: int,
    clip: float,
    sequence_parallel: int = 1,
    offload: str = "none",
) -> dict:
    """DeepSpeed's settings: `base` (launchers/zero3.json) and what the run's own flags decide.

    Raises ValueError for sizes that do not divide, and for the settings under which DeepSpeed trains wrongly.
    """
    shares = world_size // sequence_parallel
    accumulation, rest = divmod(batch_size, micro_batch * shares)
    if rest:
        of = "ranks" if sequence_parallel == 1 else f"groups of {sequence_parallel} ranks"
        raise ValueError(
            f"batch size {batch_size} is not a multiple of {shares} {of} x micro batch {micro_batch}; "
            f"choose --batch-size or --micro-batch so that it is"
        )
    ours = {
        # DeepSpeed, which knows of no groups, counts a sample on every rank that has a slice of it
        "train_batch_size": batch_size * sequence_parallel,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "bf16": {"enabled": precision != "fp32"},
        # DeepSpeed only knows its own and torch's by name
        "zero_allow_untested_optimizer": True,
    }
    if base.keys() & ours.keys():
        raise ValueError(f"leave {sorted(base.keys() & ours.keys())} out of the DeepSpeed file: flags decide them")
    if base.keys() & _GROUPS:
        raise ValueError(
            f"leave {sorted(base.keys() & _GROUPS)} out of the DeepSpeed file: --sequence-parallel decides it"
        )
    zero = base.get("zero_optimization", {})
    if zero.get("stage") != 3:
        raise ValueError(f"zero_optimization.stage is {zero.get('stage')}; this trainer needs 3")
    # without it, sequence-parallel gradients are scaled or not reduced at all
    if zero.get("reduce_scatter") is not True:
        raise ValueError("zero_optimization.reduce_scatter must be true: without it gradients are wrong")
    if decided := sorted(zero.keys() & {"offload_optimizer", "offload_param"}):
        raise ValueError(f"leave {decided} out of the DeepSpeed file: --offload decides it")
    return {**base, **ours, **_offloaded(offload, zero)}


def _offloaded(offload: str, zero: Mapping) -> dict:
    """What --offload asks of DeepSpeed: masters, gradients, moments and update on the host, and weights, too."""
    if offload == "none":
        return {}
    there = {"device": "cpu", "pin_memory": True}
    moved = {"offload_optimizer": there} | ({"offload_param": there} if offload == "weights" else {})
    # or only DeepSpeed's own Adam may run there, which a compiler would have to build: torch's is fused, too
    return {"zero_optimization": {**zero, **moved}, "zero_force_ds_cpu_optimizer": False}


def build_engine(
    build_model: Callable[[], Model],
    build_optimizer: Callable,
    config: dict,
    seed: int,
    adapt: Callable[[Model], None] = lambda model: None,
) -> Engine:
    """A DeepSpeed engine around the model, whose parameters are cut up as soon as they are made.

    Only the model may be built in `build_model`: zero.Init turns every tensor made inside it to the training
    precision. `adapt` then changes its modules in place, before DeepSpeed ties itself to them.
    """
    import deepspeed

    torch.manual_seed(seed)
    with deepspeed.zero.Init(config_dict_or_path=config):
        model = build_model()
    adapt(model)
    optimizer = build_optimizer(model.named_parameters())
    made, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    assert made.zero_optimization_stage() == 3 and made.zero_reduce_scatter()
    # or gradients would be scaled by it
    assert made.sequence_parallel_size == 1
    engine = cast(Engine, made)
    moments(engine)
    if isinstance(optimizer, Muon):
        tell_pieces(engine)
    return engine


def masters(engine: Engine) -> Flats:
    """This rank's float32 weights."""
    return [flat.data for flat in engine.optimizer.fp32_partitioned_groups_flat]


def moments(engine: Engine) -> dict[str, Flats]:
    """This rank's moments, made if the optimizer has not taken a step yet.

    Muon's flats have no second one; those in 8 bits have scales beside them.
    """
    inner, states = engine.optimizer.optimizer, []
    for i, flat in enumerate(engine.optimizer.fp32_partitioned_groups_flat):
        state = inner.state[flat]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
            state.update(_fresh(inner, flat, _group(engine, i)))
        states.append(state)
    return {name: [state[name] for state in states] for name in states[0] if name != "step"}


def _fresh(inner: torch.optim.Optimizer, flat: Tensor, group: dict) -> dict[str, Tensor]:
    if isinstance(inner, Adam8):
        return inner.fresh(flat)
    first, second = (
        torch.zeros_like(flat.data),
        flat.new_empty(0) if group["muon"] else torch.zeros_like(flat.data),
    )
    return {"exp_avg": first, "exp_avg_sq": second}


def _group(engine: Engine, flat: int) -> dict:
    return engine.optimizer.optimizer.param_groups[engine.optimizer.sub_group_to_group_id[flat]]


def tell_pieces(engine: Engine) -> None:
    """Tell Muon which matrices its flats are made of."""
    flats = engine.optimizer.fp32_partitioned_groups_flat
    pieces: dict[Tensor, list[Piece]] = {flat: [] for flat in flats}
    for fragment in layout(engine).values():
        if _group(engine, fragment.flat)["muon"]:
            rows, columns = fragment.shape[0], torch.Size(fragment.shape[1:]).numel()
            piece = Piece(offset=fragment.offset, numel=fragment.numel, shape=(rows, columns))
            pieces[flats[fragment.flat]].append(piece)
    engine.optimizer.optimizer.pieces = pieces


def set_optimizer_step(engine: Engine, step: int) -> None:
    """Tell AdamW's bias correction how many steps were taken."""
    for state in engine.optimizer.optimizer.state.values():
        state["step"].fill_(step)


def set_learning_rate(engine: Engine, lr: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def layout(engine: Engine) -> dict[str, Fragment]:
    """Name of a parameter that is trained → its fragment; the same on every rank."""
    optimizer = engine.optimizer
    fragments = {}
    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        flat, offset, numel = optimizer.grad_position[optimizer.get_param_id(parameter)]
        fragments[name] = Fragment(flat=flat, offset=offset, numel=numel, shape=_shape(parameter))
    return fragments


@torch.no_grad()
def refresh(engine: Engine) -> None:
    """Make the weights that compute equal to the masters, after the masters were written."""
    optimizer = engine.optimizer
    optimizer.empty_partition_cache()
    for i in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(i)
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


@torch.no_grad()
def gather(world: World, fragments: Mapping[str, Fragment], flats: Flats) -> Iterator[tuple[str, Tensor | None]]:
    """Each parameter put together on rank 0's CPU (None elsewhere), one at a time; all ranks must take part."""
    for name, piece in fragments.items():
        mine = flats[piece.flat].narrow(0, piece.offset, piece.numel).to(world.device)
        parts = [torch.empty_like(mine) for _ in range(world.size)] if world.leads else None
        dist.gather(mine, parts, dst=0)
        yield name, None if parts is None else _whole(parts, piece).cpu()


def frozen(engine: Engine) -> dict[str, tuple[Tensor, tuple[int, ...]]]:
    """Name of a parameter that is not trained → this rank's fragment of it, and the shape of the whole."""
    parameters = engine.module.named_parameters()
    return {name: (cast(Any, p).ds_tensor.data, _shape(p)) for name, p in parameters if not p.requires_grad}


@torch.no_grad()
def fill(world: World, engine: Engine, read: Callable[[str], Tensor | None]) -> None:
    """The full tensors that rank 0 reads, into every rank's weights, one at a time; all ranks must take part.

    `read` is asked for every parameter's name, on rank 0 alone; None leaves the parameter as it is. What is frozen
    has no master. Raises ValueError on all ranks where reading does, or where a tensor is not the model's.
    """
    fragments, flats = layout(engine), masters(engine)
    for name, parameter in engine.module.named_parameters():
        box: list[Tensor | None] = [None]
        if not world.from_lead(partial(_take, box, read, name, _shape(parameter))):
            continue
        if name in fragments:
            _scatter(world, fragments[name], flats, box[0])
        else:
            _set_frozen(parameter, box[0])
    refresh(engine)


def _take(box: list, read: Callable[[str], Tensor | None], name: str, shape: tuple[int, ...]) -> bool:
    box[0] = tensor = read(name)
    if tensor is not None and tuple(tensor.shape) != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, and the model's is {shape}; check --model")
    return tensor is not None


def _scatter(world: World, piece: Fragment, flats: Flats, tensor: Tensor | None) -> None:
    mine = torch.empty(piece.numel, dtype=torch.float32, device=world.device)
    parts = None if tensor is None else _cut(tensor.to(world.device), piece, world.size)
    dist.scatter(mine, parts, src=0)
    flats[piece.flat].narrow(0, piece.offset, piece.numel).copy_(mine)


def _set_frozen(parameter: nn.Parameter, tensor: Tensor | None) -> None:
    from deepspeed import zero as deepspeed_zero

    with deepspeed_zero.GatheredParameters([parameter], modifier_rank=0):
        if tensor is not None:
            parameter.data.copy_(tensor)


def _shape(parameter: nn.Parameter) -> tuple[int, ...]:
    # ZeRO-3 has taken the values away, but remembers the shape
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _whole(parts: list[Tensor], piece: Fragment) -> Tensor:
    numel = torch.Size(piece.shape).numel()
    return torch.cat(parts)[:numel].view(piece.shape)


def _cut(tensor: Tensor, piece: Fragment, size: int) -> list[Tensor]:
    flat = tensor.float().flatten()
    padded = torch.nn.functional.pad(flat, (0, piece.numel * size - flat.numel()))
    return list(padded.view(size, piece.numel).unbind(0))
