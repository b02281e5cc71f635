"""Draws scenes of the toy world with pillow: supersampled, 128 x 128 pixels, RGB.

Features are large, emblems 17 pixels across, because one latent of the toy VAE covers 8 x 8 pixels and smaller emblems
turn into blobs.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

from .world import Figure, Scene

SIZE = 128
SUPERSAMPLE = 3

Colour = tuple[int, int, int]

HAIR: dict[str, Colour] = {
    "black": (38, 34, 44),
    "brown": (122, 72, 38),
    "blonde": (246, 214, 96),
    "red": (214, 40, 40),
    "blue": (48, 88, 222),
    "green": (62, 168, 62),
    "pink": (250, 140, 190),
    "purple": (136, 64, 190),
    "teal": (40, 206, 200),
    "split": (236, 236, 242),
}
SPLIT_RIGHT: Colour = (160, 20, 60)
EYES: dict[str, Colour] = {
    "blue": (30, 100, 240),
    "red": (220, 20, 30),
    "green": (20, 160, 50),
    "yellow": (240, 196, 0),
    "purple": (140, 40, 210),
    "brown": (110, 60, 20),
    "pink": (255, 90, 190),
}
CLOTHES: dict[str, Colour] = {
    "red": (206, 44, 52),
    "blue": (52, 92, 208),
    "green": (56, 150, 72),
    "yellow": (238, 200, 60),
    "purple": (132, 72, 178),
    "white": (240, 240, 244),
    "black": (44, 44, 54),
}
SKIN: Colour = (255, 222, 196)
LINE: Colour = (52, 36, 44)
WHITE: Colour = (255, 255, 255)


def _shade(colour: Colour, factor: float) -> Colour:
    return tuple(max(0, min(255, round(channel * factor))) for channel in colour)  # type: ignore[return-value]


class Variation:
    """How much images of the same scene differ: 1 for the VAE and the scorer, less for what the base learns from."""

    def __init__(self, rng: random.Random, amount: float) -> None:
        self.rng, self.amount = rng, amount

    def shift(self, largest: float) -> float:
        """A random offset."""
        return self.amount * self.rng.uniform(-largest, largest)

    def tint(self, colour: Colour, largest: int = 8) -> Colour:
        """The colour, a little different."""
        return tuple(max(0, min(255, round(c + self.shift(largest)))) for c in colour)  # type: ignore[return-value]


class Pen:
    """Draws in a figure's own coordinates: x from its axis, y from the image's top, feet at 122."""

    def __init__(self, draw: ImageDraw.ImageDraw, x: float, y: float, scale: float) -> None:
        self.draw, self.x, self.y, self.scale = draw, x, y, scale

    def point(self, x: float, y: float) -> tuple[float, float]:
        return (self.x + x * self.scale) * SUPERSAMPLE, (self.y + (y - 122) * self.scale) * SUPERSAMPLE

    def width(self, pixels: float) -> int:
        return max(1, round(pixels * self.scale * SUPERSAMPLE))

    def ellipse(
        self,
        x: float,
        y: float,
        rx: float,
        ry: float,
        fill: Colour | None,
        outline: Colour | None = LINE,
        width: float = 1.2,
    ) -> None:
        box = [*self.point(x - rx, y - ry), *self.point(x + rx, y + ry)]
        self.draw.ellipse(box, fill=fill, outline=outline, width=self.width(width))

    def polygon(self, points: Sequence[tuple[float, float]], fill: Colour, outline: Colour | None = LINE) -> None:
        placed = [self.point(*point) for point in points]
        self.draw.polygon(placed, fill=fill)
        if outline is not None:
            self.draw.line([*placed, placed[0]], fill=outline, width=self.width(1.2), joint="curve")

    def line(self, points: Sequence[tuple[float, float]], fill: Colour, width: float) -> None:
        placed = [self.point(*point) for point in points]
        self.draw.line(placed, fill=fill, width=self.width(width), joint="curve")
        radius = width * self.scale * SUPERSAMPLE / 2
        for px, py in (placed[0], placed[-1]):
            self.draw.ellipse([px - radius, py - radius, px + radius, py + radius], fill=fill)

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Colour, width: float
    ) -> None:
        box = [*self.point(x - rx, y - ry), *self.point(x + rx, y + ry)]
        self.draw.arc(box, start, end, fill=fill, width=self.width(width))

    def slice(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Colour) -> None:
        box = [*self.point(x - rx, y - ry), *self.point(x + rx, y + ry)]
        self.draw.pieslice(box, start, end, fill=fill)


def star_points(x: float, y: float, outer: float, inner: float) -> list[tuple[float, float]]:
    """The ten corners of a five-pointed star that points upwards."""
    radii = [outer if index % 2 == 0 else inner for index in range(10)]
    angles = [math.pi * index / 5 - math.pi / 2 for index in range(10)]
    return [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(radii, angles, strict=True)]


# ---------------------------------------------------------------- hair


def _hair_sides(figure: Figure, variation: Variation) -> tuple[Colour, Colour]:
    left = variation.tint(HAIR[figure.hair_colour])
    return left, (variation.tint(SPLIT_RIGHT) if figure.hair_colour == "split" else left)


def _hair_behind(pen: Pen, style: str, left: Colour, right: Colour) -> None:
    """What hangs or stands behind the head; each half in its side's colour."""
    for side, colour in ((-1, left), (1, right)):
        if style == "longhair":
            pen.polygon(
                [(0, 28), (side * 24, 30), (side * 30, 60), (side * 30, 100), (side * 16, 106), (0, 100)], colour
            )
        elif style == "shorthair":
            pen.polygon([(0, 28), (side * 24, 32), (side * 29, 56), (side * 24, 72), (0, 72)], colour)
        elif style == "spikyhair":
            tips = [
                (0, 14),
                (side * 9, 22),
                (side * 15, 8),
                (side * 21, 24),
                (side * 32, 20),
                (side * 28, 36),
                (side * 37, 42),
                (side * 28, 52),
                (side * 32, 62),
                (side * 20, 64),
                (0, 60),
            ]
            pen.polygon(tips, colour)
        elif style == "twintails":
            pen.ellipse(side * 30, 62, 7.5, 26, colour)
            pen.ellipse(side * 27, 40, 4.5, 4.5, (220, 60, 90))
    if style == "ponytail":
        pen.polygon([(10, 24), (24, 20), (36, 32), (38, 60), (33, 86), (26, 70), (22, 40)], right)
    if style == "hairbun":
        pen.ellipse(0, 17, 12, 11, left if left == right else right)


def _hair_front(pen: Pen, figure: Figure, left: Colour, right: Colour) -> None:
    """Crown and fringe, over the head and above the eyes."""
    for side, colour in ((-1, left), (1, right)):
        cap = [(side * 25.5 * math.sin(a), 46 - 22.5 * math.cos(a)) for a in [math.pi * k / 24 for k in range(13)]]
        pen.polygon([*cap, (side * 23, 54), (side * 19, 40), (side * 13, 43), (side * 8, 37), (0, 41)], colour, None)
        pen.line([*cap, (side * 23, 54), (side * 19, 40), (side * 13, 43), (side * 8, 37), (0, 41)], LINE, 1.2)


# ---------------------------------------------------------------- clothes and body


def _body(pen: Pen, figure: Figure, cloth: Colour) -> None:
    if figure.clothes != "robe":
        for side in (-1, 1):
            colour = SKIN if figure.clothes == "dress" else (70, 70, 100)
            pen.polygon([(side * 2, 98), (side * 11, 98), (side * 10, 119), (side * 3, 119)], colour)
            pen.ellipse(side * 7, 119.5, 6, 3, (90, 50, 40))
    if figure.clothes == "dress":
        pen.polygon([(-9, 68), (9, 68), (13, 86), (24, 109), (-24, 109), (-13, 86)], cloth)
        pen.line([(-23, 106), (23, 106)], WHITE if figure.clothes_colour != "white" else (150, 150, 170), 2.4)
    elif figure.clothes == "shirt":
        pen.polygon([(-12, 68), (12, 68), (14, 99), (-14, 99)], cloth)
    else:
        pen.polygon([(-12, 68), (12, 68), (17, 96), (20, 120), (-20, 120), (-17, 96)], cloth)
        pen.polygon([(-17.5, 97), (17.5, 97), (18, 103), (-18, 103)], (214, 160, 70))


def _arms(pen: Pen, figure: Figure, cloth: Colour) -> None:
    raised = {"standing": (), "armsup": (-1, 1), "waving": (1,)}[figure.pose]
    for side in (-1, 1):
        hand = (side * 29, 62) if side in raised else (side * 21, 94)
        elbow = (side * 23, 80) if side in raised else (side * 18, 82)
        pen.line([(side * 11, 73), elbow, hand], LINE, 9.4)
        pen.line([(side * 11, 73), elbow, hand], _shade(cloth, 0.92), 7.2)
        pen.ellipse(*hand, 5.2, 5.2, SKIN)


def _emblem(pen: Pen, kind: str) -> None:
    """A chest emblem 17 pixels across."""
    if kind == "star":
        pen.polygon(star_points(0, 84, 10, 4.6), (255, 214, 30))
    elif kind == "moon":
        pen.ellipse(0, 84, 9, 9, (250, 250, 200))
        pen.ellipse(4, 81.5, 6.2, 6.2, (60, 60, 130))
    elif kind == "heart":
        pen.polygon([(0, 93), (-9, 83), (-8, 77), (-4, 75.5), (0, 79), (4, 75.5), (8, 77), (9, 83)], (255, 70, 130))


# ---------------------------------------------------------------- head


def _face(pen: Pen, figure: Figure, variation: Variation) -> None:
    pen.ellipse(0, 48, 24, 21, SKIN)
    iris = variation.tint(EYES[figure.eyes], 6)
    for side in (-1, 1):
        pen.ellipse(side * 11, 51, 7.2, 8.6, WHITE, LINE, 1.6)
        pen.ellipse(side * 11, 52, 5.8, 7.2, iris, None)
        pen.ellipse(side * 11, 53.5, 2.0, 3.0, _shade(iris, 0.25), None)
        pen.ellipse(side * 11 - 2, 48.5, 1.8, 1.8, WHITE, None)
    if figure.expression == "smile":
        pen.arc(0, 60, 6, 5, 15, 165, (150, 40, 50), 2)
    elif figure.expression == "openmouth":
        pen.ellipse(0, 62.5, 7, 5.8, (150, 10, 40), LINE, 1.6)
    else:
        pen.arc(0, 67.5, 6.5, 6, 195, 345, (90, 30, 40), 2.6)
        for side in (-1, 1):  # tears: a mouth alone is too small for the base to learn
            pen.ellipse(side * 15.5, 61.5, 4.4, 5.6, (60, 140, 255), None)


def _accessory(pen: Pen, figure: Figure, hair: tuple[Colour, Colour]) -> None:
    """What is worn over head and hair."""
    kind = figure.accessory
    if kind == "glasses":
        for side in (-1, 1):
            pen.ellipse(side * 11, 51.5, 9.5, 9.5, None, (20, 20, 30), 2.6)
        pen.line([(-2, 51), (2, 51)], (20, 20, 30), 2.6)
    elif kind == "hat":
        pen.polygon([(-14, 29), (-4, 3), (10, 2), (14, 29)], (70, 50, 120))
        pen.polygon([(-33, 33), (-14, 26), (14, 26), (33, 33), (14, 36), (-14, 36)], (70, 50, 120))
        pen.polygon([(-14, 29), (-12.5, 22), (12.8, 22), (14, 29)], (250, 180, 40), None)
    elif kind == "bow":
        pen.polygon([(-14, 27), (-30, 16), (-30, 36)], (240, 60, 110))
        pen.polygon([(-14, 27), (0, 15), (1, 35)], (240, 60, 110))
        pen.ellipse(-14, 26.5, 4, 4.5, (200, 30, 80))
    elif kind == "scarf":
        pen.polygon([(-16, 68), (16, 68), (17, 77), (-17, 77)], (240, 130, 40))
        pen.polygon([(6, 76), (15, 76), (16, 94), (8, 94)], (240, 130, 40))
    elif kind == "catears":
        for side, colour in ((-1, hair[0]), (1, hair[1])):
            pen.polygon([(side * 6, 27), (side * 20, 8), (side * 25, 36)], colour)
            pen.polygon([(side * 11, 27), (side * 18.5, 15), (side * 21, 31)], (255, 170, 180), None)
    elif kind == "crown":
        pen.polygon([(-15, 30), (-17, 11), (-8, 20), (0, 8), (8, 20), (17, 11), (15, 30)], (255, 205, 40))
        pen.ellipse(0, 24, 2.8, 2.8, (220, 30, 60), None)
    elif kind == "horns":
        for side in (-1, 1):
            points = [
                (side * 8, 28),
                (side * 14, 17),
                (side * 13, 4),
                (side * 25, 13),
                (side * 24, 26),
                (side * 18, 33),
            ]
            pen.polygon(points, (190, 30, 40))
    elif kind == "halo":
        pen.ellipse(0, 13, 20, 7, None, (190, 150, 20), 5.0)
        pen.ellipse(0, 13, 19.2, 6.2, None, (255, 235, 90), 3.4)


def _figure(draw: ImageDraw.ImageDraw, figure: Figure, x: float, y: float, scale: float, variation: Variation) -> None:
    pen = Pen(draw, x, y, scale)
    left, right = _hair_sides(figure, variation)
    cloth = variation.tint(CLOTHES[figure.clothes_colour])
    _hair_behind(pen, figure.hair_style, left, right)
    _body(pen, figure, cloth)
    _emblem(pen, figure.emblem)
    _arms(pen, figure, cloth)
    _face(pen, figure, variation)
    _hair_front(pen, figure, left, right)
    _accessory(pen, figure, (left, right))


# ---------------------------------------------------------------- backgrounds


def _bands(draw: ImageDraw.ImageDraw, bands: list[tuple[float, Colour]], variation: Variation) -> None:
    """Fills horizontal bands; each entry is the band's upper edge (share of the height) and its colour."""
    side = SIZE * SUPERSAMPLE
    for index, (top, colour) in enumerate(bands):
        end = bands[index + 1][0] if index + 1 < len(bands) else 1.0
        draw.rectangle([0, top * side, side, end * side], fill=variation.tint(colour, 6))


def _meadow(pen: Pen, variation: Variation) -> None:
    _bands(pen.draw, [(0, (150, 214, 250)), (0.66, (120, 200, 90))], variation)
    for x, y in ((8, 100), (22, 118), (44, 96), (84, 116), (106, 98), (121, 119)):
        pen.ellipse(x + variation.shift(14), y + variation.shift(8), 3, 3, (255, 240, 250), None)


def _beach(pen: Pen, variation: Variation) -> None:
    _bands(pen.draw, [(0, (170, 226, 250)), (0.5, (40, 140, 210)), (0.76, (244, 222, 160))], variation)


def _night(pen: Pen, variation: Variation) -> None:
    _bands(pen.draw, [(0, (24, 26, 72)), (0.82, (18, 40, 50))], variation)
    for x, y in ((8, 14), (20, 52), (12, 84), (40, 6), (66, 10), (92, 8), (104, 40), (120, 18), (118, 76)):
        pen.ellipse(x + variation.shift(14), y + variation.shift(14), 1.6, 1.6, (255, 255, 220), None)


def _sunset(pen: Pen, variation: Variation) -> None:
    _bands(
        pen.draw, [(0, (240, 120, 90)), (0.3, (250, 160, 90)), (0.6, (255, 200, 120)), (0.8, (110, 60, 90))], variation
    )


def _room(pen: Pen, variation: Variation) -> None:
    _bands(pen.draw, [(0, (236, 214, 180)), (0.78, (150, 100, 62))], variation)
    pen.polygon([(4, 10), (30, 10), (30, 44), (4, 44)], (190, 230, 250))
    pen.polygon([(98, 10), (124, 10), (124, 44), (98, 44)], (190, 230, 250))


def _forest(pen: Pen, variation: Variation) -> None:
    _bands(pen.draw, [(0, (40, 96, 56)), (0.84, (70, 60, 40))], variation)
    for place in (8, 44, 84, 120):
        x = place + variation.shift(4)
        pen.polygon([(x - 5, 0), (x + 5, 0), (x + 6, 110), (x - 6, 110)], (92, 62, 40), None)


def _city(pen: Pen, variation: Variation) -> None:
    _bands(pen.draw, [(0, (200, 210, 224)), (0.86, (110, 110, 116))], variation)
    for x, height in ((0, 34), (26, 52), (52, 24), (78, 44), (104, 30)):
        top = height + variation.shift(20)
        pen.polygon([(x, top), (x + 22, top), (x + 22, 110), (x, 110)], (130, 138, 152), None)
        for row in range(int(top) + 6, 104, 14):
            pen.polygon([(x + 6, row), (x + 16, row), (x + 16, row + 6), (x + 6, row + 6)], (250, 240, 170), None)


def _white(pen: Pen, variation: Variation) -> None:
    _bands(pen.draw, [(0, (250, 250, 250))], variation)


_PAINTERS: dict[str, Callable[[Pen, Variation], None]] = {
    "white": _white,
    "meadow": _meadow,
    "beach": _beach,
    "night": _night,
    "sunset": _sunset,
    "room": _room,
    "forest": _forest,
    "city": _city,
}


# ---------------------------------------------------------------- images


def draw_scene(scene: Scene, rng: random.Random, amount: float = 1.0) -> Image.Image:
    """The scene as a 128 x 128 RGB image; position, size, colours and background vary with `rng`, times `amount`."""
    side, variation = SIZE * SUPERSAMPLE, Variation(rng, amount)
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    _PAINTERS[scene.background](Pen(draw, 0, 122, 1.0), variation)
    centres = (64.0,) if len(scene.figures) == 1 else (33.0, 95.0)
    size = 1.0 if len(scene.figures) == 1 else 0.88
    for figure, centre in zip(scene.figures, centres, strict=True):
        scale = size * (1 + variation.shift(0.04))
        _figure(draw, figure, centre + variation.shift(3), 123 + variation.shift(1.5), scale, variation)
    return image.reduce(SUPERSAMPLE)


def draw_shapes(rng: random.Random) -> Image.Image:
    """Random flat shapes in random colours: teaches the VAE what the figures do not contain."""
    side = SIZE * SUPERSAMPLE

    def colour() -> Colour:
        return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)

    image = Image.new("RGB", (side, side), colour())
    pen = Pen(ImageDraw.Draw(image), 0, 122, 1.0)
    for _ in range(rng.randint(6, 16)):
        x, y, size = rng.uniform(0, 128), rng.uniform(0, 128), rng.uniform(4, 30)
        outline = LINE if rng.random() < 0.5 else None
        kind = rng.randrange(4)
        if kind == 0:
            pen.ellipse(x, y, size, size * rng.uniform(0.4, 1.6), colour(), outline)
        elif kind == 1:
            pen.polygon(star_points(x, y, size, size * rng.uniform(0.3, 0.8)), colour(), outline)
        elif kind == 2:
            pen.polygon(
                [(x + rng.uniform(-size, size), y + rng.uniform(-size, size)) for _ in range(4)], colour(), outline
            )
        else:
            pen.line([(x, y), (x + rng.uniform(-40, 40), y + rng.uniform(-40, 40))], colour(), rng.uniform(1, 6))
    return image.reduce(SUPERSAMPLE)
