"""What is asked of SLURM's programs."""

import re
import shutil
import subprocess
from pathlib import Path

# answers of squeue where it knows a job no longer
_UNKNOWN = "invalid job id"


def require() -> None:
    """Raises ValueError where there is no sbatch."""
    if shutil.which("sbatch") is None:
        raise ValueError(
            "there is no sbatch on this machine; submit from a login node of the cluster, or look at the script "
            "with --dry-run"
        )


def state(job: int) -> str | None:
    """As squeue has it (PENDING, RUNNING, …); None for a job that is over.

    Raises ValueError where it cannot say.
    """
    said = _said("squeue", "--noheader", "--format=%T", f"--jobs={job}")
    if said.returncode == 0:
        return said.stdout.strip() or None
    if _UNKNOWN in said.stderr.lower():
        return None
    raise ValueError(f"squeue cannot say what became of job {job} ({_line(said.stderr)}); try again")


def submit(script: Path) -> int:
    """The id of the job that a batch script has become. Raises ValueError with what sbatch has against it."""
    said = _said("sbatch", "--parsable", str(script))
    found = re.match(r"\d+", said.stdout)
    if said.returncode or found is None:
        raise ValueError(f"sbatch refuses the job: {_line(said.stderr or said.stdout)}")
    return int(found[0])


def check_shell(script: str) -> None:
    """Raises ValueError for what bash cannot read."""
    said = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    if said.returncode:
        raise ValueError(f"--setup makes no lines that bash can read: {_line(said.stderr)}")


def _said(*command: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        raise ValueError(f"there is no {command[0]} on this machine; submit from a login node") from None
    except subprocess.TimeoutExpired:
        raise ValueError(f"{command[0]} does not answer within a minute; try again later") from None


def _line(words: str) -> str:
    return " ".join(words.split())[:300]
