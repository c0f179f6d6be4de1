"""A plan as lines of text, as plain values, and as a picture."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unity.config import RECOMPUTE, STAGES
from unity.extras import extra
from unity.files import whole_file
from unity.train.planner.gpus import GIB, USABLE
from unity.train.planner.options import Options
from unity.train.planner.plan import Job, Limits, Plan, choices

_COLOURS = (
    "#4c72b0",
    "#8172b3",
    "#937860",
    "#da8bc3",
    "#8c8c8c",
    "#ccb974",
    "#64b5cd",
    "#dd8452",
    "#55a868",
    "#c44e52",
)
# by what waits on the host
_WAITING = {
    "none": "",
    "optimizer": ", updated on the host",
    "weights": ", updated on the host, where weights wait",
}


def lines(name: str, plan: Plan, smallest: Plan | None) -> list[str]:
    """All that is known of a plan for a clip."""
    job = plan.job
    flops = plan.flops
    rows = [
        ("parameters", f"{job.parameters.total:,}, of which trained {job.parameters.trained:,}"),
        ("sample", f"{name}: 2 x {job.sample.tokens:,} tokens; {job.batch_size} samples a step"),
        ("choice", describe(plan)),
        ("GiB of a GPU", _listed({kind: f"{size / GIB:.2f}" for kind, size in plan.bytes.items() if size})),
        ("", f"at most {memory_line(plan)}"),
        *([("GiB of the host", f"{plan.host / GIB:.1f} for each GPU")] if plan.host else []),
        *_by_policy(plan),
        ("PFLOP a step", _listed({part: short(count / 1e15, 4) for part, count in flops.items()})),
        ("", f"together {short(sum(flops.values()) / 1e15, 4)}; and {short(plan.recomputed / 1e15, 4)} again"),
        *_sent(plan),
        ("step", f"{short(plan.step)} s, {plan.mfu:.1%} MFU, without reading and encoding"),
        *((f"stage {stage}", _hours(plan, stage)) for stage in STAGES),
        ("smallest", _cluster(smallest)),
    ]
    return [f"{label:15} {words}" for label, words in rows]


def describe(plan: Plan) -> str:
    """A choice in words."""
    choice, parallel = plan.choice, plan.job.gpus // plan.choice.sequence_parallel
    return (
        f"sequence-parallel {choice.sequence_parallel} x data-parallel {parallel}, "
        f"micro-batch {choice.micro_batch} ({plan.micro_steps} a step), recompute {choice.recompute}"
    )


def memory_line(plan: Plan) -> str:
    """The most memory, of how much, and when."""
    moments = plan.moments
    worst = max(moments, key=lambda moment: moments[moment])
    others = ", ".join(f"{name} {size / GIB:.1f}" for name, size in moments.items() if name != worst)
    room = f"{USABLE * plan.job.gpu.memory / GIB:.1f} usable of {plan.job.gpu.memory / GIB:.0f}"
    return f"{plan.peak / GIB:.1f} in the {worst} ({others}); {room}{'' if plan.fits else ': does NOT fit'}"


def ladder(jobs: Mapping[str, Job], plans: Mapping[str, Plan | None], limits: Limits) -> list[str]:
    """What fits, a line for each clip or cluster; hours are of both stages."""
    head = f"{'':15} {'tokens':>9} {'sp':>3} {'micro':>5} {'recompute':>10} {'GiB':>6} {'s/step':>8} {'MFU':>6}"
    found = [f"{head} {'hours':>8} {'GPU-hours':>10}"]
    for name, plan in plans.items():
        if plan is None:
            divides = any(choices(jobs[name], limits))
            found.append(f"{name:15} does not {'fit' if divides else 'divide'}")
            continue
        choice, hours = plan.choice, sum(map(plan.hours, STAGES))
        found.append(
            f"{name:15} {plan.job.sample.sequence:9,} {choice.sequence_parallel:3} {choice.micro_batch:5} "
            f"{choice.recompute:>10} {plan.peak / GIB:6.1f} {short(plan.step):>8} {plan.mfu:6.1%} "
            f"{short(hours):>8} {short(plan.job.gpus * hours):>10}"
        )
    return found


def short(value: float, digits: int = 3) -> str:
    """A positive number with so many digits that tell something, in full from a thousand on."""
    text = f"{value:.{digits}g}"
    return f"{value:,.0f}" if value >= 1000 or "e+" in text else text


def plain(plan: Plan | None) -> dict[str, Any] | None:
    """All figures, as JSON has them."""
    if plan is None:
        return None
    job = plan.job
    return {
        "choice": asdict(plan.choice), "fits": plan.fits, "gpus": job.gpus, "parameters": asdict(job.parameters),
        "tokens": job.sample.sequence, "bytes": plan.bytes, "moments": plan.moments, "peak_bytes": plan.peak,
        "host_bytes": plan.host, "usable_bytes": USABLE * job.gpu.memory,
        "flops": plan.flops, "recomputed_flops": plan.recomputed,
        "sent_bytes": plan.volumes, "sent_seconds": {kind: plan.seconds(kind) for kind in plan.volumes},
        "hides": plan.hides, "compute_seconds": plan.compute, "step_seconds": plan.step, "mfu": plan.mfu,
        "stages": {
            str(stage): {
                "steps": row.steps, "hours": plan.hours(stage), "gpu_hours": job.gpus * plan.hours(stage)
            }
            for stage, row in STAGES.items()
        },
    }  # fmt: skip


def draw(plans: Mapping[str, Plan], title: str, path: Path) -> None:
    """Memory of a GPU by kind, and seconds of a step, a bar for each plan."""
    with extra("report"):
        import matplotlib
        from matplotlib.figure import Figure

    names = list(plans)[::-1]
    with matplotlib.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(11, 1.8 + 0.4 * len(names)), dpi=130, layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _bars(left, names, [{k: v / GIB for k, v in plans[name].bytes.items()} for name in names])
        room = USABLE * plans[names[0]].job.gpu.memory / GIB
        left.axvline(room, color="black", linewidth=1, linestyle="--")
        left.set(xlabel=f"GiB of a GPU in the backward; the line: usable ({room:.1f})", title=title)
        _bars(right, names, [_seconds(plans[name]) for name in names])
        right.set(xlabel="seconds of a step")
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png", metadata={"Software": None})


def _seconds(plan: Plan) -> dict[str, float]:
    exposed = max(0.0, plan.beside - plan.compute)
    return {
        "computation": plan.compute, "weights and gradients that do not hide": exposed,
        "heads": plan.seconds("exchanged heads"), "update": plan.update,
    }  # fmt: skip


def _bars(axes: Any, names: Sequence[str], stacks: Sequence[Mapping[str, float]]) -> None:
    starts = [0.0] * len(names)
    for kind, colour in zip(stacks[0], _COLOURS, strict=False):
        values = [stack[kind] for stack in stacks]
        axes.barh(range(len(names)), values, left=starts, color=colour, height=0.7, label=kind)
        starts = [start + value for start, value in zip(starts, values, strict=True)]
    axes.set_yticks(range(len(names)), names)
    axes.legend(frameon=False, fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))


def policies(plan: Plan) -> dict[str, Plan]:
    """The same plan with each kind of recomputation."""
    return {name: replace(plan, choice=replace(plan.choice, recompute=name)) for name in RECOMPUTE}


def _sent(plan: Plan) -> Iterable[tuple[str, str]]:
    sent = {kind: short(size / 1e9) for kind, size in plan.volumes.items() if size}
    if not sent:
        yield "GB sent a step", "none, by one GPU"
        return
    hidden = f"{'hidden behind' if plan.hides else 'NOT hidden behind the'} {short(plan.compute)} s of computation"
    yield "GB sent a step", _listed(sent)
    yield "", f"weights and gradients: {short(plan.beside)} s, {hidden}"
    if plan.choice.sequence_parallel > 1:
        yield "", f"heads of attention: {short(plan.seconds('exchanged heads'))} s more"


def _by_policy(plan: Plan) -> Iterable[tuple[str, str]]:
    for name, other in policies(plan).items():
        held = other.bytes["activations"] / GIB
        fits = "" if other.fits else ", does not fit"
        yield f"  {name}", f"activations {held:.2f} GiB, {short(other.step)} s a step{fits}"


def _listed(values: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _hours(plan: Plan, stage: int) -> str:
    hours = plan.hours(stage)
    return f"{STAGES[stage].steps:,} steps, {hours:,.1f} hours, {plan.job.gpus * hours:,.0f} GPU-hours"


def _cluster(plan: Plan | None) -> str:
    if plan is None:
        return (
            "no cluster of up to 1,024 such GPUs has room for this; a shorter or smaller clip, or --precision fp8"
        )
    return f"{plan.job.gpus} GPU{'s' * (plan.job.gpus > 1)}: {describe(plan)}, {short(plan.step)} s a step"


def title(options: Options, jobs: Mapping[str, Job]) -> str:
    """What is planned, on one line."""
    job, clusters = next(iter(jobs.values())), {job.gpus for job in jobs.values()}
    trained = f"adapters of rank {job.trained.lora_rank}" if job.trained.lora_rank else "all weights"
    stored = f" beside a base in {job.trained.storage}" if job.trained.storage != "wide" else ""
    where = _WAITING[job.offload]
    on = f"{job.gpus} x {options.gpu}" if len(clusters) == 1 else f"{options.gpu}, {options.clip}"
    return f"{options.model} on {on}, {job.precision}, {trained}{stored} by {job.trained.optimizer}{where}"
