"""How the processes of a run find their GPUs and each other, and what is said of those that never come."""

import os
import socket
from datetime import timedelta
from typing import NoReturn

import torch
import torch.distributed as dist

from unity.command import say

# how long the ranks wait for each other to start: nodes boot, and the first import from a shared disk is slow
ARRIVAL = timedelta(minutes=10)
# exit code of a run that failed for no mistake of its user's, and may do better when it is started again
TEMPORARY = 75


def check_gpus(local_rank: int) -> None:
    """Raises ValueError where this machine has not the GPUs that its ranks are to use; before the ranks meet."""
    found, asked = torch.cuda.device_count(), os.environ.get("UNITY_GPUS_PER_NODE", "")
    if asked.isdigit() and int(asked) and found != int(asked):
        raise ValueError(
            f"{socket.gethostname()} has {found} GPUs that can be used, and the job asked for {asked}; look at "
            f"nvidia-smi there, leave the node out (--sbatch exclude={socket.gethostname()}), or ask for {found}"
        )
    if found and local_rank >= found:
        raise ValueError(
            f"{socket.gethostname()} has {found} GPUs, and rank {local_rank} of this machine wants its own; "
            f"start at most {found} ranks there"
        )


def meet(rank: int, size: int, patience: timedelta = ARRIVAL) -> dist.Store:
    """The store by which all ranks have found each other.

    Where some do not come, says which, on rank 0, and ends the process with the code TEMPORARY. Raises ValueError
    where the launcher named no place to meet at, or one that is taken.
    """
    address, port = os.environ.get("MASTER_ADDR"), os.environ.get("MASTER_PORT", "")
    # 0 is any free one, of which torchrun tells its workers nothing more
    if not address or not port.isdigit() or not int(port):
        raise ValueError(
            f"{size} processes are to meet, and MASTER_ADDR and MASTER_PORT do not say where; start them with "
            f"deepspeed, srun (launchers/submit.py) or torchrun"
        )
    # torchrun holds the store of its workers itself, and tells their goes apart
    held = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        store = dist.TCPStore(
            address, int(port), size, is_master=rank == 0 and not held, timeout=patience, wait_for_workers=False,
            multi_tenant=True,
        )  # fmt: skip
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        if "EADDRINUSE" in str(error):
            raise ValueError(
                f"port {port}, at which the processes of this run meet, is in use, perhaps by another run; "
                f"give the deepspeed launcher another --master_port"
            ) from error
        _leave(f"rank {rank} on {socket.gethostname()} did not reach rank 0 at {address}:{port}", patience)
    if held:
        store = dist.PrefixStore(f"attempt-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    _gather(store, rank, size, patience)
    return store


def _gather(store: dist.Store, rank: int, size: int, patience: timedelta) -> None:
    keys = [f"arrived/{number}" for number in range(size)]
    try:
        store.set(keys[rank], socket.gethostname())
        store.wait(keys, patience)
    except (dist.DistStoreError, dist.DistNetworkError):
        if rank:
            raise SystemExit(TEMPORARY) from None
        missing = [number for number, key in enumerate(keys) if not store.check([key])]
        there = sorted({store.get(keys[number]).decode() for number in set(range(size)) - {*missing}})
        names = ", ".join(map(str, missing[:16])) + (" …" if len(missing) > 16 else "")
        _leave(f"{len(missing)} of {size} ranks never came ({names}), only those on {', '.join(there)}", patience)


def _leave(what: str, patience: timedelta) -> NoReturn:
    say(
        f"train: {what} within {patience.total_seconds():.0f} s; look at the other nodes and the network between "
        f"them, and start the run again"
    )
    raise SystemExit(TEMPORARY)
