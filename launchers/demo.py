"""The main job, small: what the model in the package can do, and how training changes it. `make demo`.

Everything is made in one folder (runs/demo), in minutes on two cores: clips are simulated, the shipped model
estimates, controls and generates, is trained on for a few minutes, and another one learns from nothing.
report.html there shows what came out of it and how long each part took.
"""

from unity.command import end
from unity.extras import require


def main() -> None:
    require("train", "simulate", "report")
    import tyro

    # seconds of imports, within what is told in a sentence when it is interrupted
    from demo_parts import Options, run

    print(f"\nreport: {run(tyro.cli(Options, description=__doc__))}")


if __name__ == "__main__":
    end("demo", main)
