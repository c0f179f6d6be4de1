"""The simulated world: from a seed, clips with exact depth, flow, DensePose, skeletons and masks."""
