"""How many frames, rows and columns one place of a latent stands for, by codec; known without torch."""

Stride = tuple[int, int, int]

STRIDES: dict[str, Stride] = {"cells": (4, 4, 4), "dct": (4, 8, 8), "wan2.1": (4, 8, 8), "wan2.2": (4, 16, 16)}
