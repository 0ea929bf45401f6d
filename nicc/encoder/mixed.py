"""Pages of photographs and graphics: which cells to store losslessly, and what the model codes in their place.

A transform of 16x16 blocks cannot draw glyphs; a lossless coder cannot code photographs. Cells are stored in a lossless
image (`nicc.graphics`), at most rates with fewer colours (`nicc.encoder.near_lossless`), where that costs less in
bits + lambda * squared error. Squares of 2x2 cells are chosen first, since a cell by itself saves the model little;
then the borders are tightened.
"""

from __future__ import annotations

import io
import itertools
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from PIL import Image

from nicc.columns import Layout, layout_of
from nicc.container import Header
from nicc.decoder.hyper import dequantise_z
from nicc.decoder.latents import Visited, walk
from nicc.encoder.near_lossless import reach_of, with_fewer_colours
from nicc.encoder.quantise import Quantiser, quantise_z
from nicc.encoder.transform import Latents
from nicc.geometry import Grid
from nicc.graphics import CELL, LATENTS_PER_CELL, box_of, grid_of, shown_of, spread
from nicc.model import Model

FLAT_SHARE, TINY_SHARE, TINY = 0.4, 0.1, 2
"""Graphics have at least the first share of pixels that equal their left neighbours, and at most the second of
pixels that differ from them by a level or two."""
FEWEST_CELLS = 24
GLANCE = 4
"""Every so many rows are looked at."""
FILLED = 0.9
"""Share of a cell's bits that the model saves by coding something smooth in its place."""
TIGHTENED = 2
"""So often are borders tightened, if that goes on to help."""
MOST_TIGHTENED = 4
"""So often where what cells cost is known beforehand."""
BLOCKS = 4, 8
"""Along an image's longer side, those that are left to the model, or stored, as a whole: for what it costs then."""


def cell_sums(values: np.ndarray, every: int = 1) -> np.ndarray:
    """Sums over cells, ``(rows, columns)``, of values ``(height, width)``: every so many rows of an image."""
    height, width = values.shape
    rows, columns = grid_of(width, height * every)
    padded = np.zeros((rows * CELL // every, columns * CELL), np.float32)
    padded[:height, :width] = values
    return padded.reshape(rows, CELL // every, columns, CELL).sum((1, 3))


def of_squares(values: np.ndarray) -> np.ndarray:
    """Values of cells ``(rows, columns)`` summed over squares of 2x2: in every cell, the sum of its square."""
    rows, columns = values.shape
    sums = np.pad(values, ((0, rows % 2), (0, columns % 2))).reshape(-(-rows // 2), 2, -1, 2).sum((1, 3))
    return sums.repeat(2, 0).repeat(2, 1)[:rows, :columns]


def candidates(pixels: np.ndarray, single: bool = False) -> np.ndarray:
    """Cells ``(rows, columns)`` of an image uint8 ``(height, width, 3)`` that may be graphics, at a glance.

    These are whole squares, unless cells are looked at by themselves, as ``single`` ones.
    """
    looked_at = pixels[::GLANCE]
    step = np.full(looked_at.shape[:2], 255, np.uint8)
    a, b = looked_at[:, 1:], looked_at[:, :-1]
    colours = np.maximum(a, b) - np.minimum(a, b)
    step[:, 1:] = np.maximum(np.maximum(colours[..., 0], colours[..., 1]), colours[..., 2])
    count, flat, tiny = (cell_sums(x, GLANCE) for x in (np.ones_like(step), step == 0, (step > 0) & (step <= TINY)))
    if not single:
        count, flat, tiny = map(of_squares, (count, flat, tiny))
    return (flat >= FLAT_SHARE * count) & (tiny <= TINY_SHARE * count)


def beside(cells: np.ndarray) -> np.ndarray:
    """Cells that have one of these as a neighbour above, below or at a side."""
    around = np.pad(cells, 1)
    found: np.ndarray = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
    return found


def model_bits(model: Model, header: Header, latents: Latents) -> np.ndarray:
    """About what the model's code takes of bits in every cell, hyper-latents left out."""
    model, grid, r = model.for_file(header), Grid.of(header), header.rate_point
    z = dequantise_z(model, r, quantise_z(model, r, latents.z))
    rows, columns = grid_of(header.width, header.height)
    bits = np.zeros((rows * LATENTS_PER_CELL, columns * LATENTS_PER_CELL), np.float32)
    quantise = Quantiser(model, r)
    for first, last in grid.row_groups():
        bits[first:last, : grid.w] = _bits_of_rows(model, r, z, latents.y[first:last], (first, last), quantise)
    return bits.reshape(rows, LATENTS_PER_CELL, columns, LATENTS_PER_CELL).sum((1, 3))


def _bits_of_rows(
    model: Model, rate_point: int, z: np.ndarray, y: np.ndarray, rows: tuple[int, int], quantise: Quantiser
) -> np.ndarray:
    """Bits of every position of a group of latent rows, ``(h, w)``."""
    v = (y * model.params["gain"][rate_point]).reshape(-1, y.shape[-1])
    bits = np.zeros(len(v), np.float32)

    def visit(here: Visited) -> np.ndarray:
        s = quantise.symbols(v, here)
        bits[here.at] += quantise.costs(s, here.rows, here.channels).sum(-1)
        return s

    walk(model, rate_point, z, rows, y.shape[1], visit)
    return bits.reshape(y.shape[:2])


class Graphics(NamedTuple):
    """Which cells ``(rows, columns)``, bool, are stored losslessly, and the box that does."""

    cells: np.ndarray
    box: bytes
    reach: int = 0
    """By how many levels colours may have moved before."""

    @property
    def note(self) -> str:
        """For users."""
        how = f"within {self.reach} levels" if self.reach else "exactly"
        return f"{self.cells.sum()} of {self.cells.size} cells stored as graphics, {how}"


@dataclass
class Form:
    """A way to store graphics."""

    reach: int
    """By how many levels colours may have moved."""
    shown: np.ndarray
    """The whole image, uint8 ``(height, width, 3)``."""
    errors: np.ndarray
    """What the moves cost, weighed, in every cell, ``(rows, columns)``."""
    layout: Layout | None
    """Of columns, if all that may be stored has few colours (`nicc.columns`)."""

    boxes: dict[tuple[bytes, bool], bytes] = field(default_factory=dict)
    """Those that are known, by their cells and whether they are quick ones: sets are compared again and again."""

    def box(self, cells: np.ndarray, quick: bool) -> bytes:
        """See `box_of`."""
        key = cells.tobytes(), quick
        if key not in self.boxes:
            self.boxes[key] = box_of(self.shown, cells, quick, self.layout if quick else None)
        return self.boxes[key]

    def cost(self, cells: np.ndarray, quick: bool = True) -> float:
        """What the cells cost in one lossless image, about if ``quick``, and what their moves cost."""
        return float(8 * len(self.box(cells, quick)) + self.errors[cells].sum())

    def costs(self, cells: np.ndarray, side: int = 1) -> np.ndarray:
        """About what each of the cells costs in the one lossless image of all of them; no end elsewhere.

        With a ``side`` of 2, whole squares are looked at, and each of their cells has its part.
        """
        bits = np.full(cells.shape, np.inf)
        for row, column in np.argwhere(cells[::side, ::side]) * side:
            part = self.shown[row * CELL : (row + side) * CELL, column * CELL : (column + side) * CELL]
            buffer = io.BytesIO()
            Image.fromarray(np.ascontiguousarray(part)).save(buffer, "WEBP", lossless=True, quality=20, method=1)
            here = bits[row : row + side, column : column + side]
            here[:] = len(buffer.getvalue()) / here.size
        return bits * (8 * len(self.box(cells, quick=True)) / bits[cells].sum()) + self.errors


class Page:
    """An image uint8 ``(height, width, 3)`` whose `candidates` ``graphic`` may be stored in a lossless image."""

    def __init__(self, pixels: np.ndarray, graphic: np.ndarray, weight: float) -> None:
        """``weight`` is that of the squared error against bits per pixel."""
        height, width, _ = pixels.shape
        self.pixels, self.graphic, self.weight = pixels, graphic, weight
        inner = graphic & candidates(pixels, single=True)
        layout = layout_of(shown_of(pixels, inner))
        self.forms = [Form(0, pixels, np.zeros(graphic.shape, np.float32), layout)]
        if reach := reach_of(weight):
            fewer = with_fewer_colours(pixels, spread(graphic, width, height), reach)
            layout = layout or layout_of(shown_of(fewer, inner))
            self.forms.append(Form(reach, fewer, weight * cell_errors(pixels, fewer), layout))

    def graphics(self, cells: np.ndarray, quick: bool = False) -> Graphics:
        """Some of the candidates, exactly or with fewer colours: what costs less. ``quick`` as in `box_of`."""
        best = self.form_of(cells)
        return Graphics(cells, best.box(cells, quick), best.reach)

    def form_of(self, cells: np.ndarray) -> Form:
        """The one in which they cost less."""
        return min(self.forms, key=lambda form: form.cost(cells))

    def cheaper(self, form: Form, coded: np.ndarray) -> np.ndarray:
        """The candidates that cost less than ``coded``, by what all of them take in one image."""
        found: np.ndarray = of_squares(form.costs(self.graphic, side=2)) < of_squares(coded)
        return found

    def choices(self, coded: np.ndarray) -> list[np.ndarray]:
        """Cells that may cost less than ``coded``: all of the candidates, and the best of them in every form.

        A lossless image of many cells takes less for each, so that all may be better than those that pay one by one.
        """
        sets = (self.graphic, *(self.cheaper(form, coded) for form in self.forms))
        return list({cells.tobytes(): cells for cells in sets if cells.any()}.values())

    def cheapest(self, coded: np.ndarray) -> np.ndarray:
        """The cells, perhaps none, with which a page costs least where all others cost ``coded``.

        Of every choice, and of what becomes of it when its borders are tightened again and again: a step that costs
        more may lead on to one that costs less. Then `by_blocks`. The last word has the lossless coder at its slowest:
        quick ones make too much of what is left out.
        """
        best = np.zeros_like(self.graphic)
        least = self.cost(best, coded)
        for choice in self.choices(coded):
            cells, times = choice, 0
            while cells.any() and times <= MOST_TIGHTENED:
                if (found := self.cost(cells, coded)) < least:
                    best, least = cells, found
                cells, times = self.tightened(cells, coded), times + 1
        finalists = best, self.by_blocks(best, coded), self.graphic
        return min(finalists, key=lambda cells: self.cost(cells, coded, quick=False))

    def cost(self, cells: np.ndarray, coded: np.ndarray, form: Form | None = None, quick: bool = True) -> float:
        """Of the page with these cells stored, in a form or in the better one; all others cost ``coded``."""
        stored = (form or self.form_of(cells)).cost(cells, quick) if cells.any() else 0.0
        return stored + float(coded[~cells].sum())

    def by_blocks(self, cells: np.ndarray, coded: np.ndarray) -> np.ndarray:
        """Cells, or all candidates if there are none, less whole blocks that cost less without, with those that do not.

        What a part of a lossless image takes depends on all others, and what a cell takes by itself says little.
        """
        cells = cells if cells.any() else self.graphic
        form = self.form_of(cells)
        least = self.cost(cells, coded, form)
        for blocks in BLOCKS:
            side = -(-max(cells.shape) // blocks)
            for row, column in itertools.product(*(range(0, n, side) for n in cells.shape)):
                block = slice(row, row + side), slice(column, column + side)
                changed = cells.copy()
                changed[block] = False if cells[block].any() else self.graphic[block]
                if (changed != cells).any() and (found := self.cost(changed, coded, form)) < least:
                    cells, least = changed, found
        return cells

    def tightened(self, cells: np.ndarray, coded: np.ndarray) -> np.ndarray:
        """Cells without those at their border that cost more than ``coded``, with those beside it that cost less."""
        outer = beside(cells) & ~cells & candidates(self.pixels, single=True)
        pays = self.form_of(cells).costs(cells | outer) < coded
        return np.where(cells, pays | ~beside(~cells), outer & pays)


def cell_errors(pixels: np.ndarray, decoded: np.ndarray) -> np.ndarray:
    """Squared errors of pixels, means over colours, summed over cells."""
    return cell_sums(np.square(pixels.astype(np.float32) - decoded).mean(-1))


def coded_costs(page: Page, model: Model, header: Header, latents: Latents, decoded: np.ndarray) -> np.ndarray:
    """What it costs to leave every cell to the model: ``decoded`` is what that makes of the page."""
    return FILLED * model_bits(model, header, latents) + page.weight * cell_errors(page.pixels, decoded)
