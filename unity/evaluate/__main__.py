"""Examine a checkpoint on held-out clips that hold exact values (`python -m unity.data.simulate --values`).

Writes the numbers as JSON, with 95% bootstrap intervals over clips, and prints them as a table.
"""

import sys

from unity.command import end


def main() -> None:
    # seconds of imports, within what is told in a sentence when it is interrupted
    import tyro

    from unity.modality.plug_in import use_arguments

    use_arguments(sys.argv[1:])
    from unity.evaluate.options import Options, run

    run(tyro.cli(Options, prog="python -m unity.evaluate", description=__doc__))


if __name__ == "__main__":
    end("evaluate", main)
