"""One diffusion transformer for RGB video and five other views of it, and the framework that trains it."""

__version__ = "0.1.0"
