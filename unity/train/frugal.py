"""Which ways to save a GPU's memory go together, for training and for its planner. Needs no torch."""

from typing import Literal

# what waits on the host: nothing; masters, average, gradients, moments and their update; the weights, too
Offload = Literal["none", "optimizer", "weights"]


def check(*, offload: str, base_storage: str, lora_rank: int, precision: str | None, optimizer: str) -> None:
    """Raises ValueError for those that do not."""
    if offload != "none" and optimizer == "muon":
        raise ValueError(
            f"--offload {offload} updates on the host, where Muon's products would take minutes; give adamw or "
            "adamw8 as the optimizer"
        )
    if base_storage == "wide":
        return
    if not lora_rank:
        raise ValueError(
            "--base-storage is of weights that are not trained; train adapters of rank 32, say, or leave it out"
        )
    if precision == "fp8":
        raise ValueError(
            "--base-storage multiplies wide what it keeps in few bits, and --precision fp8 rounds what is wide; "
            "give --precision bf16, or leave --base-storage out"
        )
