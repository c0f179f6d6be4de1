"""What a study may be asked to be: the options of `python -m unity.apps.study`."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from unity.apps.listening import Listening
from unity.apps.study.design import QUESTIONS, SHOWN
from unity.command import check_bounds, whole

if TYPE_CHECKING:
    Question = str
else:
    # the rows of a table, which a type checker cannot read
    Question = Literal[tuple(QUESTIONS)]


@dataclass(frozen=True, kw_only=True)
class Options(Listening):
    """Make a study of the folders of --models, or go on with the one in --out, and serve it until Ctrl-C."""

    # a folder of videos for each model, alike in their names: what unity.jobs writes, or files with names of clips
    models: tuple[Path, ...] = ()
    # what the clips should show, where no run.json, caption.txt or NAME.txt beside the videos tells: a folder of
    # such texts, or JSON lines as unity.jobs takes them
    prompts: Path | None = None
    # which video of a folder of results is judged: rgb, or a modality's
    view: str = "rgb"
    # most clips, spread over the names
    clips: Annotated[int, whole(1, 10_000)] = 12
    # what raters are asked of each comparison
    questions: tuple[Question, ...] = tuple(QUESTIONS)
    # videos of a comparison
    at_once: Annotated[int, whole(2, SHOWN)] = 2
    # most comparisons of one rater; those with the fewest raters come first
    asks: Annotated[int, whole(1, 1000)] = 24
    # comparisons beside them whose answer is known: a video, and ruined copies of it
    checks: Annotated[int, whole(0, 100)] = 3
    # wrong ones of these after which a rater's votes do not count
    missed: Annotated[int, whole(0, 100)] = 1
    # raters who get an address of their own, written to invitations.txt, and then nobody else may vote; 0: anybody
    invite: Annotated[int, whole(0, 10_000)] = 0
    # of the clips that are ruined, and of what each rater sees in what order
    seed: Annotated[int, whole(0)] = 0
    # folder of the study: its videos under made-up names, its votes, its report
    out: Path = Path("runs/study")
    # write the report of what was voted so far, and serve nothing
    report: bool = False


# what is settled when a study is made
_DESIGN = (
    {field.name for field in fields(Options)} - {field.name for field in fields(Listening)} - {"out", "report"}
)


def start(options: Options) -> None:
    """Make, go on, or report; ValueError, before anything is written, for what cannot be done."""
    # which read videos
    from unity.apps.study.make import make

    check_bounds(options)
    if options.models and not options.report:
        make(options)
    elif given := [f.name for f in fields(options) if f.name in _DESIGN and getattr(options, f.name) != f.default]:
        flag = given[0].replace("_", "-")
        raise ValueError(
            f"--{flag} belongs to the making of a study, and {options.out} is to be read; leave it out"
            + ("" if options.report else ", or give --models")
        )
    if options.report:
        from unity.apps.study.report import report

        for path in report(options.out):
            print(f"wrote {path}")
        return
    from unity.apps.serving import serve
    from unity.apps.study.serve import application

    serve(application, options)
