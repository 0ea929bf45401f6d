"""How a model codes files that ask decoders for realism: with gains other than those that its objective taught.

Judges of a picture with detail added by the head miss errors of the lowest frequencies least, and those of middle ones
most; what the finest channels say, the head says as well (docs/realism.md, "Files that ask for realism").
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nicc.architecture import LOG_ROW_STEP, REALISM_UNIT, Architecture
from nicc.training.config import RealismGains

HIGH = 0.71
"""Rate point, as a share of the highest, from which gains change towards those of the highest."""


def realism_rows(arch: Architecture, luma: np.ndarray, gains: Sequence[RealismGains]) -> np.ndarray:
    """The receiver's array for it, ``(rate points, C)``. ``luma``, bool ``(C,)``, says which channels are of luma."""
    low, highest = np.zeros((2, arch.latent_channels))
    for given in gains:
        mine = luma == (given.colour == "luma")
        for table, by_group in ((low, given.low), (highest, given.highest)):
            table[mine] = np.repeat(by_group, np.diff(arch.groups))[mine]
    above = np.interp(np.linspace(0, 1, arch.rate_points), (HIGH, 1), (0, 1))[:, None]
    change = (1 - above) * low + above * highest
    return np.rint(change / LOG_ROW_STEP * REALISM_UNIT).clip(-127, 127).astype(np.int8)
