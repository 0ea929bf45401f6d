"""Twelve pages of graphics, drawn from a fixed seed: a test set that no model was trained on.

    python benchmarks/pages.py FOLDER [--over PHOTOS]

Web pages with photographs, a terminal, plots, a slide, a desktop, line art, a scanned-looking text, a chart with
gradients, pixel art, an editor, a map. Photographs are scikit-image's, fonts matplotlib's. 960x720 pixels each. With
``--over``, text is drawn over every fourth photograph of a folder instead.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from skimage import data as photos

WIDTH, HEIGHT = 960, 720
TEXT = (
    "the encoder may be slow and clever since encoding happens once while a decoder runs everywhere all "
    "the time quality range table figure page light water stone harbour morning window street market "
    "paper garden river measure results against equal bytes settings history network value model image "
    "colour edge texture sample"
)
WORDS = TEXT.split()
Draw = Callable[[np.random.Generator], Image.Image]


@lru_cache(maxsize=64)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf", size)


SANS, BOLD, SERIF, MONO = "DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSansMono"


def photo(name: str, size: tuple[int, int]) -> Image.Image:
    """A photograph cut and reduced to a size."""
    image = Image.fromarray(getattr(photos, name)()).convert("RGB")
    scale = max(size[0] / image.width, size[1] / image.height)
    image = image.resize(
        (round(image.width * scale + 0.5), round(image.height * scale + 0.5)), Image.Resampling.LANCZOS
    )
    return image.crop((0, 0, *size))


def sentence(rng: np.random.Generator, count: int) -> str:
    words = [WORDS[int(i)] for i in rng.integers(len(WORDS), size=count)]
    return " ".join(words).capitalize() + "."


def paragraph(
    draw: ImageDraw.ImageDraw,
    rng: np.random.Generator,
    where: tuple[int, int, int],
    lines: int,
    face: tuple[str, int] = (SANS, 14),
    colour: tuple[int, int, int] = (40, 40, 44),
) -> None:
    """``where`` is left, top and width in pixels."""
    left, top, width = where
    letters = font(*face)
    for n in range(lines):
        text = sentence(rng, 40)
        while draw.textlength(text, letters) > width:
            text = text.rsplit(" ", 1)[0]
        draw.text((left, top + n * face[1] * 1.5), text, colour, letters)


def page(ground: tuple[int, int, int] = (255, 255, 255)) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image = Image.new("RGB", (WIDTH, HEIGHT), ground)
    return image, ImageDraw.Draw(image)


def article(rng: np.random.Generator) -> Image.Image:
    image, draw = page()
    draw.rectangle((0, 0, WIDTH, 56), (28, 60, 110))
    draw.text((24, 14), "The Morning Page", (255, 255, 255), font(BOLD, 22))
    draw.text((40, 84), "Harbour and market in the light of the morning", (20, 20, 24), font(SERIF, 28))
    image.paste(photo("coffee", (520, 340)), (40, 140))
    paragraph(draw, rng, (40, 496, 520), 9, (SERIF, 15))
    paragraph(draw, rng, (600, 140, 320), 25)
    return image


def shop(rng: np.random.Generator) -> Image.Image:
    image, draw = page((246, 247, 249))
    for n, name in enumerate(("chelsea", "astronaut", "coffee", "chelsea", "coffee", "astronaut")):
        left, top = 40 + n % 3 * 300, 60 + n // 3 * 330
        draw.rounded_rectangle((left, top, left + 270, top + 300), 12, (255, 255, 255), (220, 222, 228))
        image.paste(photo(name, (238, 170)), (left + 16, top + 16))
        draw.text((left + 16, top + 200), sentence(rng, 3), (30, 30, 34), font(BOLD, 15))
        paragraph(draw, rng, (left + 16, top + 226, 238), 2, (SANS, 12))
        draw.rounded_rectangle((left + 176, top + 262, left + 254, top + 288), 6, (255, 170, 30))
        draw.text((left + 196, top + 267), f"{rng.integers(5, 99)}.90", (40, 30, 0), font(SANS, 13))
    draw.text((40, 18), "All products", (20, 20, 24), font(BOLD, 24))
    return image


def terminal(rng: np.random.Generator) -> Image.Image:
    image, draw = page((24, 26, 31))
    colours = [(200, 204, 210), (126, 200, 120), (230, 180, 90), (110, 170, 240), (230, 110, 110)]
    for n in range(40):
        text = f"{rng.integers(10**6):06d} {sentence(rng, 9)} {rng.random():.4f} {rng.random():.4f}"
        draw.text((12, 8 + n * 17.5), text, colours[int(rng.integers(len(colours)))], font(MONO, 14))
    return image


def of_figure(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")


def plot(rng: np.random.Generator) -> Image.Image:
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), layout="constrained")
    axes = figure.subplots(2, 2)
    x = np.linspace(0, 10, 200)
    for n in range(5):
        axes[0, 0].plot(x, np.cumsum(rng.normal(size=200)), label=f"series {n}")
        axes[0, 1].scatter(rng.normal(n, 1, 60), rng.normal(size=60), s=14, label=WORDS[n])
    axes[0, 0].legend()
    axes[0, 1].legend()
    axes[1, 0].bar([w[:6] for w in WORDS[30:38]], rng.random(8))
    axes[1, 1].errorbar(x[::12], np.sin(x[::12]), 0.2 * rng.random(17), fmt="o-")
    for a in axes.flat:
        a.grid(alpha=0.3)
        a.set_title(sentence(rng, 4))
    return of_figure(figure)


def slide(rng: np.random.Generator) -> Image.Image:
    y = np.linspace(0, 1, HEIGHT)[:, None, None]
    ground = (np.array([18, 40, 92]) * (1 - y) + np.array([70, 30, 110]) * y).round().astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ground, (HEIGHT, WIDTH, 3)).copy())
    draw = ImageDraw.Draw(image)
    draw.text((60, 50), "What people see", (255, 255, 255), font(BOLD, 46))
    for n in range(5):
        draw.ellipse((64, 176 + 84 * n, 78, 190 + 84 * n), (255, 196, 60))
        draw.text((100, 166 + 84 * n), sentence(rng, 5), (235, 238, 245), font(SANS, 24))
    image.paste(photo("astronaut", (320, 400)), (600, 170))
    return image


def desktop(rng: np.random.Generator) -> Image.Image:
    image = photo("chelsea", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(image)
    for n in range(6):
        top = 30 + 100 * n
        draw.rounded_rectangle((30, top, 86, top + 56), 10, tuple(int(c) for c in rng.integers(40, 230, 3)))
        draw.text((24, top + 62), WORDS[int(rng.integers(len(WORDS)))], (255, 255, 255), font(SANS, 14))
    draw.rectangle((0, HEIGHT - 36, WIDTH, HEIGHT), (30, 32, 38))
    draw.text((WIDTH - 70, HEIGHT - 27), "10:24", (240, 240, 240), font(SANS, 15))
    draw.rounded_rectangle((200, 90, 820, 600), 8, (250, 250, 250), (150, 150, 150))
    draw.rectangle((200, 98, 820, 128), (225, 227, 232))
    draw.text((216, 104), "notes.txt", (40, 40, 40), font(BOLD, 14))
    paragraph(draw, rng, (220, 146, 570), 20, (SANS, 15))
    return image


def line_art(rng: np.random.Generator) -> Image.Image:
    scale = 3
    image = Image.new("L", (WIDTH * scale, HEIGHT * scale), 255)
    draw = ImageDraw.Draw(image)
    t = np.linspace(0, 2 * np.pi, 500)
    for n in range(40):
        r = 40 + 22 * n + 14 * np.sin(t * rng.integers(2, 9) + rng.random() * 6)
        x, y = WIDTH * scale / 2 + 1.6 * r * np.cos(t), HEIGHT * scale / 2 + 1.1 * r * np.sin(t)
        draw.line(list(zip(x.tolist(), y.tolist(), strict=True)), 0, int(rng.integers(3, 9)))
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS).convert("RGB")


def scan(rng: np.random.Generator) -> Image.Image:
    image, draw = page((252, 250, 244))
    draw.text((90, 50), "Chapter three", (30, 28, 26), font(SERIF, 26))
    paragraph(draw, rng, (90, 110, 780), 26, (SERIF, 15), (34, 32, 30))
    image = image.rotate(0.6, Image.Resampling.BICUBIC, fillcolor=(252, 250, 244)).filter(ImageFilter.GaussianBlur(0.7))
    x = np.asarray(image, float) * np.linspace(0.93, 1, WIDTH)[None, :, None]
    x += rng.normal(0, 3, x.shape[:2])[..., None]
    return Image.fromarray(x.clip(0, 255).round().astype(np.uint8))


def chart(rng: np.random.Generator) -> Image.Image:
    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), layout="constrained")
    left, right = figure.subplots(1, 2)
    y, x = np.mgrid[-3:3:200j, -3:3:200j]
    shown = left.imshow(np.sin(x * 1.7) * np.cos(y) + 0.3 * x, cmap="viridis", interpolation="bilinear")
    figure.colorbar(shown, ax=left, shrink=0.7)
    heights = rng.random(7) + 0.3
    for n, height in enumerate(heights):
        ramp = np.linspace(0, 1, 100)[:, None]
        right.imshow(ramp, extent=(n, n + 0.8, 0, height), aspect="auto", cmap="Blues", origin="lower")
    right.set(xlim=(-0.2, 7), ylim=(0, 1.4), title=sentence(rng, 4))
    return of_figure(figure)


def pixel_art(rng: np.random.Generator) -> Image.Image:
    palette = rng.integers(0, 256, (12, 3)).astype(np.uint8)
    index = np.zeros((HEIGHT // 8, WIDTH // 8), int)
    for _ in range(160):
        top, left = rng.integers(index.shape[0]), rng.integers(index.shape[1])
        index[top : top + rng.integers(1, 16), left : left + rng.integers(1, 16)] = rng.integers(12)
    return Image.fromarray(np.kron(palette[index], np.ones((8, 8, 1), np.uint8)))


def editor(rng: np.random.Generator) -> Image.Image:
    image, draw = page((40, 44, 52))
    draw.rectangle((0, 0, 190, HEIGHT), (33, 37, 43))
    colours = [(198, 120, 221), (152, 195, 121), (97, 175, 239), (171, 178, 191), (229, 192, 123)]
    for n in range(26):
        draw.text((24, 20 + 26 * n), f"{WORDS[int(rng.integers(len(WORDS)))]}.py", (150, 156, 168), font(SANS, 13))
    for n in range(36):
        x = 240 + 24 * int(rng.integers(0, 4))
        draw.text((204, 12 + 19.5 * n), f"{n + 1:3d}", (90, 96, 108), font(MONO, 13))
        for _ in range(rng.integers(2, 9)):
            word = WORDS[int(rng.integers(len(WORDS)))]
            draw.text((x, 12 + 19.5 * n), word, colours[int(rng.integers(len(colours)))], font(MONO, 13))
            x += int(draw.textlength(word + " ", font(MONO, 13)))
    image.paste(photo("coffee", (150, 100)), (780, 590))
    return image


def town(rng: np.random.Generator) -> Image.Image:
    scale = 2
    image = Image.new("RGB", (WIDTH * scale, HEIGHT * scale), (242, 239, 233))
    draw = ImageDraw.Draw(image)
    water = [(0, 900), (400, 820), (900, 960), (1400, 860), (1920, 1000), (1920, 1440), (0, 1440)]
    draw.polygon(water, (170, 211, 223))
    for _ in range(90):
        left, top = (int(v) for v in rng.integers((0, 0), (1900, 820)))
        draw.rectangle(
            (left, top, left + rng.integers(20, 90), top + rng.integers(20, 70)), (217, 208, 201), (190, 175, 165)
        )
    for _ in range(14):
        ends = [tuple(int(v) for v in rng.integers((0, 0), (1920, 900))) for _ in range(2)]
        draw.line(ends, (160, 160, 160), 16)
        draw.line(ends, (255, 255, 255), 12)
    image = image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    for _ in range(26):
        left, top = (int(v) for v in rng.integers((0, 0), (880, 690)))
        draw.text(
            (left, top),
            WORDS[int(rng.integers(len(WORDS)))].title(),
            (70, 60, 60),
            font(SANS, 12),
            stroke_width=2,
            stroke_fill=(255, 255, 255),
        )
    image.paste(photo("astronaut", (200, 150)), (740, 550))
    return image


PAGES: tuple[Draw, ...] = (
    *(article, shop, terminal, plot, slide, desktop),
    *(line_art, scan, chart, pixel_art, editor, town),
)


def captioned(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A photograph with a title and some lines of text over it."""
    draw = ImageDraw.Draw(image)
    width, height = image.size
    light = [(255, 255, 255), (255, 240, 120), (20, 20, 24), (200, 30, 40)]
    colours = [light[int(i)] for i in rng.permutation(4)]
    title = sentence(rng, 3)
    draw.text(
        (width // 12, height // 10), title, colours[0], font(BOLD, width // 16), stroke_width=1, stroke_fill=(0, 0, 0)
    )
    paragraph(draw, rng, (width // 12, height // 3, width * 3 // 4), 6, (SANS, max(12, width // 36)), colours[1])
    paragraph(draw, rng, (width // 12, height * 3 // 4, width * 3 // 4), 4, (MONO, max(11, width // 44)), colours[2])
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--over", type=Path, help="draw over every fourth photograph of this folder")
    arguments = parser.parse_args()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.over:
        for n, path in enumerate(sorted(arguments.over.glob("*.png"))[::4]):
            with Image.open(path) as image:
                captioned(image.convert("RGB"), np.random.default_rng([2027, n])).save(folder / path.name)
        return
    for n, draw in enumerate(PAGES):
        draw(np.random.default_rng([2026, n])).save(folder / f"{n + 1:02}-{draw.__name__}.png")


if __name__ == "__main__":
    main()
