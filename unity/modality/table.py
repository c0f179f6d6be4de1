"""The modalities, one row each; a modality's id is its place here."""

from unity.modality.base import Modality
from unity.modality.densepose import DENSEPOSE
from unity.modality.depth import DEPTH
from unity.modality.flow import FLOW
from unity.modality.segmentation import SEGMENTATION
from unity.modality.skeleton import SKELETON

MODALITIES: dict[str, Modality] = {row.name: row for row in (DEPTH, FLOW, DENSEPOSE, SKELETON, SEGMENTATION)}
