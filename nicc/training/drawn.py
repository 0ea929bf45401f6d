"""Graphics among the training crops: text, user interfaces, plots and gradients, on flat and photographic ground.

Everything is drawn at random with Pillow, in its own font and those that are installed, so that a model sees what
photographs do not have: glyphs, straight strong edges, exactly flat colours.
"""

from __future__ import annotations

import string
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_FOLDERS = (
    Path("/usr/share/fonts"),
    Path("/usr/local/share/fonts"),
    Path("/Library/Fonts"),
    Path("C:/Windows/Fonts"),
)
MOST_FONTS = 60
SMALLEST_TEXT, LARGEST_TEXT = 8, 48
"""Font sizes in pixels; small ones are likelier."""
Colour = tuple[int, int, int]


@lru_cache(maxsize=1)
def font_files() -> list[Path]:
    found = sorted(p for folder in FONT_FOLDERS if folder.is_dir() for p in folder.rglob("*.ttf"))
    return found[:: max(1, -(-len(found) // MOST_FONTS))]


@lru_cache(maxsize=256)
def font(index: int, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font for index 0, then the installed ones."""
    files = font_files()
    return ImageFont.truetype(files[index - 1], size) if 0 < index <= len(files) else ImageFont.load_default(size)


def draw_over(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A crop, uint8 ``(height, width, 3)``, replaced by a graphic or with graphics drawn over it."""
    height, width, _ = crop.shape
    kind = rng.integers(5)
    if kind < 3:  # otherwise the photograph is the ground
        crop = _gradient(rng, height, width) if kind == 2 else np.full_like(crop, _colour(rng))
    image = Image.fromarray(np.ascontiguousarray(crop))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 5)):
        _shape(draw, rng, width, height)
    if rng.random() < 0.2:
        _plot(draw, rng, width, height)
    for _ in range(rng.integers(1, 4)):
        _text(draw, rng, width, height)
    return np.asarray(image)


def _colour(rng: np.random.Generator) -> Colour:
    """White, black or grey as often as anything else."""
    if rng.random() < 0.5:
        level = int(rng.choice([0, 255, rng.integers(256)]))
        return level, level, level
    red, green, blue = (int(c) for c in rng.integers(0, 256, 3))
    return red, green, blue


def _gradient(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """From one colour to another, in any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[0:height, 0:width]
    t = (x * np.cos(angle) + y * np.sin(angle))[..., None]
    t = (t - t.min()) / max(float(np.ptp(t)), 1.0)
    a, b = (np.array(_colour(rng), float) for _ in range(2))
    return (a + (b - a) * t).round().astype(np.uint8)


def _box(rng: np.random.Generator, width: int, height: int) -> tuple[int, int, int, int]:
    left, top = int(rng.integers(-width // 4, width)), int(rng.integers(-height // 4, height))
    return left, top, left + int(rng.integers(4, width)), top + int(rng.integers(4, height // 2))


def _shape(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    box, line = _box(rng, width, height), int(rng.integers(1, 4))
    fill = _colour(rng) if rng.random() < 0.6 else None
    kind = rng.integers(4)
    if kind == 0:
        draw.rectangle(box, fill, _colour(rng), line)
    elif kind == 1:
        draw.rounded_rectangle(box, int(rng.integers(2, 16)), fill, _colour(rng), line)
    elif kind == 2:
        draw.ellipse(box, fill, _colour(rng), line)
    else:
        draw.line(box, _colour(rng), line)


def _plot(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """Axes, a grid and a curve."""
    step, colour = int(rng.integers(12, 48)), _colour(rng)
    for x in range(0, width, step):
        draw.line((x, 0, x, height), colour)
    for y in range(0, height, step):
        draw.line((0, y, width, y), colour)
    walk = height / 2 + np.cumsum(rng.normal(0, height / 20, width // 4))
    points = [(4.0 * i, float(y)) for i, y in enumerate(walk)]
    draw.line(points, _colour(rng), int(rng.integers(1, 4)))


def _text(draw: ImageDraw.ImageDraw, rng: np.random.Generator, width: int, height: int) -> None:
    """Some lines of made-up words."""
    size = int(SMALLEST_TEXT * (LARGEST_TEXT / SMALLEST_TEXT) ** rng.random() ** 1.5)
    letters = string.ascii_lowercase * 4 + string.ascii_uppercase + string.digits + ".,;:-()"
    lines = []
    for _ in range(rng.integers(1, 8)):
        words = ["".join(rng.choice(list(letters), rng.integers(1, 10))) for _ in range(rng.integers(2, 10))]
        lines.append(" ".join(words))
    where = int(rng.integers(-size, width * 3 // 4)), int(rng.integers(-size, height))
    draw.multiline_text(where, "\n".join(lines), _colour(rng), font(int(rng.integers(len(font_files()) + 1)), size))
