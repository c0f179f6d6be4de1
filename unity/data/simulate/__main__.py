"""`python -m unity.data.simulate --out data/sim --clips 32`: a simulated dataset in MDS shards."""

import os
import sys

# One thread a process, before numpy loads: BLAS threads slow small matrices, and workers fill the machine already.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import tyro

from unity.extras import require

if __name__ == "__main__":
    try:
        require("simulate")
        from unity.data.simulate.dataset import Options, make_dataset

        make_dataset(tyro.cli(Options, description=__doc__))
    except ValueError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
