"""The model as a program: `python -m unity.infer --modality flow --video clip.mp4`.

--video v.mp4                       estimate  the modality of a video
--condition c.mp4 [--prompt "..."]  control   a video that follows a modality video
--control-from v.mp4 [--prompt ...] control   the same, of the modality of v.mp4 as an annotator sees it
--prompt "..."                      joint     a video and its modality from words
(none of them)                      estimate  on the video that the package carries
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import tyro

from unity.command import end
from unity.request import Request

if TYPE_CHECKING:
    from unity.answer import Result
    from unity.generate import Generator


def infer(request: Request, generator: "Generator | None" = None, say: Callable[[str], None] = print) -> "Result":
    """Run one request and write its folder, whole or not at all.

    A `generator` that is already loaded is used in place of the request's checkpoint. Raises ValueError for
    whatever cannot be done, before anything is written.
    """
    # torch takes seconds to load, and --help needs none of it
    from unity.answer import answer

    return answer(request, generator, say)


def main() -> None:
    request = tyro.cli(Request, prog="python -m unity.infer", description=__doc__)
    # before anything knows the table
    from unity.modality.plug_in import use

    use(request.modalities)
    result = infer(request)
    for path in result.files:
        print(path.absolute())


if __name__ == "__main__":
    end("infer", main)
