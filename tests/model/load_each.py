"""Load every case of a folder as weights, with little memory to take; prints what became of each as JSON."""

import json
import resource
import sys
from pathlib import Path

from unity.config import ModelConfig
from unity.model.weights import load_model, read_card


def outcome(call) -> str:
    """`loaded`, what a ValueError says, or the type of what should not have come."""
    try:
        call()
    except ValueError as error:
        return str(error)
    except BaseException as error:
        return f"TRACEBACK {type(error).__name__}: {error}"
    return "loaded"


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def main(folder: Path) -> None:
    config = ModelConfig(**json.loads((folder / "shape.json").read_text()))
    config = ModelConfig(**{**vars(config), "patch": tuple(config.patch)})
    found, start = {}, peak()
    # memory that a hostile file asks for is refused, not swapped
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + (2 << 30), here + (2 << 30)))
    for case in sorted((folder / "cases").iterdir()):
        # what is given lies in a folder of its own
        given = next(iter(sorted(case.iterdir())))
        said = outcome(lambda given=given: load_model(given, config=config))
        found[case.name] = {"load": said, "card": outcome(lambda given=given: read_card(given))}
    print(json.dumps({"cases": found, "megabytes": peak() - start}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
