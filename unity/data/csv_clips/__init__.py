"""Clips of the authors' release layout, from metadata CSVs that name one video file per stream."""
