"""What unity.command marks numbers with."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PrimitiveConstructorSpec:
    nargs: int
    metavar: str
    instance_from_str: Callable
    is_instance: Callable
    str_from_instance: Callable
