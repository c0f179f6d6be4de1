"""`python -m unity.data.collect PLACE --source general --out data/mine`: clips of tars or folders, as shards."""

from unity.command import end
from unity.extras import require


def main(arguments: list[str] | None = None) -> None:
    import tyro

    # within what is told in a sentence when it is interrupted
    from unity.data.collect.job import Options, collect

    options = tyro.cli(Options, args=arguments, prog="python -m unity.data.collect", description=__doc__)
    require("data")
    print(collect(options))


if __name__ == "__main__":
    end("collect", main)
