"""`python -m unity.data.curate VIDEOS --out CURATED`: cut videos into clips and keep the good ones."""

from unity.command import end
from unity.extras import require


def main(arguments: list[str] | None = None) -> None:
    import tyro

    # within what is told in a sentence when it is interrupted
    from unity.data.curate.job import Options, curate

    options = tyro.cli(Options, args=arguments, prog="python -m unity.data.curate", description=__doc__)
    require("data")
    print(curate(options))


if __name__ == "__main__":
    end("curate", main)
