"""`python -m unity.data.csv_clips --csv a.csv --source general --out data`: shards of the clips that CSVs name."""

from unity.command import end


def main(arguments: list[str] | None = None) -> None:
    import tyro

    # within what is told in a sentence when it is interrupted
    from unity.data.csv_clips.convert import Options, convert

    options = tyro.cli(Options, args=arguments, prog="python -m unity.data.csv_clips", description=__doc__)
    print(f"{options.out}: {convert(options)}")


if __name__ == "__main__":
    end("csv_clips", main)
