"""`python -m unity.data.simulate --out data/sim --clips 32`: a simulated dataset in MDS shards."""

import os
import sys

# One thread a process, before numpy loads: BLAS threads slow small matrices, and workers fill the machine already.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

from unity.command import end
from unity.extras import require


def main() -> None:
    import tyro

    from unity.modality.plug_in import use_arguments

    require("simulate")
    use_arguments(sys.argv[1:])
    # seconds of imports, within what is told in a sentence when it is interrupted
    from unity.data.simulate.dataset import Options, make_dataset

    make_dataset(tyro.cli(Options, description=__doc__))


if __name__ == "__main__":
    end("simulate", main)
