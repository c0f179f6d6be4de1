"""What becomes of a batch job whose ranks have ended: `python -m unity.train.submit.after RUN CODE ENDED`.

The batch script asks this; the answer is the exit code. AGAIN hands the job in once more.
"""

import json
import sys
from pathlib import Path

from unity.command import end
from unity.files import write_json
from unity.train.folder import checkpoints
from unity.train.submit.script import AGAIN, FOLDER

# what its user can mend, and nobody else (unity.command.end)
_MISTAKE = 2


def decide(run: Path, code: int, ended: bool) -> tuple[int, str]:
    """The script's exit code, and why; counts, in the run folder, the goes that came no step further.

    `code` is that of the ranks, `ended` whether SLURM has told the script to end.
    """
    done, steps = _steps_done(run), _read(run / "config.json").get("steps")
    where = f"after {done} of {steps} steps" if steps else "before its first step"
    if code == 0 and steps and done >= steps:
        return 0, f"the run is finished: {run}/model has its weights"
    if ended:
        return code, f"the job was told to end {where}; if it was requeued, or is submitted again, it goes on"
    if code == _MISTAKE:
        return code, f"the run refused to go on {where}, see above; it is not handed in again"
    allowed = _read(run / FOLDER / "submission.json").get("job", {}).get("retries", 0)
    record = run / FOLDER / "goes.json"
    before = _read(record)
    further = done > before.get("step", 0)
    vain = int(code != 0) if further else before.get("in_vain", 0) + 1
    if vain > allowed:
        why = f"the run has ended {where} with code {code}, and came no further in {vain} goes"
        return code or 1, f"{why}; it is not handed in again (--retries {allowed})"
    write_json(record, {"step": done, "in_vain": vain})
    how = "has saved and left" if code == 0 else f"has ended with code {code}"
    return AGAIN, f"the run {how} {where}; the job is handed in again"


def _steps_done(run: Path) -> int:
    """Of the newest checkpoint."""
    found = checkpoints(run)
    return int(found[0].name.removeprefix("step-")) if found else 0


def _read(path: Path) -> dict:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main() -> None:
    run, code, ended = sys.argv[1:]
    answer, why = decide(Path(run), int(code), ended == "1")
    print(f"submit: {why}", flush=True)
    sys.exit(answer)


if __name__ == "__main__":
    end("after", main)
