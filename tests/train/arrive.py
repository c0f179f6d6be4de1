"""Joins a world of which not all come, as launchers/train.py would, with so many seconds of patience."""

import os
import sys
from datetime import timedelta

from unity.train.meeting import meet

meet(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), timedelta(seconds=float(sys.argv[1])))
