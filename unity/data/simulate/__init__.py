"""The simulated world: from a seed, clips with exact depth, flow, DensePose, skeletons and masks."""

from unity.data.simulate.clip import simulate

__all__ = ["simulate"]
