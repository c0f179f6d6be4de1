"""DeepSpeed ZeRO-3 around the model: the one file that knows DeepSpeed's insides.

ZeRO-3 cuts every parameter into one *fragment* per rank and keeps the fragments of a rank, in float32, in a few
*flats*. All that belongs to a parameter (master weight, both moments of AdamW, its average) lies at the same
place of equally shaped flats, so one layout serves averaging, checkpoints and export.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unity.train.muon import Muon, Piece

# one entry per flat
Flats = list[Tensor]


@dataclass(frozen=True, kw_only=True)
class World:
    """The processes of a run, and this one's place among them."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

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

    def from_lead(self, make: Callable):
        """What rank 0 makes, on every rank; a ValueError that it raises is raised on every rank."""
        box = [None, None]
        if self.leads:
            try:
                box[0] = make()
            except ValueError as error:
                box[1] = error
        dist.broadcast_object_list(box, src=0, device=self.device)
        if box[1] is not None:
            box[1].add_note("raised by rank 0")
            raise box[1]
        return box[0]

    def total(self, numbers: Tensor) -> Tensor:
        """The sum over ranks, in float64."""
        numbers = numbers.to(self.device, torch.float64)
        dist.all_reduce(numbers)
        return numbers.cpu()


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """Where a rank keeps its share of a parameter: `numel` values of flat `flat` from `offset` on.

    All ranks' shares are equally long; the last ones are padded beyond the parameter's own size.
    """

    flat: int
    offset: int
    numel: int
    shape: tuple[int, ...]


def device_kind() -> str:
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
    deepspeed.ops.__compatible_ops__ = {}
    rank, size, local_rank = (
        int(os.environ.get(name, alone)) for name, alone in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))
    )
    if device_kind() == "cuda":
        torch.cuda.set_device(local_rank)
        device, backend = torch.device("cuda", local_rank), "nccl"
    else:
        device, backend = torch.device("cpu"), "gloo"
        _share_cores()
    # one process needs no address to meet at: none is given without a launcher, and its port may be taken
    meeting: dict = {"store": dist.HashStore(), "rank": 0, "world_size": 1} if size == 1 else {}
    # simulating data or hashing a large checkpoint may keep one rank long
    bound = device if device.type == "cuda" else None
    dist.init_process_group(backend, timeout=timedelta(hours=2), device_id=bound, **meeting)
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
    return World(rank=rank, size=size, local_rank=local_rank, device=device)


def stop_world() -> None:
    dist.destroy_process_group()


def settings(
    base: Mapping, *, precision: str, batch_size: int, micro_batch: int, world_size: int, clip: float
) -> dict:
    """DeepSpeed's settings: `base` (launchers/zero3.json) and what the run's own flags decide.

    Raises ValueError for sizes that do not divide, and for the settings under which DeepSpeed trains wrongly.
    """
    accumulation, rest = divmod(batch_size, micro_batch * world_size)
    if rest:
        raise ValueError(
            f"batch size {batch_size} is not a multiple of {world_size} ranks x micro batch {micro_batch}; "
            f"choose --batch-size or --micro-batch so that it is"
        )
    ours = {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "bf16": {"enabled": precision != "fp32"},
        # DeepSpeed only knows its own and torch's by name
        "zero_allow_untested_optimizer": True,
    }
    if base.keys() & ours.keys():
        raise ValueError(f"leave {sorted(base.keys() & ours.keys())} out of the DeepSpeed file: flags decide them")
    zero = base.get("zero_optimization", {})
    if zero.get("stage") != 3:
        raise ValueError(f"zero_optimization.stage is {zero.get('stage')}; this trainer needs 3")
    # without it, sequence-parallel gradients are scaled or not reduced at all
    if zero.get("reduce_scatter") is not True:
        raise ValueError("zero_optimization.reduce_scatter must be true: without it gradients are wrong")
    return {**base, **ours}


def build_engine(
    build_model: Callable[[], nn.Module],
    build_optimizer: Callable,
    config: dict,
    seed: int,
    adapt: Callable[[nn.Module], None] = lambda model: None,
):
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
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    assert engine.zero_optimization_stage() == 3 and engine.zero_reduce_scatter()
    moments(engine)
    if isinstance(optimizer, Muon):
        tell_pieces(engine)
    return engine


def masters(engine) -> Flats:
    """This rank's float32 weights."""
    return [flat.data for flat in engine.optimizer.fp32_partitioned_groups_flat]


def moments(engine) -> dict[str, Flats]:
    """This rank's moments, made if the optimizer has not taken a step yet; Muon's flats have no second one."""
    inner, states = engine.optimizer.optimizer, []
    for i, flat in enumerate(engine.optimizer.fp32_partitioned_groups_flat):
        state = inner.state[flat]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=flat.device)
            state.update({name: torch.zeros_like(flat.data) for name in ("exp_avg", "exp_avg_sq")})
            if _group(engine, i)["muon"]:
                state["exp_avg_sq"] = flat.new_empty(0)
        states.append(state)
    return {name: [state[name] for state in states] for name in ("exp_avg", "exp_avg_sq")}


def _group(engine, flat: int) -> dict:
    return engine.optimizer.optimizer.param_groups[engine.optimizer.sub_group_to_group_id[flat]]


def tell_pieces(engine) -> None:
    """Tell Muon which matrices its flats are made of."""
    flats = engine.optimizer.fp32_partitioned_groups_flat
    pieces: dict[Tensor, list[Piece]] = {flat: [] for flat in flats}
    for fragment in layout(engine).values():
        if _group(engine, fragment.flat)["muon"]:
            rows, columns = fragment.shape[0], torch.Size(fragment.shape[1:]).numel()
            piece = Piece(offset=fragment.offset, numel=fragment.numel, shape=(rows, columns))
            pieces[flats[fragment.flat]].append(piece)
    engine.optimizer.optimizer.pieces = pieces


def set_optimizer_step(engine, step: int) -> None:
    """Tell AdamW's bias correction how many steps were taken."""
    for state in engine.optimizer.optimizer.state.values():
        state["step"].fill_(step)


def set_learning_rate(engine, lr: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def layout(engine) -> dict[str, Fragment]:
    """Parameter name → its fragment; the same on every rank."""
    optimizer = engine.optimizer
    fragments = {}
    for name, parameter in engine.module.named_parameters():
        flat, offset, numel = optimizer.grad_position[optimizer.get_param_id(parameter)]
        fragments[name] = Fragment(flat=flat, offset=offset, numel=numel, shape=tuple(parameter.ds_shape))
    return fragments


@torch.no_grad()
def refresh(engine) -> None:
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
        yield name, _whole(parts, piece).cpu() if world.leads else None


@torch.no_grad()
def scatter(
    world: World, fragments: Mapping[str, Fragment], flats: Flats, read: Callable[[], Mapping[str, Tensor]]
) -> None:
    """The full tensors that rank 0 reads, into every rank's flats, one at a time; all ranks must take part.

    Raises ValueError on all ranks when the tensors are not the model's.
    """
    tensors: dict[str, Tensor] = {}

    def checked():
        tensors.update(read())
        _check_shapes(fragments, tensors)

    world.from_lead(checked)
    for name, piece in fragments.items():
        mine = torch.empty(piece.numel, dtype=torch.float32, device=world.device)
        parts = _cut(tensors[name].to(world.device), piece, world.size) if world.leads else None
        dist.scatter(mine, parts, src=0)
        flats[piece.flat].narrow(0, piece.offset, piece.numel).copy_(mine)


def _check_shapes(fragments: Mapping[str, Fragment], tensors: Mapping[str, Tensor]) -> None:
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = {name: piece.shape for name, piece in fragments.items()}
    wrong = sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))
    if wrong:
        rows = ", ".join(f"{n} is {found.get(n)}, not {wanted.get(n)}" for n in wrong[:4])
        raise ValueError(f"the weights do not fit the model in {len(wrong)} tensors: {rows}; check --model")


def _whole(parts: list[Tensor], piece: Fragment) -> Tensor:
    numel = torch.Size(piece.shape).numel()
    return torch.cat(parts)[:numel].view(piece.shape)


def _cut(tensor: Tensor, piece: Fragment, size: int) -> list[Tensor]:
    flat = tensor.float().flatten()
    padded = torch.nn.functional.pad(flat, (0, piece.numel * size - flat.numel()))
    return list(padded.view(size, piece.numel).unbind(0))


def _share_cores() -> None:
    """Processes of one machine share its cores, unless the user has said how."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ["LOCAL_SIZE"])))
