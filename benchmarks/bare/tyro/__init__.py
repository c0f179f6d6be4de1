"""A stand-in for tyro where it is not installed: benchmarks on a bare machine read no command line through it."""
