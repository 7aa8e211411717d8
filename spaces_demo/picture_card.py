"""
The picture of a song's scores, to keep or to share: a PNG that Pillow draws on the server.

What comes in is a report; what leaves are the bytes of the picture. A song may be called anything: its name is drawn
by the first font at hand that knows its letters, and what none knows is left out.
"""

import functools
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image, ImageDraw, ImageFont

from spaces_demo.wording import format_model, format_number, format_time, format_title

WIDTH, HEIGHT, MARGIN = 1200, 630, 64
INK, SOFT, TRACK, PAPER = "#1c1917", "#57534e", "#eceae8", "#ffffff"
COLOURS = {"popularity": "#b45309"}
OTHER_COLOUR = "#0f766e"
# Gradio brings a font for Latin, Greek and Cyrillic letters; for others, what systems have, by name where installed.
FONT_NAMES = (
    str(Path(gr.__file__).parent / "templates/frontend/static/fonts/SourceSansPro/SourceSansPro-Regular.woff2"),
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "arialuni.ttf",
    "PingFang.ttc",
    "msyh.ttc",
)
UNKNOWN_LETTER = "\U0010ffff"


def draw_card(report: Mapping[str, Any], percentiles: Mapping[str, float], notice: str = "") -> bytes:
    """
    Draw the scores of a song.

    Args:
        report (`Mapping`): The report of a scored song.
        percentiles (`Mapping[str, float]`): The percentile of each score that has one.
        notice (`str`, defaults to `""`): What must be said of the model wherever its scores are shown.

    Returns:
        `bytes`: A PNG of 1200 x 630 pixels, the size that messengers and networks show whole.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, 12, HEIGHT), fill=OTHER_COLOUR)
    _write(draw, (MARGIN, 48), Path(report["song"]).stem, 46, INK, WIDTH - 2 * MARGIN)
    _write(
        draw, (MARGIN, 112), f"{format_time(report['duration_seconds'])} · {format_model(report['model'])}", 24, SOFT
    )
    height = min(58.0, 400 / max(1, len(report["scores"])))
    for number, (name, score) in enumerate(report["scores"].items()):
        _draw_row(draw, 168 + number * height, report, name, score, percentiles.get(name))
    sentence = f"{notice[:1].upper()}{notice[1:]}".replace("`", "")
    _write(draw, (MARGIN, HEIGHT - 48), sentence or "Scores of the sound alone, by apex-music.", 20, SOFT)
    file = io.BytesIO()
    picture.quantize(64).save(file, "PNG", optimize=True)
    return file.getvalue()


def _draw_row(
    draw: ImageDraw.ImageDraw, top: float, report: Mapping[str, Any], name: str, score: float, percentile: float | None
) -> None:
    low, high = report["ranges"][name]
    left, right, middle = MARGIN + 230, WIDTH - MARGIN - 330, top + 19
    _write(draw, (MARGIN, top), format_title(name), 28, INK, 220)
    draw.rounded_rectangle((left, middle - 8, right, middle + 8), 8, fill=TRACK)
    share = min(max((score - low) / (high - low), 0.0), 1.0)
    if share * (right - left) >= 1:
        colour = COLOURS.get(report["groups"].get(name, ""), OTHER_COLOUR)
        draw.rounded_rectangle((left, middle - 8, left + share * (right - left), middle + 8), 8, fill=colour)
    _write(draw, (right + 24, top), f"{format_number(score, high)} of {high:g}", 28, INK)
    if percentile is not None:
        _write(draw, (right + 186, top + 5), f"percentile {percentile:.0f}", 22, SOFT)


def _write(
    draw: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    colour: str,
    width: float = WIDTH - 2 * MARGIN,
) -> None:
    """Write a line of text, cut where it gets too long."""
    number, text = choose_font(text)
    font = load_font(number, size)
    if font.getlength(text) > width:
        # A name is cut by halving what is tried, since each measurement shapes the text anew.
        fits, fails = 0, len(text)
        while fails - fits > 1:
            middle = (fits + fails) // 2
            if font.getlength(f"{text[:middle].rstrip()}…") <= width:
                fits = middle
            else:
                fails = middle
        text = f"{text[:fits].rstrip()}…"
    draw.text(place, text, font=font, fill=colour)


def choose_font(text: str) -> tuple[int, str]:
    """Return the number of the font that knows most letters of a text, and the text without those it does not know."""
    letters = "".join(letter for letter in text[:300] if letter.isprintable())
    known: dict[int, str] = {}
    for number in range(len(FONT_NAMES) + 1):
        if load_font(number, 20) is not None:
            known[number] = "".join(letter for letter in letters if letter == " " or _knows(number, letter))
            if known[number] == letters:
                break
    number = max(known, key=lambda number: len(known[number]))
    return number, " ".join(known[number].split()).lstrip("-–_., ") or "A song"


@functools.lru_cache(maxsize=64)
def load_font(number: int, size: int) -> Any:
    """Load a font of `FONT_NAMES`, or after these Pillow's own; `None` if it is not installed."""
    if number == len(FONT_NAMES):
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(FONT_NAMES[number], size)
    except OSError:
        return None


@functools.lru_cache(maxsize=10_000)
def _knows(number: int, letter: str) -> bool:
    """Tell whether a font draws a letter as something else than the box that stands for any letter it lacks."""
    font = load_font(number, 20)
    drawn, box = (font.getmask(text) for text in (letter, UNKNOWN_LETTER))
    return bool(drawn.size != box.size or bytes(drawn) != bytes(box))
