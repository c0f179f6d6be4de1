"""Examine a checkpoint on held-out clips that hold exact values (`python -m unity.data.simulate --values`).

Writes the numbers as JSON, with 95% bootstrap intervals over clips, and prints them as a table.

--bench unibench-sim                     UniBench in place of the exams: 200 simulated clips for each track
--bench folder --data my_clips           the same of your own truth
--bench ... --predictions FOLDER         of files that anybody wrote; --baseline classical: without learning
"""

import sys

from unity.command import end


def main() -> None:
    # seconds of imports, within what is told in a sentence when it is interrupted
    import tyro

    from unity.modality.plug_in import use_arguments

    use_arguments(sys.argv[1:])
    from unity.evaluate.options import Options, start

    start(tyro.cli(Options, prog="python -m unity.evaluate", description=__doc__))


if __name__ == "__main__":
    end("evaluate", main)
