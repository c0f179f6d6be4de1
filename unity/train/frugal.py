"""Which ways to save a GPU's memory go together, for training and for its planner. Needs no torch."""


def check(*, offload: str, base_storage: str, lora_rank: int, precision: str | None, optimizer: str) -> None:
    """Raises ValueError for those that do not."""
    if offload == "optimizer" and optimizer == "muon":
        raise ValueError(
            "--offload optimizer updates on the host, where Muon's products would take minutes; give adamw or "
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
