"""The paper's ablations: train every arm of a table from several seeds, measure, and say which way they differ.

python -m unity.evaluate.ablate --table 2 --dry-run          the arms, the steps and what it would cost
python -m unity.evaluate.ablate --table 2 fig2 --scale cpu   all of it; what is done is not done again
python -m unity.evaluate.ablate --table 4 --part 2/8         one of eight shares (launchers/ablate.sbatch)

Tables: 2 one modality or five; 3 one task or three; 4 learner, switcher, both, neither; a1 output projections;
a2 text to video or joint; a3 three modalities or five; a4 zero shot; fig2 RGB error; figa1 attention.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from unity.command import check_bounds, end, share_of, whole
from unity.evaluate.ablate.scales import SCALES
from unity.evaluate.ablate.tables import TABLES
from unity.extras import require
from unity.files import check_writable

if TYPE_CHECKING:
    Name = str
    Size = str
else:
    # the rows of tables, which a type checker cannot read
    Name, Size = Literal[tuple(TABLES)], Literal[tuple(SCALES)]


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which tables, at what size, and which share of the runs."""

    # tables and figures of the paper, see above; several share the arms that they have in common
    table: tuple[Name, ...]
    # size of models, clips and runs, a row of unity.evaluate.ablate.scales
    scale: Size = "cpu"
    # runs of each arm
    seeds: Annotated[int, whole(1, 1000)] = 3
    # folder of the runs and of the report
    out: Path = Path("runs/ablations")
    # which share of the runs this process does, 2/8 for the second of eight; the last one to end writes the report
    part: str = "1/1"
    # say what would be run and what it would cost, and do nothing
    dry_run: bool = False


def run(options: Options) -> None:
    """Do this process's share, and report; ValueError for what cannot be, before anything is made."""
    from unity.evaluate.ablate import runs
    from unity.evaluate.ablate.report import write
    from unity.evaluate.ablate.training import make_data

    check_bounds(options)
    if not options.table:
        raise ValueError(f"--table names none; give some of {', '.join(TABLES)}")
    share, folder, scale = share_of(options.part), options.out / options.scale, SCALES[options.scale]
    tables = tuple(dict.fromkeys(options.table))
    if options.dry_run:
        print(runs.plan(tables, options.scale, options.seeds, folder))
        return
    check_writable(folder)
    todo = runs.jobs(tables, options.seeds)
    if any(runs.result_of(job, scale, folder) is None for job in todo[share]):
        for extra in ("train", "simulate"):
            require(extra)
        runs.do(todo[share], scale, folder, make_data(scale, folder / "data"))
    for path in write(tables, options.scale, options.seeds, folder):
        print(f"wrote {path}")


def main() -> None:
    import tyro

    run(tyro.cli(Options, prog="python -m unity.evaluate.ablate", description=__doc__))


if __name__ == "__main__":
    end("ablate", main)
