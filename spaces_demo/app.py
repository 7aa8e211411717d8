"""
The page itself: four tabs over one scorer, and the same endpoints for programs.

`build_app` returns the Gradio app; `main` reads the settings from the environment and serves it, on a laptop or on
Hugging Face Spaces. Each action takes songs and has two doors: a named endpoint that answers programs with JSON
(`/score`, `/compare`, `/rank`, `/about`), and the button's own, which draws the same on the server. No report ever
comes back from a browser, so nothing that a visitor sends is drawn.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

# Before gradio and the Hub's client are imported, since they read these once. Gradio would keep a record of each
# request, and after each make a summary of ten thousand of them, for a route that is closed here.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("GRADIO_ANALYTICS_MAX_EVENTS", "1")
os.environ.setdefault("GRADIO_ANALYTICS_CACHE_FREQUENCY", str(10**12))
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

try:
    import gradio as gr
    from starlette.middleware import Middleware
except ModuleNotFoundError as error:
    message = f'the page needs {error.name}, which is not installed: pip install "apex-music[demo]".'
    if __name__ != "__main__":
        raise ImportError(message) from error
    sys.stderr.write(f"spaces_demo: {message}\n")
    sys.exit(2)

from spaces_demo import about_view, compare_view, rank_view, score_view
from spaces_demo.gate import MAX_SESSIONS, Gate
from spaces_demo.markup import render
from spaces_demo.model_files import find_preference_head, load_results
from spaces_demo.run_folder import get_run_folder
from spaces_demo.samples import SAMPLES_FOLDER, build_choice, load_samples
from spaces_demo.scoring import Scorer
from spaces_demo.settings import SpaceSettings
from spaces_demo.uploads import get_uploads
from spaces_demo.wording import format_count, format_title

logger = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
AUDIO_TYPES = ["audio", ".m4a", ".mka", ".mkv", ".mov", ".mp4", ".opus", ".webm"]
PROGRESS = gr.Progress()
WAVEFORM = gr.WaveformOptions(waveform_color="#a8b5b2", waveform_progress_color="#0f766e")
TOGGLE_THEME = "() => { document.body.classList.toggle('dark'); }"


def build_app(settings: SpaceSettings | None = None, *, models: dict[str, Any] | None = None) -> gr.Blocks:
    """
    Build the app.

    Args:
        settings ([`SpaceSettings`], *optional*): Limits and models; defaults if not given.
        models (`dict`, *optional*): Loaded models by name, in place of those that the settings name.

    Returns:
        `gr.Blocks`: ready for `launch(**build_launch_options(settings))`. The first model is loaded already, so that
        a wrong name stops the start and not the first visitor.
    """
    settings = settings or SpaceSettings()
    os.environ["GRADIO_TEMP_DIR"] = str(get_run_folder())  # what Gradio itself stores goes with the run, too
    gr.set_static_paths([SAMPLES_FOLDER])
    app = _Page(settings, Scorer(settings, models)).build()
    return app.queue(max_size=settings.queue_size, default_concurrency_limit=settings.concurrency, api_open=False)


def build_launch_options(settings: SpaceSettings) -> dict[str, Any]:
    """Return what `launch` needs to know: looks, limits, the gate before Gradio, and nothing that calls out."""
    uploads = get_uploads(settings)
    return {
        "app_kwargs": {"middleware": [Middleware(Gate, uploads=uploads)], "lifespan": uploads.watch},
        "theme": _build_theme(),
        "css_paths": [FOLDER / "style.css"],
        "js": (FOLDER / "page.js").read_text(encoding="utf-8"),
        "max_file_size": settings.max_bytes,
        "footer_links": ["api"],
        "run_history": False,
        "enable_monitoring": False,
        "state_session_capacity": MAX_SESSIONS,
        "share": False,
        "ssr_mode": False,
    }


def _build_theme() -> gr.themes.Base:
    fonts = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "sans-serif")
    theme = gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.amber,
        neutral_hue=gr.themes.colors.stone,
        radius_size=gr.themes.sizes.radius_md,
        font=fonts,
        font_mono=("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"),
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        block_border_width="1px",
        block_shadow="none",
        block_label_background_fill="*background_fill_primary",
        button_secondary_background_fill="*background_fill_primary",
        button_secondary_background_fill_dark="*background_fill_primary",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_hover_dark="*neutral_800",
        button_secondary_border_color="*neutral_200",
        button_secondary_border_color_dark="*neutral_700",
        button_border_width="1px",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
    )


class _Page:
    """The components of the page and what they do; one instance builds one app."""

    def __init__(self, settings: SpaceSettings, scorer: Scorer):
        self.settings = settings
        self.scorer = scorer
        self.uploads = get_uploads(settings)
        self.samples = load_samples()
        self.heads: dict[str, Any] = {}
        self.about(None)

    def build(self) -> gr.Blocks:
        with gr.Blocks(title="apex-music: how popular, how good?", analytics_enabled=False) as app:
            self._build_header()
            with gr.Tabs(elem_classes="apex-tabs"):
                with gr.Tab("Score", id="score"):
                    self._build_score_tab()
                with gr.Tab("Compare", id="compare"):
                    self._build_compare_tab()
                with gr.Tab("Rank", id="rank"):
                    self._build_rank_tab()
                with gr.Tab("About", id="about"):
                    about = gr.HTML(self._describe_model(None)[1])
            self.model.change(self._describe_model, self.model, [self.banner, about], api_visibility="private")
            gr.api(self.about, api_name="about")
            app.unload(self.uploads.release)
        return app

    def _build_header(self) -> None:
        with gr.Row(elem_classes="apex-header", equal_height=True):
            gr.HTML(
                "<h1>apex-music</h1><p>How popular and how good an AI-made song is likely to be, from its sound "
                "alone.</p>",
                elem_classes="apex-title",
            )
            names = self.scorer.model_names
            self.model = gr.Dropdown(
                names, value=names[0], label="Model", visible=len(names) > 1, elem_classes="apex-model", min_width=220
            )
            theme = gr.Button("Light / dark", size="sm", elem_id="theme-button", elem_classes="apex-theme", scale=0)
            theme.click(None, js=TOGGLE_THEME, api_visibility="private")
        self.banner = gr.HTML(self._describe_model(None)[0], elem_id="banner")

    def _build_score_tab(self) -> None:
        with gr.Row(elem_classes="apex-score-columns"):
            with gr.Column(min_width=300):
                song = self._build_audio("Song", "score-song")
                chosen = self._build_sample_buttons(song)
                button = gr.Button("Score", variant="primary", elem_id="score-button")
                gr.HTML(self._describe_limits())
                timeline = gr.HTML(elem_id="score-timeline")
            with gr.Column(min_width=300):
                scores = gr.HTML(score_view.EMPTY_SCORES, elem_id="score-results")
                downloads = gr.HTML(elem_id="score-downloads")
        inputs, views = [song, self.model], [scores, timeline, downloads]
        self._connect(button, self.score, self._draw_scores, inputs, views, chosen)

    def _build_compare_tab(self) -> None:
        with gr.Row():
            song_a = self._build_audio("Song A", "compare-song-a")
            song_b = self._build_audio("Song B", "compare-song-b")
        with gr.Row(elem_classes="apex-actions"):
            button = gr.Button("Compare", variant="primary", elem_id="compare-button")
            try_two = gr.Button("Try two samples", elem_id="compare-samples")
        best, worst = self.samples[0], self.samples[-1]
        choice = build_choice([best, worst])
        chosen = try_two.click(None, outputs=[song_a, song_b], js=choice, api_visibility="private")
        result = gr.HTML(compare_view.EMPTY_COMPARISON, elem_id="compare-results")
        self._connect(button, self.compare, self._draw_comparison, [song_a, song_b, self.model], [result], [chosen])

    def _build_rank_tab(self) -> None:
        songs = gr.File(file_count="multiple", file_types=AUDIO_TYPES, label="Songs", elem_id="rank-songs", height=200)
        heads = self.scorer.get_scorer().model.config.heads
        groups = {head["group"] for head in heads}
        known = {rank_view.BEST, "all", *groups}
        orders = [(title, name) for name, title in rank_view.ORDERS.items() if name in known]
        orders += [(format_title(head["name"]), head["name"]) for head in heads]
        with gr.Row(elem_classes="apex-actions", equal_height=False):
            order = gr.Dropdown(orders, value=rank_view.BEST, label="Order by", elem_id="rank-order", min_width=200)
            button = gr.Button("Rank", variant="primary", elem_id="rank-button")
            try_all = gr.Button("Try the samples", elem_id="rank-samples")
        choice = build_choice([self.samples[: self.settings.max_songs]])
        chosen = try_all.click(None, outputs=songs, js=choice, api_visibility="private")
        result = gr.HTML(rank_view.EMPTY_RANKING, elem_id="rank-results")
        self._connect(button, self.rank, self._draw_ranking, [songs, order, self.model], [result], [chosen])

    def _build_audio(self, label: str, elem_id: str) -> gr.Audio:
        return gr.Audio(
            sources=["upload", "microphone"],
            type="filepath",
            label=label,
            elem_id=elem_id,
            editable=False,
            buttons=[],
            waveform_options=WAVEFORM,
        )

    def _build_sample_buttons(self, song: gr.Audio) -> list[gr.events.Dependency]:
        """Build a button for each sample; return what happens at a press, after which the song is there."""
        gr.HTML('<p class="apex-hint">Or try a sample. A program made them, well or badly on purpose.</p>')
        with gr.Row(elem_classes="apex-samples"):
            buttons = [
                gr.Button(sample.title, size="sm", min_width=90, elem_classes="apex-sample") for sample in self.samples
            ]
        return [
            button.click(None, outputs=song, js=build_choice([sample]), api_visibility="private")
            for button, sample in zip(buttons, self.samples, strict=True)
        ]

    def _describe_limits(self) -> str:
        return render("limits.html", settings=self.settings)

    def _connect(
        self,
        button: gr.Button,
        action: Callable[..., dict[str, Any]],
        draw: Callable[..., Any],
        inputs: list[Any],
        views: list[gr.HTML],
        chosen: list[gr.events.Dependency],
    ) -> None:
        """Give an action its doors: an endpoint of its name for programs, the button and the samples for people."""
        together: dict[str, Any] = {"concurrency_limit": self.settings.concurrency, "concurrency_id": "scoring"}
        gr.on([], action, inputs, gr.JSON(visible=False), api_name=action.__name__, **together)
        for listen in (button.click, *(choice.then for choice in chosen)):
            listen(draw, inputs, views, api_visibility="private", show_progress_on=views[0], **together)

    def _draw_scores(
        self, song: str | None, model: str | None, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> tuple[str, str, str]:
        report = self.score(song, model, request, progress)
        notice = self.scorer.get_scorer(model).model.config.provenance.get("notice")
        return score_view.render_report(report, str(notice or ""))

    def _draw_comparison(
        self,
        song_a: str | None,
        song_b: str | None,
        model: str | None,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> str:
        return compare_view.render_comparison(self.compare(song_a, song_b, model, request, progress))

    def _draw_ranking(
        self,
        songs: list[str] | None,
        order: str,
        model: str | None,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> str:
        return rank_view.render_ranking(self.rank(songs, order, model, request, progress))

    def score(
        self, song: str | None, model: str | None, request: gr.Request, progress: gr.Progress = PROGRESS
    ) -> dict[str, Any]:
        """Score one song: seven scores, percentiles of popularity, and the scores of each segment."""
        self.uploads.claim(request.session_hash, song)
        with _speak_to_visitors():
            num_segments = self.scorer.count_segments(song, model)
            progress(0, desc="Listening")

            def show(num_done: int) -> None:
                if num_segments:
                    share = min(num_done / num_segments, 1.0)
                    progress(share, desc=f"Heard {num_done} of {format_count(num_segments, 'segment')}")
                else:
                    progress(None, desc=f"Heard {format_count(num_done, 'segment')}")

            return self.scorer.score(song, model, show)

    def compare(
        self,
        song_a: str | None,
        song_b: str | None,
        model: str | None,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> dict[str, Any]:
        """Compare two songs: which one people would prefer, how sure that is, and which scores decide."""
        self.uploads.claim(request.session_hash, song_a, song_b)
        reports = []
        for number, (letter, song) in enumerate((("A", song_a), ("B", song_b))):
            progress(number / 2, desc=f"Listening to song {letter}")
            with _speak_to_visitors(f"Song {letter}: "):
                reports.append(self.scorer.score(song, model))
        return compare_view.build_comparison(reports[0], reports[1], self._get_head(model))

    def rank(
        self,
        songs: list[str] | None,
        order: str,
        model: str | None,
        request: gr.Request,
        progress: gr.Progress = PROGRESS,
    ) -> dict[str, Any]:
        """Rank several songs, best first: as people would, by all scores, by a group of scores or by one score."""
        self.uploads.claim(request.session_hash, *(songs or ()))
        with _speak_to_visitors():
            num_songs = len(songs or ())
            progress(0, desc="Listening")
            reports = self.scorer.score_many(
                songs,
                model,
                lambda num_done: progress(
                    num_done / num_songs, desc=f"Heard {num_done} of {format_count(num_songs, 'song')}"
                ),
            )
            return rank_view.build_ranking(reports, order, self._get_head(model))

    def about(self, model: str | None = None) -> dict[str, Any]:
        """Tell which model runs, what it was trained on, what was measured of it, and what was not."""
        with _speak_to_visitors():
            scorer = self.scorer.get_scorer(model)
        return about_view.collect_facts(scorer, self._get_head(model), load_results(scorer))

    def _describe_model(self, model: str | None) -> tuple[str, str]:
        """Return the banner and the About tab."""
        facts = self.about(model)
        return about_view.build_banner(facts), about_view.build_about(facts, self.settings)

    def _get_head(self, model: str | None) -> Any:
        name = model or self.scorer.model_names[0]
        if name not in self.heads:
            self.heads[name] = find_preference_head(self.scorer.get_scorer(name))
        return self.heads[name]


@contextmanager
def _speak_to_visitors(prefix: str = "") -> Iterator[None]:
    """Turn what a visitor did wrong into a message on the page, or an error that a client can read."""
    try:
        yield
    except ValueError as error:  # a refused song is one too
        raise gr.Error(f"{prefix}{error}", title="Not scored", print_exception=False) from error


def main() -> int:
    """Serve the page with the settings of the environment until it is stopped; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _stop)
    try:
        settings = SpaceSettings.from_environment()
        app = build_app(settings)
        app.launch(**build_launch_options(settings))
    except (ValueError, OSError) as error:
        logger.error("%s", error)
        return 2
    app.close(verbose=False)
    return 130  # nothing but Ctrl-C ends `launch`


def _stop(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C would: what is registered for the end of the process, the removal of uploads, still runs."""
    logger.warning("stopped by %s; the uploads are deleted", signal.Signals(number).name)
    sys.exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
