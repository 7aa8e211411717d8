"""The picture of a song's scores: it opens, has its size, and takes any name."""

import base64
import io
import re
from typing import Any

import pytest
from PIL import Image

from spaces_demo import picture_card
from spaces_demo.picture_card import HEIGHT, WIDTH, choose_font, draw_card
from spaces_demo.score_view import render_report


def open_picture(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    assert picture.format == "PNG"
    assert picture.size == (WIDTH, HEIGHT)
    return picture.convert("RGB")


def count_coloured(picture: Image.Image, box: tuple[int, int, int, int]) -> int:
    """Count the pixels of a bar in a part of a picture."""
    pixels = picture.crop(box).get_flattened_data() if hasattr(Image.Image, "get_flattened_data") else ()
    pixels = pixels or picture.crop(box).getdata()
    return sum(max(pixel) - min(pixel) > 60 for pixel in pixels)


def test_bars_are_as_long_as_the_scores(report: dict[str, Any]) -> None:
    lengths = []
    for share in (0.0, 0.5, 1.0):
        scores = {name: low + share * (high - low) for name, (low, high) in report["ranges"].items()}
        picture = open_picture(draw_card({**report, "scores": scores}, {}))
        lengths.append(count_coloured(picture, (0, 150, WIDTH, 570)) - count_coloured(picture, (0, 150, 20, 570)))
    assert lengths[0] == 0
    assert lengths[1] > 7 * 16 * 200
    assert lengths[2] == pytest.approx(2 * lengths[1], rel=0.03)


def test_percentiles_and_the_notice_are_on_it(report: dict[str, Any]) -> None:
    plain = open_picture(draw_card(report, {}))
    ranked = open_picture(draw_card(report, dict.fromkeys(report["scores"], 73.0)))
    noticed = open_picture(draw_card(report, {}, "demonstration model."))
    right, foot = (WIDTH - 220, 150, WIDTH, 570), (0, HEIGHT - 60, WIDTH, HEIGHT)
    assert plain.crop(right).getextrema() == ((255, 255),) * 3, "nothing is made up"
    assert ranked.crop(right).getextrema() != plain.crop(right).getextrema()
    assert noticed.crop(foot).tobytes() != plain.crop(foot).tobytes()


@pytest.mark.parametrize(
    "name",
    [
        "夏の終わり.mp3",
        "أغنية.wav",
        "\U0001f3b5\U0001f3b5.ogg",
        "\udcff\u202e\n\x1b[31m.wav",
        "=<img src=x>.wav",
        "",
        "a" * 5000,
    ],
    ids=["japanese", "arabic", "emoji", "controls", "markup", "none", "long"],
)
def test_a_song_may_be_called_anything(report: dict[str, Any], name: str) -> None:
    open_picture(draw_card({**report, "song": name}, report["percentiles"]))


def test_letters_that_no_font_knows_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_font("Größer, Žižek, Лето, Ωmega") == (0, "Größer, Žižek, Лето, Ωmega")
    monkeypatch.setattr(picture_card, "FONT_NAMES", ("there-is-no-such-font.ttf",))
    for cache in (picture_card.load_font, picture_card._knows):
        cache.cache_clear()
    assert choose_font("夏 Summer 終 \u202e\n") == (1, "Summer"), "Pillow has a font of its own"
    assert choose_font("夏の終わり") == (1, "A song")
    assert choose_font("夏 – Summer, at last.") == (1, "Summer, at last.")
    for cache in (picture_card.load_font, picture_card._knows):
        cache.cache_clear()


def test_the_picture_stands_under_the_scores_and_can_be_kept(report: dict[str, Any]) -> None:
    html = render_report({**report, "song": '"><b>.wav'}, "demonstration model")[2]
    found = re.search(r'download="([^"]+)\.png" href="data:image/png;base64,([^"]+)">Download picture', html)
    assert found is not None
    open_picture(base64.b64decode(found[2]))
    assert f'<img src="data:image/png;base64,{found[2]}" alt="Scores of ' in html
    assert "Coherence" in html.split('alt="')[1].split('"')[0]
    assert "<b>" not in html
