"""The running Space as a person sees it, in a real Chromium: every tab, both themes, a phone and a desktop."""

import copy
import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio.utils
import numpy as np
import pytest
import soundfile
from patience import PATIENCE
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from modeling_apex import ApexModel
from spaces_demo import advice
from spaces_demo.settings import SpaceSettings
from spaces_demo.wording import format_chance

from waveforms import make_waveform

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
TABS = ("Score", "Compare", "Rank", "About")
expect.set_options(timeout=PATIENCE * 1000)

# What sticks out of the window or is wider than its own box, regions that scroll by design left out.
FIND_OVERFLOW = """
() => [...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  if (!box.width || !box.height || element.closest(".apex-scroll, .apex-hidden, svg")) return false;
  const isClipped = element.closest(".apex-panel, .apex-header, #banner") && !element.closest(".apex-bar, .apex-push")
    && element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).display !== "inline";
  return box.right > innerWidth + 1 || box.left < -1 || isClipped;
}).map((element) => `${element.tagName}.${element.className}`)
"""

PLAYER = "document.querySelector('#score-song #waveform > div').shadowRoot.querySelector('audio')"
# Where the player draws the waveform, how much is drawn and lies outside, and the length of the song in seconds.
MEASURE_WAVEFORM = f"""
() => {{
  const scroll = document.querySelector("#score-song #waveform > div").shadowRoot.querySelector(".scroll");
  const box = scroll.getBoundingClientRect();
  const hidden = scroll.scrollWidth - scroll.clientWidth;
  const drawn = [...scroll.querySelectorAll(".canvases canvas")].reduce((sum, canvas) => sum + canvas.clientWidth, 0);
  return [{{ left: box.left, width: box.width, hidden, drawn }}, {PLAYER}.duration];
}}
"""

# Controls that a screen reader could not name.
FIND_NAMELESS = """
() => [...document.querySelectorAll("button, a[href], input:not([type=file]), select, textarea, [role=img]")]
  .filter((element) => element.getClientRects().length && !element.closest("[aria-hidden=true]"))
  .filter((element) => !(element.innerText || "").trim() && !element.getAttribute("aria-label")
    && !element.getAttribute("title") && !(element.labels && element.labels.length)
    && !element.getAttribute("aria-labelledby"))
  .map((element) => element.outerHTML.slice(0, 120))
"""

# Contrast of the page's own texts with what lies behind them (WCAG 2), the lowest first.
MEASURE_CONTRAST = """
() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const shine = ([r, g, b]) => [r, g, b].map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    for (let node = element; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return [255, 255, 255];
  };
  const wanted = ".apex-title *, .apex-notice, .apex-hint, .apex-panel h3, .apex-panel h4, .apex-meaning, .apex-unit,"
    + " .apex-legend span, .apex-panel dt, .apex-panel dd, .apex-button, .apex-letter, [role=tab]";
  return [...document.querySelectorAll(wanted)].filter((element) => element.getClientRects().length).map((element) => {
    const [light, dark] = [parse(getComputedStyle(element).color), behind(element)].map(shine).sort((a, b) => b - a);
    return [(light + 0.05) / (dark + 0.05), `${element.tagName}.${element.className}`];
  }).sort((a, b) => a[0] - b[0])[0];
}
"""


@pytest.fixture(scope="module")
def long_space(
    serve: Callable[[SpaceSettings], SimpleNamespace], space_model: ApexModel, tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """A running Space that takes songs of ten minutes, in segments of ten seconds."""
    folder = tmp_path_factory.mktemp("models") / "long-model"
    model = copy.deepcopy(space_model)
    model.config.segment_seconds = 10.0
    model.save_pretrained(folder)
    return serve(SpaceSettings(models=(str(folder),)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed: `apt-get install chromium` brings it")
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield started
        started.close()


@pytest.fixture
def visit(browser: Browser, space: SimpleNamespace) -> Iterator[Callable[..., Page]]:
    """A factory of visitors. At the end none may have caused a console error or a request to elsewhere."""
    contexts, faults, expected = [], [], []

    def open_page(
        width: int = 1280,
        *,
        is_dark: bool = False,
        expected_fault: str | None = None,
        script: str = "",
        url: str = space.url,
    ) -> Page:
        expected.append(expected_fault)
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if is_dark else "light"
        )
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        page = context.new_page()
        page.add_init_script(script)
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        local = (url, "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(local) else faults.append(request.url))
        page.goto(url)
        expect(page.get_by_role("button", name="Good pop")).to_be_visible()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [fault for fault in faults if not any(text and text in fault for text in expected)] == []


def upload(page: Page, place: str, *songs: Path) -> None:
    """Put songs into an upload field and wait until the server has them."""
    page.locator(f"#{place} input[type=file]").set_input_files(list(songs))
    if place == "rank-songs":
        expect(page.locator("#rank-songs .file-preview tr, #rank-songs .file-preview li")).to_have_count(len(songs))
    else:
        expect(page.locator(f"#{place}").get_by_label("Play", exact=True)).to_be_visible()


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()


def choose_model(page: Page, name: str) -> None:
    page.get_by_label("Model").click()
    page.get_by_role("option", name=name).click()


def save(page: Page, place: str, label: str) -> str:
    """Press a download link and return what was saved."""
    with page.expect_download() as download:
        page.locator(f"#{place}").get_by_role("link", name=label).click()
    return Path(download.value.path()).read_text()


def get_message(page: Page, text: str) -> Locator:
    """Return the message that Gradio shows over the page."""
    return page.get_by_test_id("toast-text").filter(has_text=text)


def get_value(page: Page, name: str) -> Locator:
    return page.locator(f'#score-results [data-score="{name}"] .apex-value strong')


def score(page: Page, song: Path) -> None:
    upload(page, "score-song", song)
    press(page, "Score")
    expect(page.locator("#score-results h3")).to_have_text(song.name)
    expect(page.locator(".apex-timeline")).to_be_visible()


def test_upload_a_song_and_read_its_seven_scores(
    visit: Callable[..., Page], songs_folder: Path, report: dict[str, Any]
) -> None:
    page = visit()
    score(page, songs_folder / "first.wav")
    for name, value in report["scores"].items():
        percentile = report["percentiles"].get(name)
        expect(get_value(page, name)).to_have_text(f"{value:.2f}" if percentile is None else f"{percentile:.0f}")
    labels = [button.get_attribute("aria-label") for button in page.locator(".apex-times .apex-seek").all()]
    assert labels == ["Play from 0:00", "Play from 0:02", "Play from 0:04"]
    assert json.loads(save(page, "score-downloads", "Download JSON")) == report
    row = next(csv.DictReader(save(page, "score-downloads", "Download CSV").splitlines()))
    assert {name: float(row[name]) for name in report["scores"]} == report["scores"]


def test_a_time_of_the_timeline_plays_from_there(
    visit: Callable[..., Page], songs_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advice, "EVEN_SHARE", 0.0)  # a random model hears hardly a difference
    page = visit()
    score(page, songs_folder / "first.wav")
    button = page.get_by_role("button", name="Play from 0:02")
    page.get_by_role("button", name="Play from 0:00").focus()
    page.keyboard.press("ArrowRight")  # one stop of the tab key for all times, and arrows between them
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-current", "true")
    assert page.evaluate(f"{PLAYER}.currentTime") >= 2.0
    expect(page.locator(".apex-playhead")).to_be_visible()
    # A strip plays from where it is pressed, and so does the advice.
    page.locator(".apex-cells").first.locator("[data-start='0.000']").click()
    expect(page.get_by_role("button", name="Play from 0:00")).to_have_attribute("aria-current", "true")
    strongest = page.get_by_role("button", name="Play the strongest part")
    start = float(strongest.get_attribute("data-start") or "nan")
    strongest.click()
    page.wait_for_function(f"{PLAYER}.currentTime >= {start}")
    assert page.evaluate(f"{PLAYER}.currentTime") < start + 2.0


def test_the_timeline_is_the_whole_song_at_any_length_and_width(
    visit: Callable[..., Page], long_space: SimpleNamespace, tmp_path: Path
) -> None:
    for seconds, num_segments in ((10, 1), (20, 2), (180, 18), (600, 60)):
        song = tmp_path / f"{seconds}.flac"
        samples = make_waveform(20.0, 4_000)
        soundfile.write(song, np.tile(samples, seconds // 20 + 1)[: seconds * 4_000], 4_000)
        page = visit(url=long_space.url)
        upload(page, "score-song", song)
        press(page, "Score")
        expect(page.locator("#score-results h3")).to_have_text(song.name)
        for width in (390, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            case = (seconds, width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, case
            assert page.evaluate(FIND_OVERFLOW) == [], case
            # The player shows the whole song, once it has drawn it for this width.
            is_whole = "(({ width, hidden, drawn }) => hidden <= 1 && drawn > width - 10)"
            page.wait_for_function(f"() => {is_whole}(({MEASURE_WAVEFORM})()[0])")
            wave, length = page.evaluate(MEASURE_WAVEFORM)
            assert length == pytest.approx(seconds, abs=0.5), case
            if num_segments == 1:
                expect(page.locator("#score-timeline")).to_contain_text("one segment long")
                continue
            expect(page.locator(".apex-times .apex-seek")).to_have_count(num_segments)
            for strip in page.locator(".apex-strip").all():
                box = strip.bounding_box()
                assert box is not None
                assert box["x"] == pytest.approx(wave["left"], abs=1), case
                assert box["width"] == pytest.approx(wave["width"], abs=2), case
            marks = page.locator(".apex-mark").all()
            assert len(marks) == 14, case
            for mark in marks:
                box = mark.bounding_box()
                assert box is not None
                assert box["x"] >= 0, case
                assert box["x"] + box["width"] <= width, case
                assert box["width"] > 8, case
            ticks = [tick.bounding_box() for tick in page.locator(".apex-ticks span").all()]
            assert all(a["x"] + a["width"] < b["x"] for a, b in pairwise(ticks) if a and b), case
        page.set_viewport_size({"width": 390, "height": 900})
        if num_segments > 1:
            page.get_by_text("All numbers").click()
            table = page.locator(".apex-timeline .apex-scroll")
            expect(table.locator("tbody tr")).to_have_count(num_segments)
            assert table.evaluate("element => element.scrollWidth <= element.clientWidth")
        page.close()


def test_results_come_into_view_are_told_and_hold_the_focus(
    visit: Callable[..., Page], songs_folder: Path, report: dict[str, Any]
) -> None:
    page = visit(390)
    upload(page, "score-song", songs_folder / "first.wav")
    press(page, "Score")
    heading = page.locator("#score-results h3")
    expect(heading).to_be_focused()
    expect(heading).to_be_in_viewport()
    status = page.get_by_role("status").and_(page.locator("#apex-status"))
    expect(status).to_contain_text("Scores of first.wav: Plays ")
    expect(status).to_contain_text(f"Naturalness {report['scores']['naturalness']:.2f} of 5")
    open_tab(page, "Compare")
    press(page, "Try two samples")
    expect(page.locator("#compare-results h3").first).to_be_focused()
    expect(page.locator("#compare-results h3").first).to_be_in_viewport()
    expect(status).to_have_text("The two songs are compared score by score.")
    open_tab(page, "Rank")
    press(page, "Try the samples")
    expect(page.locator("#rank-results h3")).to_be_focused()
    expect(page.locator("#rank-results h3")).to_be_in_viewport()
    expect(status).to_contain_text("6 songs ranked by all scores")
    # Whoever went on to something else meanwhile is told, and left where they are.
    order = page.get_by_label("Order by")
    order.focus()
    page.evaluate(
        """() => { const panel = document.querySelector('#rank-results .apex-results').cloneNode(true);
        panel.dataset.announcement = 'other results';
        document.querySelector('#rank-results .apex-results').replaceWith(panel); }"""
    )
    expect(status).to_have_text("other results")
    expect(order).to_be_focused()


def test_a_refusal_is_told_too(visit: Callable[..., Page]) -> None:
    page = visit()
    press(page, "Score")
    expect(page.locator("#apex-status")).to_have_text("There is no song yet. Drop one, record one, or pick a sample.")


def test_the_picture_of_the_scores_can_be_kept_and_shared(visit: Callable[..., Page], songs_folder: Path) -> None:
    page = visit(script="navigator.canShare = undefined;")
    score(page, songs_folder / "first.wav")
    with page.expect_download() as download:
        page.get_by_role("link", name="Download picture").click()
    assert download.value.suggested_filename == "first-scores.png"
    kept = Path(download.value.path()).read_bytes()
    with Image.open(io.BytesIO(kept)) as picture:
        assert (picture.format, picture.size) == ("PNG", (1200, 630))
    shown = page.get_by_role("img", name="Scores of first.wav: ")
    expect(shown).to_be_visible()
    assert shown.evaluate("image => image.naturalWidth") == 1200
    expect(page.get_by_role("button", name="Share picture")).to_be_hidden()

    page = visit(
        script="navigator.canShare = () => true; navigator.share = async ({ files }) => "
        "{ window.shared = [files[0].name, files[0].type, files[0].size]; };"
    )
    score(page, songs_folder / "first.wav")
    press(page, "Share picture")
    page.wait_for_function("window.shared")
    assert page.evaluate("window.shared") == ["first-scores.png", "image/png", len(kept)]


def test_a_sample_is_one_press_away(visit: Callable[..., Page]) -> None:
    page = visit()
    press(page, "Good pop")
    expect(page.locator("#score-results h3")).to_have_text("1-good-pop.ogg")
    expect(page.locator("#score-song").get_by_label("Play", exact=True)).to_be_visible()
    open_tab(page, "Compare")
    press(page, "Try two samples")
    expect(page.locator("#compare-results h3")).to_have_text(["1-good-pop.ogg", "6-poor-ballad.ogg"])
    open_tab(page, "Rank")
    press(page, "Try the samples")
    expect(page.locator("#rank-results tbody th")).to_have_count(6)


def test_a_sample_does_not_wait_for_the_script_of_the_page(visit: Callable[..., Page]) -> None:
    page = visit(script="window.apexPage = true;")  # which the page's script takes for having run
    press(page, "Good folk")
    expect(page.locator("#score-song").get_by_label("Play", exact=True)).to_be_visible()
    open_tab(page, "Rank")
    press(page, "Try the samples")
    expect(page.locator("#rank-songs").get_by_text("6-poor-ballad", exact=False).first).to_be_visible()


def test_compare_two_songs_with_and_without_a_preference_head(visit: Callable[..., Page], songs_folder: Path) -> None:
    page = visit()
    open_tab(page, "Compare")
    upload(page, "compare-song-a", songs_folder / "first.wav")
    upload(page, "compare-song-b", songs_folder / "second.wav")
    press(page, "Compare")
    results = page.locator("#compare-results")
    expect(results.locator("h3")).to_have_text(["first.wav", "second.wav"])
    expect(results.get_by_text("without a preference head")).to_be_visible()
    expect(results.locator(".apex-differences tbody tr")).to_have_count(7)
    expect(results.locator(".apex-split")).to_have_count(0)

    choose_model(page, "voting-model")
    press(page, "Compare")
    expect(results.locator(".apex-split")).to_be_visible()
    answer = json.loads(save(page, "compare-results", "Download JSON"))
    expect(results.locator(".apex-split-ends span").first).to_have_text(f"A {format_chance(answer['probability_a'])}")
    open_tab(page, "About")
    expect(page.get_by_text("voting-model").last).to_be_visible()
    expect(page.get_by_text("Battles learned from")).to_be_visible()


def test_rank_three_sort_and_download(visit: Callable[..., Page], songs_folder: Path) -> None:
    page = visit()
    open_tab(page, "Rank")
    songs = [songs_folder / f"{name}.wav" for name in ("first", "second", "third")]
    upload(page, "rank-songs", *songs, songs_folder / "broken.mp3")
    press(page, "Rank")
    results = page.locator("#rank-results")
    names = results.locator("tbody th")
    expect(names).to_have_count(3)
    expect(results.get_by_text("Not scored: broken.mp3: this cannot be read")).to_be_visible()
    rows = list(csv.DictReader(save(page, "rank-results", "Download CSV").splitlines()))
    assert [row["place"] for row in rows] == ["1", "2", "3", ""]
    expect(names).to_have_text([row["song"] for row in rows[:3]])

    by_clarity = sorted(rows[:3], key=lambda row: -float(row["clarity"]))
    clarity = results.get_by_role("button", name="Clarity")
    clarity.click()
    expect(names).to_have_text([row["song"] for row in by_clarity])
    expect(results.locator('th[aria-sort="descending"]')).to_have_text("Clarity")
    clarity.click()
    expect(names).to_have_text([row["song"] for row in reversed(by_clarity)])
    results.get_by_role("button", name="Song").click()
    expect(names).to_have_text(["first.wav", "second.wav", "third.wav"])


def test_switch_to_dark_and_back(visit: Callable[..., Page]) -> None:
    page = visit()
    panel, title = page.locator("#score-results .apex-empty"), page.locator(".apex-title h1")
    for _ in range(2):
        expect(panel).to_have_css("background-color", "rgb(255, 255, 255)")
        expect(title).to_have_css("color", "rgb(28, 25, 23)")
        press(page, "Light / dark")
        expect(panel).to_have_css("background-color", "rgb(28, 25, 23)")
        expect(title).to_have_css("color", "rgb(245, 245, 244)")
        press(page, "Light / dark")


def test_a_dark_system_starts_dark(visit: Callable[..., Page]) -> None:
    page = visit(is_dark=True)
    expect(page.locator("#score-results .apex-empty")).to_have_css("background-color", "rgb(28, 25, 23)")


def test_a_file_that_is_no_song_is_refused_in_words(visit: Callable[..., Page], songs_folder: Path) -> None:
    page = visit(expected_fault="Waveform load error")  # the player cannot draw it either, and logs that
    page.locator("#score-song input[type=file]").set_input_files(songs_folder / "broken.mp3")
    expect(page.locator("#score-song").get_by_label("Clear")).to_be_visible()
    press(page, "Score")
    expect(get_message(page, "broken.mp3: this cannot be read as a song")).to_be_visible()
    expect(page.locator("#score-results")).to_contain_text("Seven scores will appear here")


def test_too_long_a_song_is_refused_in_words(visit: Callable[..., Page], tmp_path: Path) -> None:
    song = tmp_path / "endless.wav"
    soundfile.write(song, np.zeros(31 * 8_000), 8_000)
    page = visit()
    upload(page, "score-song", song)
    press(page, "Score")
    expect(
        get_message(page, "endless.wav: the song is longer than 30 seconds, the limit of this page")
    ).to_be_visible()


def test_too_large_a_file_is_refused_before_it_travels(visit: Callable[..., Page], tmp_path: Path) -> None:
    song = tmp_path / "large.wav"
    song.write_bytes(bytes(2 * 1024**2))
    page = visit()
    page.locator("#score-song input[type=file]").set_input_files(song)
    expect(get_message(page, 'exceed the maximum allowed size of 1.0 Mb: "large.wav"')).to_be_visible()


def test_no_song_is_a_friendly_message(visit: Callable[..., Page]) -> None:
    page = visit()
    press(page, "Score")
    expect(get_message(page, "There is no song yet. Drop one, record one, or pick a sample.")).to_be_visible()


def test_two_people_at_once_get_their_own_results(visit: Callable[..., Page], songs_folder: Path) -> None:
    pages = {name: visit() for name in ("first.wav", "second.wav")}
    for name, page in pages.items():
        upload(page, "score-song", songs_folder / name)
    for page in pages.values():
        press(page, "Score")
    shown = {}
    for name, page in pages.items():
        expect(page.locator("#score-results h3")).to_have_text(name)
        shown[name] = page.locator("#score-results .apex-value strong").all_inner_texts()
    assert shown["first.wav"] != shown["second.wav"]


def test_an_upload_is_gone_when_its_page_is_closed(
    visit: Callable[..., Page], tmp_path: Path, songs_folder: Path
) -> None:
    song = tmp_path / "only-here.wav"
    samples, rate = soundfile.read(songs_folder / "third.wav")
    soundfile.write(song, samples * 0.5, rate)
    page = visit()
    score(page, song)
    folder = Path(gradio.utils.get_upload_folder())
    assert len(list(folder.rglob(song.name))) == 1
    page.close()
    other = visit()  # whose requests keep the clock of this test: the server notices a closed page on its own time
    for _ in range(10 * PATIENCE):
        other.wait_for_timeout(100)
        if not list(folder.rglob(song.name)):
            break
    assert list(folder.rglob(song.name)) == []


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_tab_fits_can_be_read_and_names_its_controls(
    visit: Callable[..., Page], songs_folder: Path, width: int, is_dark: bool
) -> None:
    page = visit(width, is_dark=is_dark)
    score(page, songs_folder / "long.wav")
    open_tab(page, "Compare")
    upload(page, "compare-song-a", songs_folder / "first.wav")
    upload(page, "compare-song-b", songs_folder / "second.wav")
    press(page, "Compare")
    expect(page.locator(".apex-differences")).to_be_visible()
    open_tab(page, "Rank")
    press(page, "Try the samples")
    expect(page.locator(".apex-ranking")).to_be_visible()
    open_tab(page, "About")
    choose_model(page, "voting-model")  # which has the widest tables to show
    expect(page.locator(".apex-plain")).to_be_visible()
    for tab in TABS:
        open_tab(page, tab)
        expect(page.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, tab
        assert page.evaluate(FIND_OVERFLOW) == [], tab
        assert page.evaluate(FIND_NAMELESS) == [], tab
        ratio, place = page.evaluate(MEASURE_CONTRAST)
        assert ratio >= 4.5, (tab, place)


def test_the_keyboard_alone_is_enough(visit: Callable[..., Page]) -> None:
    page = visit()
    page.get_by_role("button", name="Fair dance").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#score-results h3")).to_have_text("3-fair-dance.ogg")
    expect(page.locator("#score-results h3")).to_be_focused()
    page.get_by_role("button", name="Good folk").focus()  # and once more, by the button of songs of one's own
    reached = page.get_by_role("button", name="Score", exact=True)
    for _ in range(6):
        page.keyboard.press("Tab")
        if reached.evaluate("element => element === document.activeElement"):
            break
    expect(reached).to_be_focused()
    told = page.locator("#apex-status")
    told.evaluate("element => { element.textContent = ''; }")
    page.keyboard.press("Enter")
    expect(told).to_contain_text("Scores of 3-fair-dance.ogg")


def test_the_demonstration_model_says_so_on_every_tab(visit: Callable[..., Page]) -> None:
    page = visit()
    for tab in TABS:
        open_tab(page, tab)
        expect(page.locator("#banner")).to_have_text("Demonstration model, trained on nothing.")


def test_no_script_of_a_song_a_model_or_a_visitor_runs(
    browser: Browser, serve: Callable[..., SimpleNamespace], space_model: ApexModel, tmp_path: Path
) -> None:
    payload = "<img src=x onerror=window.hacked=1>"
    model = tmp_path / payload
    hostile = copy.deepcopy(space_model)
    hostile.config.provenance = {"notice": payload, "labels": payload, "license": payload}
    hostile.save_pretrained(model)
    (model / "arena").mkdir()
    (model / "arena" / "results.json").write_text(json.dumps({"conclusion": payload}))
    songs = [tmp_path / f"{payload}{number}.ogg" for number in (1, 2)]
    for number, song in enumerate(songs):
        with soundfile.SoundFile(song, "w", 16_000, 1) as file:
            file.title = file.artist = file.comment = f"{payload} a prompt"
            file.write(make_waveform(5.0, 16_000, seed=number))
    broken, large = tmp_path / f"{payload}broken.mp3", tmp_path / f"{payload}large.wav"
    broken.write_text(payload * 50)
    large.write_bytes(bytes(2 * 1024**2))
    space = serve(SpaceSettings(models=(str(model),), max_megabytes=1.0, max_songs=6))

    page = browser.new_page()
    page.goto(space.url)
    expect(page.locator("#banner")).to_have_text(payload)
    upload(page, "score-song", songs[0])
    press(page, "Score")
    expect(page.locator("#score-results h3")).to_contain_text("onerror")
    expect(page.locator("#score-results header p")).to_contain_text(payload)
    open_tab(page, "Compare")
    for place, song in zip(("compare-song-a", "compare-song-b"), songs, strict=True):
        upload(page, place, song)
    press(page, "Compare")
    expect(page.locator("#compare-results h3").first).to_contain_text("onerror")
    open_tab(page, "Rank")
    upload(page, "rank-songs", *songs, broken)
    press(page, "Rank")
    expect(page.locator("#rank-results .apex-warning")).to_contain_text("onerror")
    open_tab(page, "About")
    expect(page.locator(".apex-facts", has_text=payload)).to_be_visible()
    expect(page.get_by_text(payload, exact=True).last).to_be_visible()
    assert page.locator('img[src="x"]').count() == 0

    # Gradio's own message draws the name that the browser has: as text, since the page takes markup out of names.
    open_tab(page, "Score")
    page.locator("#score-song").get_by_label("Clear").click()
    page.locator("#score-song input[type=file]").set_input_files(large)
    expect(get_message(page, "exceed the maximum allowed size")).to_be_visible()
    expect(get_message(page, "exceed the maximum allowed size")).to_contain_text("‹img src=x onerror")
    assert page.locator('img[src="x"]').count() == 0
    # And should markup ever come through, its script is not run either, which the policy sees to.
    with page.expect_console_message(lambda message: "Content Security Policy" in message.text):
        page.evaluate("text => document.body.insertAdjacentHTML('beforeend', text)", payload)
    assert page.evaluate("window.hacked") is None
    page.close()
