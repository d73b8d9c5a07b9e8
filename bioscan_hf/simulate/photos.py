"""Draws photos of simulated arthropods, one specimen in a pale well.

The order gives the body plan, inherited traits (`taxa.TRAITS`) change proportions, colours and pattern, and each
specimen has its own pose, light and small differences. A taxon can be learnt from several photos, not from one pixel.

Coordinates: a body lies along x, head first, in body lengths; an original photo has 1024 x 768 pixels.
"""

from __future__ import annotations

import math
from functools import lru_cache
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw

from .taxa import TRAITS, Floats

WIDTH, HEIGHT = 1024, 768

_SUPERSAMPLING = 2
_QUALITY = 88
_OPAQUE = 0.7
_PADDING = (204, 218, 243)  # colour of published crops outside the original
_STEPS = 18


class BodyPlan(NamedTuple):
    """Shape of an order: sizes in body lengths (length, width), angles in degrees from the front.

    Attributes:
        waist: Gap between thorax and abdomen.
        wings: Length, width and angle of each pair; `opacity` is in [0, 1].
        legs: Angle of each pair; `leg` is their length, `hind` the relative length of the hind legs.
        span: Typical width of the whole specimen.
    """

    head: tuple[float, float]
    thorax: tuple[float, float]
    abdomen: tuple[float, float]
    colour: tuple[int, int, int]
    wings: tuple[tuple[float, float, float], ...] = ()
    opacity: float = 0.3
    legs: tuple[int, ...] = (50, 95, 135)
    leg: float = 0.45
    hind: float = 1.2
    antenna: float = 0.2
    eye: float = 0.09
    waist: float = 0.0
    tail: float = 0.0
    span: float = 0.75


# fmt: off
PLANS = {
    "Diptera": BodyPlan((0.17, 0.22), (0.3, 0.28), (0.45, 0.22), (96, 74, 52), ((0.68, 0.24, 140),),
        antenna=0.1, eye=0.125),
    "Hymenoptera": BodyPlan((0.15, 0.2), (0.3, 0.2), (0.42, 0.2), (58, 42, 34), ((0.62, 0.2, 125), (0.42,
        0.13, 145)), 0.25, antenna=0.42, waist=0.07),
    "Hemiptera": BodyPlan((0.15, 0.3), (0.24, 0.33), (0.56, 0.28), (124, 128, 62), ((0.74, 0.27, 172),),
        0.88, leg=0.36),
    "Coleoptera": BodyPlan((0.14, 0.22), (0.2, 0.32), (0.6, 0.4), (74, 48, 30), ((0.66, 0.3, 178),), 1.0,
        leg=0.34, span=0.62),
    "Lepidoptera": BodyPlan((0.12, 0.15), (0.25, 0.2), (0.55, 0.16), (142, 118, 88), ((0.82, 0.46, 128),
        (0.62, 0.46, 150)), 0.95, leg=0.3, antenna=0.45, span=1.0),
    "Araneae": BodyPlan((0.08, 0.12), (0.36, 0.32), (0.5, 0.42), (128, 96, 64), (), legs=(35, 70, 105, 145),
        leg=0.75, hind=1.0, antenna=0.12, eye=0.03, span=1.1),
    "Entomobryomorpha": BodyPlan((0.16, 0.15), (0.22, 0.17), (0.58, 0.19), (158, 134, 92), (), leg=0.2,
        antenna=0.32, eye=0.05, tail=0.3, span=0.45),
    "Psocodea": BodyPlan((0.24, 0.26), (0.22, 0.22), (0.45, 0.24), (138, 108, 72), ((0.85, 0.26, 163),),
        0.5, leg=0.34, antenna=0.7),
    "Thysanoptera": BodyPlan((0.13, 0.13), (0.22, 0.17), (0.65, 0.17), (112, 88, 52), ((0.5, 0.05, 165),
        (0.45, 0.05, 155)), 0.6, leg=0.22, antenna=0.2, span=0.4),
    "Trombidiformes": BodyPlan((0.1, 0.14), (0.3, 0.42), (0.56, 0.58), (160, 72, 42), (), legs=(30, 55, 110,
        135), leg=0.38, hind=1.0, antenna=0.08, eye=0.04, span=0.85),
    "Trichoptera": BodyPlan((0.12, 0.16), (0.22, 0.2), (0.5, 0.17), (112, 86, 56), ((0.9, 0.27, 170),),
        0.85, leg=0.42, antenna=0.95, span=0.6),
    "Symphypleona": BodyPlan((0.28, 0.28), (0.18, 0.34), (0.5, 0.52), (150, 110, 104), (), leg=0.24,
        antenna=0.34, eye=0.07, tail=0.16, span=0.7),
    "Neuroptera": BodyPlan((0.12, 0.15), (0.24, 0.16), (0.6, 0.13), (116, 124, 70), ((0.95, 0.36, 138),
        (0.85, 0.32, 152)), 0.28, leg=0.3, antenna=0.5, span=1.0),
    "Blattodea": BodyPlan((0.12, 0.2), (0.24, 0.42), (0.62, 0.4), (118, 72, 38), ((0.78, 0.32, 176),), 0.75,
        leg=0.42, antenna=0.75, tail=0.12, span=0.7),
    "Orthoptera": BodyPlan((0.18, 0.2), (0.26, 0.22), (0.6, 0.19), (112, 122, 58), ((0.7, 0.15, 176),),
        0.85, leg=0.36, hind=2.3, antenna=0.6, span=0.75),
}
# fmt: on


class Specimen(NamedTuple):
    """A specimen to draw: order, (T,) traits, box (x0, y0, x1, y1) in the original photo, angle in radians, seed."""

    order: str
    traits: Floats
    box: tuple[int, int, int, int]
    angle: float
    seed: tuple[int, int]


class Stroke(NamedTuple):
    """A filled polygon, or a line if `width` (in body lengths) is given; points (n, 2)."""

    points: Floats
    colour: tuple[int, ...]
    width: float = 0.0


@lru_cache(1)
def _circle() -> Floats:
    angle = np.arange(_STEPS) * (2 * np.pi / _STEPS)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


@lru_cache(1)
def _blade() -> Floats:
    """Outline of a wing of length 1 and width 1 along x, widest beyond its middle."""
    along = np.sin(np.linspace(0, np.pi / 2, 12))  # closer steps at the rounded tip
    half = 0.5 * np.sin(np.pi * along**1.35) ** 0.6
    return np.concatenate([np.stack([along, 0.8 * half], 1), np.stack([along, -1.2 * half], 1)[-2:0:-1]])


@lru_cache(1)
def _grain() -> Image.Image:
    """Sensor noise and fine texture, larger than any drawn photo; mean 8."""
    rng = np.random.default_rng(1)
    fine = rng.normal(8, 2.2, (1024, 1400, 1))
    coarse = np.repeat(np.repeat(rng.normal(0, 1.6, (256, 350, 1)), 4, axis=0), 4, axis=1)
    colour = rng.normal(0, 0.8, (1024, 1400, 3))
    return Image.fromarray(np.clip(fine + coarse + colour, 0, 16).round().astype(np.uint8))


def _shade(colour: Floats, factor: float, alpha: float = 1.0) -> tuple[int, ...]:
    red, green, blue = (min(255, max(0, int(value * factor))) for value in colour.tolist())
    return red, green, blue, int(255 * alpha)


def _ellipse(x: float, y: float, length: float, width: float) -> Floats:
    return _circle() * (length / 2, width / 2) + (x, y)


def _segment(x: float, length: float, width: float, colour: Floats, light: float) -> list[Stroke]:
    """An elliptical body part: dark rim, lit side, highlight."""
    return [
        Stroke(_ellipse(x, 0, length, width), _shade(colour, 0.72)),
        Stroke(_ellipse(x, 0.06 * light * width, 0.9 * length, 0.8 * width), _shade(colour, 1.0)),
        Stroke(_ellipse(x, 0.14 * light * width, 0.7 * length, 0.45 * width), _shade(colour, 1.2, 0.7)),
        Stroke(_ellipse(x, 0.22 * light * width, 0.4 * length, 0.12 * width), (255, 255, 255, 60)),
    ]


def _bands(x: float, length: float, width: float, count: int, colour: tuple[int, ...]) -> list[Stroke]:
    """Cross bands on an ellipse."""
    strokes = []
    for at in (np.arange(count) + 0.5) / count * 1.8 - 0.9:
        ends = np.clip([at - 0.275 / count, at + 0.275 / count], -0.98, 0.98)
        (a, b), (c, d) = ends * length / 2 + x, np.sqrt(1 - ends**2) * width / 2
        strokes.append(Stroke(np.array([(a, c), (b, d), (b, -d), (a, -c)]), colour))
    return strokes


def _wing(root: tuple[float, float], size: Floats, angle: float, fill: tuple[int, ...], spot: float) -> list[Stroke]:
    """A wing of `size` (length, width) with veins, and a dark spot if `spot` > 0; `angle` in radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]]) * size[:, None]
    vein = (*(int(0.55 * value) for value in fill[:3]), min(255, fill[3] + 50))
    lines = [np.array([(0.0, 0.0), (0.55, 0.6 * y), (0.93, y)]) for y in (-0.3, 0.02, 0.24)]
    lines.append(np.concatenate([_blade(), _blade()[:1]]))
    strokes = [Stroke(_blade() @ turn + root, fill), *(Stroke(line @ turn + root, vein, 0.006) for line in lines)]
    if spot > 0:
        oval = _circle() * (0.1 + 0.04 * spot, 0.2) + (0.68, -0.1)
        strokes.append(Stroke(oval @ turn + root, (*vein[:3], 190)))
    return strokes


def _limbs(
    rng: np.random.Generator, plan: BodyPlan, hip: Floats, length: float, colour: Floats, lateral: bool
) -> list[Stroke]:
    """Jointed legs; in a lateral pose all point to one side."""
    strokes = []
    jitter = rng.normal(0, 0.22, (2, len(plan.legs), 3))
    for i, degrees in enumerate(plan.legs):
        reach = length * (plan.hind if i == len(plan.legs) - 1 else 1.0)
        for side in (0, 1):
            sign = -1 if lateral or side else 1
            first = math.radians(degrees) + jitter[side, i, 0]
            second = first + 0.75 * (1 if degrees > 90 else -1) + 1.5 * jitter[side, i, 1]
            third = second + 0.4 + jitter[side, i, 2]
            joint = np.array([hip[i], sign * 0.02])
            points = [joint]
            for angle, part in ((first, 0.42), (second, 0.38), (third, 0.24)):
                joint = joint + reach * part * np.array([math.cos(angle), sign * math.sin(angle)])
                points.append(joint)
            line = np.array(points)
            strokes.append(Stroke(line[:2], _shade(colour, 0.8), 0.042))
            strokes.append(Stroke(line[1:], _shade(colour, 0.9), 0.022))
    return strokes


def _antennae(rng: np.random.Generator, x: float, length: float, colour: Floats) -> list[Stroke]:
    along = np.linspace(0, 1, 5)
    strokes = []
    for sign in (-1, 1):
        angle = sign * rng.uniform(0.2, 0.6) + rng.uniform(-0.5, 0.9) * sign * along
        step = np.stack([np.cos(angle), np.sin(angle)], 1) * (length / 5)
        strokes.append(Stroke(step.cumsum(axis=0) - step[0] + (x, sign * 0.03), _shade(colour, 0.75), 0.014))
    return strokes


def _wings(
    rng: np.random.Generator, plan: BodyPlan, trait: dict[str, float], colour: Floats, width: float, lateral: bool
) -> tuple[list[Stroke], list[Stroke]]:
    """Wings behind the body, and wings above it; `width` is that of the thorax."""
    tint = 1 / (1 + math.exp(-1.2 * trait["wing_tint"]))
    if plan.opacity > _OPAQUE:
        fill = _shade(0.95 * colour, 1.0, plan.opacity)
    else:
        fill = _shade(205 - tint * (205 - 0.8 * colour), 1.0, plan.opacity * (0.6 + 0.9 * tint))
    layers: tuple[list[Stroke], list[Stroke]] = ([], [])
    for length, breadth, degrees in reversed(plan.wings):
        folded = degrees > 160
        size = np.array([_scaled(length, trait["wing_length"], 0.12), _scaled(breadth, trait["wing_width"], 0.18)])
        for side in (-1, 1):
            sign = 1 if lateral and not folded else side  # from the side, both wings point up
            angle = math.radians(degrees) + rng.normal(0, 0.04 if folded else 0.16)
            root = ((-0.3 if folded else 0.1) * plan.thorax[0], sign * (0.28 if degrees < 175 else 0.2) * width)
            layers[folded or lateral].extend(_wing(root, size, sign * angle, fill, trait["wing_spot"] - 0.5))
    return layers


def _scaled(value: float, trait: float, strength: float) -> float:
    return value * math.exp(strength * max(-2.5, min(2.5, trait)))


def _body(rng: np.random.Generator, specimen: Specimen) -> list[Stroke]:
    """Strokes of the specimen in body coordinates, lowest first."""
    plan = PLANS[specimen.order]
    trait = dict(zip(TRAITS, (specimen.traits + rng.normal(0, 0.22, len(TRAITS))).tolist(), strict=True))
    colour = np.array(plan.colour) * math.exp(0.3 * max(-2.2, min(2.0, trait["lightness"])))
    colour = colour + 14 * trait["red"] * np.array([1, 0.2, -0.6]) + 11 * trait["green"] * np.array([-0.6, 1, -0.3])
    colour = np.clip(colour, 16, 225)
    second = np.clip(colour * math.exp(0.3 * trait["green"] - 0.15) + 9 * trait["red"], 14, 225)  # head and thorax
    lateral = bool(rng.random() < 0.4)
    light = float(rng.choice([-1.0, 1.0]))

    head, head_width = (_scaled(value, trait["head"], 0.14) for value in plan.head)
    thorax, thorax_width = plan.thorax[0], _scaled(plan.thorax[1], trait["thorax"], 0.16)
    abdomen = _scaled(plan.abdomen[0], trait["abdomen_length"], 0.16)
    abdomen_width = _scaled(plan.abdomen[1], trait["abdomen_width"], 0.18)
    front = thorax / 2 + 0.9 * head
    middle = -(thorax / 2 + plan.waist + 0.44 * abdomen)  # of the abdomen

    strokes, above = _wings(rng, plan, trait, colour, thorax_width, lateral)
    hip = np.linspace(0.35, -0.4, len(plan.legs)) * thorax
    leg = _scaled(plan.leg, trait["leg_length"], 0.2)
    strokes += _limbs(rng, plan, hip, leg, 0.6 * colour + 0.4 * second, lateral)
    strokes += _antennae(rng, front + 0.3 * head, _scaled(plan.antenna, trait["antenna_length"], 0.22), second)
    for sign in (-1, 1) if plan.tail else ():
        end = middle - 0.45 * abdomen
        tail = np.array([(end, sign * 0.02), (end - plan.tail, sign * 0.25 * plan.tail)])
        strokes.append(Stroke(tail, _shade(colour, 0.8), 0.016))
    if plan.waist:
        strokes.append(Stroke(np.array([(0.0, 0.0), (middle, 0.0)]), _shade(second, 0.7), 0.05))
    strokes += _segment(middle, abdomen, abdomen_width, colour, light)
    if trait["pattern"] > -0.6:
        count = int(np.clip(round(4 + 1.6 * trait["bands"]), 1, 8))
        dark = _shade(second, 0.45, min(0.9, 0.35 + 0.3 * (trait["pattern"] + 0.6)))
        strokes += _bands(middle, abdomen, 0.96 * abdomen_width, count, dark)
    strokes += _segment(0.0, thorax, thorax_width, second, light)
    strokes += _segment(front - 0.4 * head, head, head_width, 0.85 * second, light)
    for sign in (-1, 1):
        place = (front - 0.3 * head, sign * 0.34 * head_width)
        strokes.append(Stroke(_circle() * (0.5 * plan.eye, 0.42 * plan.eye) + place, (46, 16, 14, 255)))
    strokes += above
    if trait["pattern"] > 0.4 and plan.opacity > _OPAQUE:
        for x, y in ((-0.3, 0.3), (-0.55, 0.35), (-0.3, -0.3), (-0.55, -0.35)):  # spots
            spot = _ellipse(x, y * abdomen_width, 0.06 + 0.02 * trait["bands"], 0.08)
            strokes.append(Stroke(spot, _shade(second, 0.4, 0.8)))
    return strokes


def _fit(rng: np.random.Generator, strokes: list[Stroke], specimen: Specimen) -> tuple[list[list[float]], float]:
    """Points of each stroke in the original photo (x, y, x, y, ...), and the body length in pixels."""
    points = np.concatenate([stroke.points for stroke in strokes])
    points[:, 1] += rng.normal(0, 0.18) * points[:, 0] ** 2  # a bent body
    cos, sin = math.cos(specimen.angle), math.sin(specimen.angle)
    points = points @ np.array([[cos, sin], [-sin, cos]])
    low, high = points.min(axis=0), points.max(axis=0)
    x0, y0, x1, y1 = specimen.box
    scale = float(min((x1 - x0) / (high[0] - low[0]), (y1 - y0) / (high[1] - low[1])))
    points = (points - (low + high) / 2) * scale + ((x0 + x1) / 2, (y0 + y1) / 2)
    flat, start = [], 0
    numbers = points.ravel().tolist()
    for stroke in strokes:
        end = start + 2 * len(stroke.points)
        flat.append(numbers[start:end])
        start = end
    return flat, scale


def _background(
    rng: np.random.Generator, window: tuple[float, float, float, float], size: tuple[int, int]
) -> Image.Image:
    """The well: grey, with soft rings of reflected light around its centre."""
    x0, y0, x1, y1 = window
    columns, rows = 20, 15
    x = np.linspace(x0, x1, columns) - rng.uniform(440, 590)
    y = (np.linspace(y0, y1, rows) - rng.uniform(340, 430))[:, None]
    radius = np.sqrt(x**2 + y**2)
    phase, period = rng.uniform(0, 6.3), rng.uniform(90, 160)
    grey = rng.uniform(192, 222) + 5 * np.sin(radius * (6.3 / period) + phase) * (radius < 430)
    grey = grey + rng.normal(0, 0.015) * x + rng.normal(0, 0.015) * y + rng.normal(0, 1.2, radius.shape)
    grey -= 26 * np.exp(-(((radius - 455) / 28) ** 2))  # the wall of the well
    tint = np.array([-2.0, 0.0, 3.0]) * rng.uniform(-0.6, 2.5)
    picture = np.clip(grey[:, :, None] + tint, 0, 247).astype(np.uint8)
    return Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)


def _draw(specimen: Specimen, window: tuple[float, float, float, float], size: tuple[int, int]) -> Image.Image:
    """The part `window` (x0, y0, x1, y1) of the original photo, resized to `size`."""
    strokes_rng, background_rng = (np.random.default_rng([*specimen.seed, stream]) for stream in (0, 1))
    strokes = _body(strokes_rng, specimen)
    points, body = _fit(strokes_rng, strokes, specimen)
    canvas = (size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING)
    # No interpolation: the background is smooth, and reduced by the same factor at the end.
    photo = _background(background_rng, window, size).resize(canvas, Image.Resampling.NEAREST)

    zoom = canvas[0] / (window[2] - window[0])
    shift = (-window[0] * zoom, -window[1] * zoom)
    pen = ImageDraw.Draw(photo, "RGBA")
    for x, y, radius in background_rng.random((5, 3)).tolist():  # dust
        x, y = WIDTH * x * zoom + shift[0], HEIGHT * y * zoom + shift[1]
        pen.ellipse((x, y, x + 4 * radius * zoom, y + 3 * radius * zoom), fill=(120, 115, 110, 120))
    for stroke, flat in zip(strokes, points, strict=True):
        flat[0::2] = [x * zoom + shift[0] for x in flat[0::2]]
        flat[1::2] = [y * zoom + shift[1] for y in flat[1::2]]
        if stroke.width:
            pen.line(flat, fill=stroke.colour, width=max(1, round(stroke.width * body * zoom)), joint="curve")
        else:
            pen.polygon(flat, fill=stroke.colour)
    left, top, right, bottom = *shift, WIDTH * zoom + shift[0], HEIGHT * zoom + shift[1]
    beyond = ((0, 0, left, canvas[1]), (0, 0, canvas[0], top), (right, 0, *canvas), (0, bottom, *canvas))
    for a, b, c, d in beyond:
        if c > a and d > b:
            pen.rectangle((a, b, c, d), fill=_PADDING)

    photo = photo.reduce(_SUPERSAMPLING)
    grain = _grain()
    x, y = (int(background_rng.integers(room + 1)) for room in (grain.width - size[0], grain.height - size[1]))
    return ImageChops.add(photo, grain.crop((x, y, x + size[0], y + size[1])), 1, -8)


def _crop_window(box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """Box of a published crop: each side of the detected box plus 0.4 of the longer side."""
    x0, y0, x1, y1 = box
    margin = 0.2 * max(x1 - x0, y1 - y0)
    return x0 - margin, y0 - margin, x1 + margin, y1 + margin


def draw_photo(specimen: Specimen, package: str) -> bytes:
    """JPEG of `specimen` in one of the four image packages; deterministic."""
    if package in ("original_full", "original_256"):
        window: tuple[float, float, float, float] = (0, 0, WIDTH, HEIGHT)
        size = (WIDTH, HEIGHT) if package == "original_full" else (341, 256)
    else:
        window = _crop_window(specimen.box)
        width, height = window[2] - window[0], window[3] - window[1]
        scale = 256 / min(width, height) if package == "cropped_256" else 1.0
        size = (round(width * scale), round(height * scale))
    file = BytesIO()
    _draw(specimen, window, size).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
