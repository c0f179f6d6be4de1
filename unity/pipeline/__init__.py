"""The model as diffusers' users know one: a pipeline with its parts, each in their classes."""

from unity.pipeline.model import UnityTransformer3DModel
from unity.pipeline.pipe import UnityVideoPipeline, UnityVideoPipelineOutput
from unity.pipeline.scheduler import UnityScheduler

__all__ = ["UnityScheduler", "UnityTransformer3DModel", "UnityVideoPipeline", "UnityVideoPipelineOutput"]
