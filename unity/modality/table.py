"""The modalities, one row each; a modality's id is its place here, those of a user's own files come last."""

from unity.modality.base import Modality
from unity.modality.densepose import DENSEPOSE
from unity.modality.depth import DEPTH
from unity.modality.flow import FLOW
from unity.modality.plug_in import plugged
from unity.modality.segmentation import SEGMENTATION
from unity.modality.skeleton import SKELETON

_OURS = {row.name: row for row in (DEPTH, FLOW, DENSEPOSE, SKELETON, SEGMENTATION)}
BUILT_IN = tuple(_OURS)
MODALITIES: dict[str, Modality] = _OURS | plugged(_OURS)
