"""How much squared rounding errors count by place: from middle rates on, more where a picture is flat.

Judges that compare features by their direction, as LPIPS does, see an error beside what is around it: a noise of one
level that is lost counts as much as a texture that is. The objective knows nothing of that. Weighing errors more
everywhere buys LPIPS from the other judges' bits; in flat places it costs them least (docs/log/visual.md, "Rounding
by place"). At low rates there is no noise left to be kept.
"""

from __future__ import annotations

import numpy as np

from nicc.architecture import PIXELS_PER_LATENT
from nicc.images import LUMA

FLAT = 18.0
"""Levels of luma: places whose neighbouring pixels differ by less, as a root mean square, are flat."""
POWER = 0.8
"""Errors weigh as this power of how much flatter a place is than that."""
RATES, MOST = (0.15, 0.3), (1.0, 10.0)
"""The largest weight, by the rate point as a share of the highest."""
ASKED_RATES, ASKED = (0.43, 0.57), (2.5, 1.0)
"""By how much more errors weigh everywhere in files that ask for realism, by the rate point as a share of the highest:
where the head adds detail, a symbol that was rounded to nothing is missed most (docs/log/realism.md, "Gains")."""


def weights_by_place(pixels: np.ndarray, rate: float, realism: bool = False) -> np.ndarray:
    """What squared rounding errors weigh at every latent, 1 or more, float32 ``(h, w)``.

    ``pixels`` are uint8 ``(height, width, 3)``, ``rate`` the rate point as a share of the highest, ``realism`` whether
    the file will ask for any. A latent's place is its pixels and, with half of their weight, its neighbours'.
    """
    most, asked = (np.exp(np.interp(rate, *by)) for by in ((RATES, np.log(MOST)), (ASKED_RATES, np.log(ASKED))))
    difference = np.sqrt(_spread(_spread(_energy(pixels)).T).T)
    with np.errstate(divide="ignore"):
        flatness = (FLAT / difference) ** POWER
    weights: np.ndarray = np.clip(flatness, 1, most).astype(np.float32)
    return weights * np.float32(asked) if realism else weights


def _energy(pixels: np.ndarray) -> np.ndarray:
    """The mean squared difference of luma between neighbours, across and down, of every latent's pixels."""
    height, width = pixels.shape[:2]
    columns = np.arange(0, width, PIXELS_PER_LATENT)
    found = []
    for first in range(0, height, PIXELS_PER_LATENT):
        luma = pixels[max(first - 1, 0) : first + PIXELS_PER_LATENT] @ np.array(LUMA, np.float32)
        own = luma[1:] if first else luma
        down = np.square(np.diff(luma, axis=0)).sum(0)
        across = np.square(np.diff(own, axis=1, prepend=own[:, :1])).sum(0)
        pixels_here = np.add.reduceat(np.full(width, len(own)), columns)
        found.append(np.add.reduceat(down + across, columns) / (2 * pixels_here))
    return np.stack(found)


def _spread(energy: np.ndarray) -> np.ndarray:
    """Every row mixed with the two beside it, 1:2:1."""
    around = np.pad(energy, ((1, 1), (0, 0)), "edge")
    mixed: np.ndarray = (around[:-2] + 2 * energy + around[2:]) / 4
    return mixed
