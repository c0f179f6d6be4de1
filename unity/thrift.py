"""How an answer takes less memory, or less time, than a model that lies whole on its device: the options of it.

`unity.placement` does what they say.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from unity.command import whole

# below, every step matters: nothing is predicted in place of being computed
FEW_STEPS = 16
# of both streams, up to which guidance evaluates in one pass: the memory of twice as many is little beside the
# weights, and on a GPU such a step is launches, of which one pass has half
ONE_PASS_TOKENS = 8192


@dataclass(frozen=True, kw_only=True)
class Thrift:
    """What is saved, and so what it costs; as it stands, nothing."""

    # what waits in main memory while it does not compute: parts (one of text encoder, model and VAE at a time lies
    # on the GPU), or blocks (one or two of the model, a layer of the text encoder)
    offload: Literal["none", "parts", "blocks"] = "none"
    # the matrices of the model's blocks with a byte for each number, or half of one; they compute as wide as ever
    storage: Literal["wide", "fp8", "nf4"] = "wide"
    # the Wan VAE works tile by tile: in less memory, slower; values differ a little where tiles meet
    tiled_vae: bool = False
    # 16 steps or more: attention is computed in the first three and then in one of so many, else predicted from
    # those before (TaylorSeer)
    step_cache: Annotated[int, whole(1, 16)] = 1

    @property
    def hooked(self) -> bool:
        """Whether something comes between the model's blocks."""
        return self.offload != "none" or self.step_cache > 1


def in_one_pass(asked: bool | None, tokens: int) -> bool:
    """Whether guidance evaluates so, for clips of so many tokens in both streams; what is asked for stays."""
    return tokens <= ONE_PASS_TOKENS if asked is None else asked


def thrift_of(options: Thrift) -> Thrift:
    """That of a program's options, without the others."""
    return Thrift(**{field.name: getattr(options, field.name) for field in fields(Thrift)})


def flags_of(thrift: Thrift) -> list[str]:
    """The words of a command line that ask for it."""
    words = []
    for field in fields(Thrift):
        value = getattr(thrift, field.name)
        if value != field.default:
            words += [f"--{field.name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return words


def check_steps(steps: int) -> None:
    """Raises ValueError for fewer steps than a cache may leave out of."""
    if steps < FEW_STEPS:
        raise ValueError(
            f"a cache leaves steps out, and {steps} are too few for that: take at least {FEW_STEPS} steps, or do "
            f"without it"
        )


# as it stands
NONE = Thrift()
