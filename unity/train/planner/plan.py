"""A plan: how a model is trained on so many GPUs, whether it fits, and how long it takes; and the best of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from unity.config import RECOMPUTE, STAGES, ModelConfig
from unity.train.frugal import Offload
from unity.train.planner import memory
from unity.train.planner.count import Parameters, Product, Sample, Trained, parameters, passes, products
from unity.train.planner.gpus import (
    ATTENTION,
    COLLECTIVE,
    HOST,
    LINEAR,
    LINEAR_8,
    PASSED,
    STARTED,
    USABLE,
    Attention,
    Gpu,
)
from unity.train.planner.memory import NUMBERS, Numbers

SIZES = (1, 2, 4, 8, 16, 32, 64)
CLUSTERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
# a difference in seconds that a plan does not know
_EQUAL = 1.02
# bytes that the update reads and writes of a trained parameter: gradients, masters, moments, average, weights
_UPDATED = 46


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is trained, and on what."""

    config: ModelConfig
    trained: Trained
    sample: Sample
    # of a frame
    pixels: int
    precision: str
    # samples of a step, all GPUs together
    batch_size: int
    gpu: Gpu
    gpus: int
    # codec and text encoder are on every GPU
    encoders: bool = True
    # what waits on the host
    offload: Offload = "none"
    # by FlashAttention, or by cuDNN
    attention: Attention = "flash"

    @property
    def numbers(self) -> Numbers:
        return NUMBERS[self.precision]

    @cached_property
    def parameters(self) -> Parameters:
        return parameters(self.config, self.trained, memory.PERSISTENT)

    @cached_property
    def products(self) -> list[Product]:
        return products(self.config, self.trained, self.sample)

    def forward(self, product: Product) -> float:
        """Seconds of a product on one GPU, by measured shares of its peaks."""
        if product.part == "self-attention":
            return product.flops / (ATTENTION[self.attention][0] * self.gpu.bf16)
        eight = self._in_eight_bits(product)
        return product.flops / (LINEAR_8 * eight if eight else LINEAR * self.gpu.bf16)

    def backward(self, product: Product) -> float:
        """The same of its backward, of which in 8 bits the gradient of the weight stays wide."""
        times = product.backward
        if product.part == "self-attention":
            return times * product.flops / (ATTENTION[self.attention][1] * self.gpu.bf16)
        rounded = min(times, 1) * bool(self._in_eight_bits(product))
        wide = (times - rounded) * product.flops / (LINEAR * self.gpu.bf16)
        return wide + rounded * self.forward(product)

    def _in_eight_bits(self, product: Product) -> float | None:
        """The peak of a product in 8 bits; None for one that is not."""
        return self.gpu.fp8 if self.numbers.eight_bits and product.eight_bits else None

    @property
    def passed(self) -> tuple[float, float]:
        """Seconds of a sample's passes over activations on one GPU, forward and backward."""
        moved = passes(self.config, self.sample, self.numbers.bytes, self.numbers.eight_bits)
        forward, backward = (size / (PASSED * self.gpu.bandwidth) for size in moved)
        return forward, backward


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the one who starts a run decides."""

    # GPUs that share a sample
    sequence_parallel: int
    micro_batch: int
    # a row of unity.config.RECOMPUTE
    recompute: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a choice leads to; bytes and seconds of one GPU, seconds of one step."""

    job: Job
    choice: Choice

    @property
    def micro_steps(self) -> int:
        return self.job.batch_size * self.choice.sequence_parallel // (self.job.gpus * self.choice.micro_batch)

    @cached_property
    def bytes(self) -> dict[str, float]:
        """By kind, at the worst moment of the backward."""
        job, share = self.job, self.choice.micro_batch / self.choice.sequence_parallel
        _, worst = memory.activations(job.config, job.trained, job.sample, job.numbers, self.choice.recompute)
        return {
            **self._states,
            **memory.workspace(job.config, job.parameters, job.numbers, job.gpus, job.offload),
            "activations": share * worst,
            "latents": self.choice.micro_batch * memory.latents(job.config, job.sample),
            "encoders": memory.encoders(job.config, job.numbers) if job.encoders else 0,
        }

    @cached_property
    def moments(self) -> dict[str, float]:
        """Bytes at the worst of each part of a step."""
        job, held = self.job, self.bytes
        steady = sum(self._states.values())
        steady += held["encoders"] + held["reduction"]
        encoding = memory.encoding_space(job.config, job.numbers, job.pixels) if job.encoders else 0
        return {
            "encoding": steady + self.choice.micro_batch * encoding,
            "backward": sum(held.values()),
            "update": steady + memory.update_space(job.parameters, job.numbers, job.gpus, job.offload),
        }

    @cached_property
    def _states(self) -> dict[str, float]:
        job = self.job
        return memory.states(job.parameters, job.numbers, job.gpus, job.trained.eight_bits, job.offload)

    @cached_property
    def host(self) -> float:
        """Bytes of the host for each GPU."""
        job = self.job
        return memory.host(job.parameters, job.numbers, job.gpus, job.trained.eight_bits, job.offload)

    @property
    def peak(self) -> float:
        return max(self.moments.values())

    @property
    def fits(self) -> bool:
        return self.peak <= USABLE * self.job.gpu.memory

    @cached_property
    def flops(self) -> dict[str, float]:
        """Of a step on all GPUs, by part: three times the forward, as published, or what a frozen base leaves."""
        found: dict[str, float] = {}
        for product in self.job.products:
            times = 1 + product.backward if self.job.trained.lora_rank else 3
            found[product.part] = found.get(product.part, 0) + self.job.batch_size * times * product.flops
        return found

    @cached_property
    def recomputed(self) -> float:
        """FLOPs of a step that are computed again; counted nowhere else."""
        return self.job.batch_size * sum(product.flops * share for product, share in self._again())

    def _again(self) -> Iterator[tuple[Product, float]]:
        row, layers = RECOMPUTE[self.choice.recompute], self.job.config.num_layers
        share = sum(map(row.chooses, range(layers))) / layers
        for product in self.job.products:
            if product.inside and not (row.keeps_attention and product.part == "self-attention"):
                yield product, share

    @cached_property
    def compute(self) -> float:
        """Seconds of a step's arithmetic, and at least those to start its ops."""
        job, row, layers = self.job, RECOMPUTE[self.choice.recompute], self.job.config.num_layers
        chosen, passed = sum(map(row.chooses, range(layers))), job.passed
        once = sum(job.forward(product) + job.backward(product) for product in job.products) + sum(passed)
        again = sum(share * job.forward(product) for product, share in self._again()) + passed[0] * chosen / layers
        computed = job.batch_size * (once + again) / job.gpus
        return max(computed, self.micro_steps * (layers + chosen / 3) * STARTED)

    @cached_property
    def volumes(self) -> dict[str, float]:
        """Bytes that a GPU sends in a step. Weights come twice: the backward's gather serves the recomputation."""
        job, size, steps = self.job, self.choice.sequence_parallel, self.micro_steps
        cut, others = job.parameters.cut_bytes(job.numbers.bytes), (job.gpus - 1) / job.gpus
        row, layers = RECOMPUTE[self.choice.recompute], job.config.num_layers
        tokens = self.choice.micro_batch * job.sample.sequence / size
        # queries, keys, values, output: forward, backward and again, also where attention itself is kept
        times = 8 * layers + 4 * sum(map(row.chooses, range(layers)))
        exchanged = times * tokens * job.config.dim * job.numbers.bytes * (size - 1) / size
        return {
            "gathered weights": steps * 2 * cut * others,
            "scattered gradients": steps * job.parameters.trained * job.numbers.bytes * others,
            "exchanged heads": steps * exchanged,
            "fetched weights": steps * 2 * cut / job.gpus if job.offload == "weights" else 0,
        }

    def seconds(self, kind: str) -> float:
        """What a volume takes by itself."""
        gpu, among = self.job.gpu, self.job.gpus
        if kind == "fetched weights":
            return self.volumes[kind] / (COLLECTIVE * gpu.bus)
        if kind == "exchanged heads":
            among = self.choice.sequence_parallel
            rate = gpu.link if among <= gpu.together else gpu.network
        else:
            # every machine's share comes over all of its network cards
            rate = gpu.link if among <= gpu.together else min(gpu.link, gpu.network * gpu.together)
        return self.volumes[kind] / (COLLECTIVE * rate)

    @property
    def beside(self) -> float:
        """Seconds of what is sent and fetched that run beside the computation."""
        # what comes from the host passes another wire than what comes from GPUs
        return max(
            self.seconds("fetched weights"),
            self.seconds("gathered weights") + self.seconds("scattered gradients"),
        )

    @property
    def update(self) -> float:
        bandwidth = self.job.gpu.bandwidth if self.job.offload == "none" else HOST
        return _UPDATED * self.job.parameters.trained / self.job.gpus / bandwidth

    @property
    def step(self) -> float:
        """Seconds, without encoding and reading: what is sent beside hides, what heads exchange does not."""
        return max(self.compute, self.beside) + self.seconds("exchanged heads") + self.update

    @property
    def hides(self) -> bool:
        """Whether what is sent beside the computation takes no time of its own."""
        return self.beside <= self.compute

    @property
    def mfu(self) -> float:
        return sum(self.flops.values()) / (self.step * self.job.gpus * self.job.gpu.bf16)

    def hours(self, stage: int) -> float:
        return STAGES[stage].steps * self.step / 3600


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Choices that are open; those of one entry are made."""

    sequence_parallel: tuple[int, ...] = SIZES
    # None: whatever divides the batch
    micro_batch: int | None = None
    recompute: tuple[str, ...] = tuple(RECOMPUTE)


def choices(job: Job, limits: Limits) -> Iterator[Choice]:
    """All that divide: heads, tokens and GPUs by sequence-parallel sizes, the batch by what is left."""
    for size in limits.sequence_parallel:
        parallel, rest = divmod(job.gpus, size)
        if rest or job.config.num_heads % size or job.sample.tokens % size or job.batch_size % parallel:
            continue
        share = job.batch_size // parallel
        for micro in range(1, share + 1) if limits.micro_batch is None else (limits.micro_batch,):
            if share % micro == 0:
                yield from (
                    Choice(sequence_parallel=size, micro_batch=micro, recompute=row) for row in limits.recompute
                )


def undivided(job: Job, limits: Limits) -> str:
    """Why there is no choice at all, and the nearest sizes for which there is one."""
    heads, tokens, asked = job.config.num_heads, job.sample.tokens, limits.sequence_parallel
    dividing = [size for size in SIZES if not (job.gpus % size or heads % size or tokens % size)]
    sharing = max((size for size in asked if size in dividing), default=None)
    if sharing is None:
        return (
            f"--sequence-parallel {asked[0]} does not divide {job.gpus} GPUs, {heads} heads and {tokens:,} "
            f"tokens of a stream; it can be {_either(dividing)}"
        )
    unit = job.gpus // sharing * (limits.micro_batch or 1)
    below = job.batch_size // unit * unit
    ways = [f"--batch-size {_either([size for size in (below, below + unit) if size])}"]
    ways += [f"{_either(near)} GPUs"] if (near := _nearest(job, limits)) else []
    micro = f" in micro-batches of {limits.micro_batch}" if limits.micro_batch else ""
    shared = f", of which up to {sharing} may share a sample" if sharing > 1 else ""
    return f"{job.batch_size} samples do not divide over {job.gpus} GPUs{micro}{shared}; give {', or '.join(ways)}"


def _nearest(job: Job, limits: Limits) -> list[int]:
    """The next numbers of GPUs, fewer and more, for which there is a choice."""
    sides = range(job.gpus - 1, 0, -1), range(job.gpus + 1, CLUSTERS[-1] + 1)
    found = (next((n for n in side if any(choices(replace(job, gpus=n), limits))), None) for side in sides)
    return [number for number in found if number is not None]


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))


def best(job: Job, limits: Limits) -> Plan | None:
    """Of those that fit and are about as fast as the fastest, that of fewest GPUs a sample and of least memory.

    None where none fits.
    """
    plans = [plan for plan in _plans(job, limits) if plan.fits]
    least = min((plan.step for plan in plans), default=0)
    close = (plan for plan in plans if plan.step <= _EQUAL * least)
    return min(close, key=lambda plan: (plan.choice.sequence_parallel, plan.peak), default=None)


def leanest(job: Job, limits: Limits) -> Plan | None:
    """That of least memory, whether it fits or not; None where no choice divides."""
    return min(_plans(job, limits), key=lambda plan: plan.peak, default=None)


def smallest(job: Job, limits: Limits) -> Plan | None:
    """The best plan of the smallest cluster on which there is one."""
    found = (best(replace(job, gpus=gpus), limits) for gpus in CLUSTERS)
    return next((plan for plan in found if plan is not None), None)


def _plans(job: Job, limits: Limits) -> Iterator[Plan]:
    return (Plan(job=job, choice=choice) for choice in choices(job, limits))
