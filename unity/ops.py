"""The one door to the fast kernels; the reference otherwise."""

from unity.kernels.reference import (
    dual_cross_attention,
    flow_noise,
    gated_residual,
    gated_residual_layernorm,
    gelu,
    modulated_layernorm,
    qk_norm_rope,
    self_attention,
)

__all__ = [
    "dual_cross_attention",
    "flow_noise",
    "gated_residual",
    "gated_residual_layernorm",
    "gelu",
    "modulated_layernorm",
    "qk_norm_rope",
    "self_attention",
]
