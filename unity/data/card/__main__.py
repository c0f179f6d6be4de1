"""`python -m unity.data.card data/films`: a dataset's card, its plots, and its views over frames."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from unity.command import end
from unity.data.card.write import write_card


@dataclass(frozen=True, kw_only=True)
class Options:
    """Which dataset, or folder of buckets, gets a card; that of an earlier time is replaced."""

    data: tyro.conf.Positional[Path]


def main() -> None:
    options = tyro.cli(Options, prog="python -m unity.data.card", description=__doc__)
    for path in write_card(options.data):
        print(path)


if __name__ == "__main__":
    end("card", main)
