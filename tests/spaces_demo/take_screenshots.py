"""
Take the pictures of the README: each tab, light and dark, on a desktop and on a phone.

`python tests/spaces_demo/take_screenshots.py` serves the page with the embedded model, lets a real Chromium use it,
and writes small WebP files to `spaces_demo/screenshots/`.
"""

import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from spaces_demo.app import build_app, build_launch_options
from spaces_demo.settings import SpaceSettings

FOLDER = Path(__file__).parents[2] / "spaces_demo" / "screenshots"
WIDTHS = {"desktop": 1280, "phone": 390}
MAX_HEIGHT = 1600


def save_picture(page: Page, name: str) -> None:
    """Save the whole page, cut where it gets longer than a reader would scroll."""
    page.mouse.move(0, 0)
    picture = Image.open(io.BytesIO(page.screenshot(full_page=True, animations="disabled")))
    picture = picture.crop((0, 0, picture.width, min(picture.height, MAX_HEIGHT if picture.width > 600 else 2400)))
    picture.save(FOLDER / f"{name}.webp", quality=82, method=6)


def visit_tabs(page: Page, name: str) -> None:
    """Use each tab with the samples and save a picture of it."""
    page.get_by_role("button", name="Good pop").click()
    expect(page.locator(".apex-timeline")).to_be_visible()
    expect(page.locator("#score-song").get_by_label("Play", exact=True)).to_be_visible()
    save_picture(page, f"score-{name}")
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Try two samples").click()
    expect(page.locator(".apex-differences")).to_be_visible()
    for place in ("compare-song-a", "compare-song-b"):
        expect(page.locator(f"#{place}").get_by_label("Play", exact=True)).to_be_visible()
    save_picture(page, f"compare-{name}")
    page.get_by_role("tab", name="Rank").click()
    page.get_by_role("button", name="Try the samples").click()
    expect(page.locator(".apex-ranking")).to_be_visible()
    save_picture(page, f"rank-{name}")
    page.get_by_role("tab", name="About").click()
    expect(page.locator(".apex-about").first).to_be_visible()
    save_picture(page, f"about-{name}")


def main() -> None:
    expect.set_options(timeout=60_000)
    FOLDER.mkdir(exist_ok=True)
    settings = SpaceSettings()
    app = build_app(settings)
    _, url, _ = app.launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **build_launch_options(settings)
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for device, width in WIDTHS.items():
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
                page.goto(url)
                visit_tabs(page, f"{device}-{scheme}")
                page.close()
        browser.close()
    app.close()


if __name__ == "__main__":
    main()
