"""A step of fitting, fused: values and gradients computed band by band in the cache (Numba).

`tests.pyramid.reference` is the same arithmetic in plain PyTorch, against which the tests hold it.
"""

from nicc.pyramid.kernels.blocks import BANDS, LANES, band_count
from nicc.pyramid.kernels.context import coarse_backward, coarse_forward, context
from nicc.pyramid.kernels.latents import adam, soften
from nicc.pyramid.kernels.synthesis import colour, colour_back, filter3, filter3_back
from nicc.pyramid.kernels.upsampling import upsample_columns, upsample_columns_back, upsample_rows, upsample_rows_back

__all__ = [
    "BANDS",
    "LANES",
    "adam",
    "band_count",
    "coarse_backward",
    "coarse_forward",
    "colour",
    "colour_back",
    "context",
    "filter3",
    "filter3_back",
    "soften",
    "upsample_columns",
    "upsample_columns_back",
    "upsample_rows",
    "upsample_rows_back",
]
