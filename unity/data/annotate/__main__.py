"""`python -m unity.data.annotate CURATED --out data/mine`: annotate curated clips, as shards for training."""

from unity.command import end
from unity.extras import require


def main(arguments: list[str] | None = None) -> None:
    import tyro

    # within what is told in a sentence when it is interrupted
    from unity.data.annotate.job import Options, annotate

    options = tyro.cli(Options, args=arguments, prog="python -m unity.data.annotate", description=__doc__)
    require("data")
    print(annotate(options))


if __name__ == "__main__":
    end("annotate", main)
