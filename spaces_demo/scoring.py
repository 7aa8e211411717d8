"""
Score songs for the Space: uploaded files go in, reports leave, and what is refused is refused in plain words.

[`SongScorer`] does the work. This file adds what a public page needs: models that are loaded once, limits whose
messages speak to a visitor and not to a programmer, progress by segments, and names of files in place of their paths.
"""

import logging
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modeling_apex import AudioError, AudioLimits, SongScorer, load_scorer
from spaces_demo.settings import SpaceSettings
from spaces_demo.wording import format_length

logger = logging.getLogger(__name__)

ACCEPTED_FORMATS = "MP3, WAV, FLAC, OGG, M4A and other common formats"

OnSegment = Callable[[int], None]
"""Is called after each segment with the number of segments of the song that are done."""


class SongRefusedError(ValueError):
    """A song that this Space does not score. The message is for the visitor."""


class LimitError(AudioError):
    """A song beyond a limit of this page. The message is for the visitor already, and does not name the song."""


@dataclass(frozen=True)
class SpaceLimits(AudioLimits):
    """[`AudioLimits`] whose refusals speak to a visitor, who can cut a song but cannot change a setting."""

    def refuse_size(self, name: str, num_bytes: int) -> None:
        if num_bytes > self.max_bytes:
            raise LimitError(
                f"the file is larger than {self.max_bytes / 1024**2:g} MB, the limit of this page. "
                "Save it as MP3 or OGG, or cut it."
            )

    def refuse_duration(self, name: str, num_samples: int, sampling_rate: int) -> None:
        if num_samples > self.max_seconds * sampling_rate:
            raise LimitError(
                f"the song is longer than {format_length(self.max_seconds)}, the limit of this page. "
                "Cut it, or run the model on your own machine."
            )

    def refuse_expansion(self, name: str, num_samples: int, num_bytes: int) -> None:
        try:
            super().refuse_expansion(name, num_samples, num_bytes)
        except AudioError as error:
            raise LimitError("nearly all of this file is silence. Cut the silence and try again.") from error

    def refuse_format(self, name: str, sampling_rate: int, num_channels: int) -> None:
        if not 1 <= num_channels <= self.max_channels:
            raise LimitError(f"the file has {num_channels} channels; mono and stereo are accepted. Mix it down first.")
        if not self.min_sampling_rate <= sampling_rate <= self.max_sampling_rate:
            raise LimitError(
                f"the sampling rate is {sampling_rate} Hz; {self.min_sampling_rate} to {self.max_sampling_rate} Hz "
                "are accepted. Save it again with an ordinary rate, such as 44100 Hz."
            )


class Scorer:
    """
    Hold the models of a Space and score with them.

    Loaded `models`, by name, take the place of those of the settings: for tests, and for notebooks that have one.

    Raises:
        `ValueError`: If this machine cannot use the device of the settings.
    """

    def __init__(self, settings: SpaceSettings, models: dict[str, Any] | None = None):
        _check_device(settings.device)
        self.settings = settings
        self.limits = SpaceLimits(max_seconds=settings.max_seconds, max_bytes=settings.max_bytes)
        self._sources: dict[str, Any] = models or _name_models(settings.models) or {"apex-tiny": None}
        self._scorers: dict[str, SongScorer] = {}
        self._lock = threading.Lock()

    @property
    def model_names(self) -> list[str]:
        """Names of the models that a visitor may choose from; the first is the default."""
        return list(self._sources)

    def get_scorer(self, model: str | None = None) -> SongScorer:
        """
        Return the scorer of a model, the first one by default, loaded on first use.

        Raises:
            `ValueError`: If `model` is no string, or this Space does not offer it.
        """
        choices = f"Choose one of: {', '.join(self.model_names)}."
        if not isinstance(model, str | None):  # what programs send may be any JSON
            raise ValueError(f"The model must be given by its name, a string, got {model!r:.80}. {choices}")
        model = model or self.model_names[0]
        if model not in self._sources:
            raise ValueError(f"This page has no model {model!r:.80}. {choices}")
        with self._lock:
            if model not in self._scorers:
                scorer = load_scorer(self._sources[model], device=self.settings.device)
                scorer.model_id = model  # a visitor has no use for the folder that a model lies in
                self._scorers[model] = scorer
            return self._scorers[model]

    def score(self, song: str | None, model: str | None = None, on_segment: OnSegment | None = None) -> dict[str, Any]:
        """
        Score one uploaded file, by its path.

        Returns:
            `dict`: the report with timeline; `song` is the name of the file without its folder.

        Raises:
            `SongRefusedError`: If the file cannot be scored; the message says why, and what to do.
        """
        if not song:
            raise SongRefusedError("There is no song yet. Drop one, record one, or pick a sample.")
        path = Path(song)
        scorer = self.get_scorer(model)
        try:
            reports = scorer.score([str(path)], on_segment=on_segment, limits=self.limits, return_timeline=True)
            report = next(reports)
        except FileNotFoundError as error:
            raise SongRefusedError(
                f"{path.name}: the upload no longer exists; uploads are deleted after "
                f"{self.settings.keep_minutes:g} minutes. "
                "Drop the song again."
            ) from error
        except (AudioError, FloatingPointError) as error:
            raise SongRefusedError(_explain(error, path)) from error
        return {**report, "song": path.name}

    def score_many(
        self, songs: Sequence[str] | None, model: str | None = None, on_song: Callable[[int], None] | None = None
    ) -> list[dict[str, Any]]:
        """
        Score several uploaded files, and tell `on_song` after each how many are done.

        Returns:
            `list[dict]`: one report a song, in the order given; of a song that is refused, one with `error`.

        Raises:
            `SongRefusedError`: If there are no songs, or more than this Space takes at once.
        """
        if not songs:
            raise SongRefusedError("There are no songs yet. Drop two or more files.")
        if len(songs) > self.settings.max_songs:
            raise SongRefusedError(
                f"{len(songs)} songs are too many at once for this page; it takes {self.settings.max_songs}. "
                "Rank them in parts, or use `apex-music rank` on your own machine."
            )
        scorer = self.get_scorer(model)
        reports = []
        for number, song in enumerate(songs, start=1):
            try:
                reports.append(self.score(song, model))
            except SongRefusedError as error:
                identity = {"id": scorer.model_id, "revision": scorer.model_revision}
                reports.append({"song": Path(song).name, "error": str(error), "model": identity})
            if on_song is not None:
                on_song(number)
        return reports

    def count_segments(self, song: str | None, model: str | None = None) -> int | None:
        """Return the number of segments that a file's header promises, or `None` if it does not tell."""
        import soundfile

        if not song:
            return None
        try:
            seconds = soundfile.info(song).duration
        except (RuntimeError, OSError):  # not a format of libsndfile's, which is no reason to refuse it
            return None
        if not math.isfinite(seconds) or seconds > self.settings.max_seconds:
            return None
        scorer = self.get_scorer(model)
        if scorer.is_whole_song:
            return 1
        return max(1, math.ceil(seconds / scorer.model.config.segment_seconds))


def _check_device(device: str | None) -> None:
    import torch

    try:
        torch.ones(1, device=device).cpu()  # also back again: on `meta` all seems to go well, and nothing is there
    except (RuntimeError, AssertionError, ImportError) as error:  # the latter two: built without the device
        why = str(error).split(". ")[0]
        raise ValueError(
            f"APEX_DEVICE is {device!r}, which this machine cannot use: {why}. Set it to `cpu` or a device that is "
            "there, or leave it empty."
        ) from error


def _name_models(sources: Sequence[str]) -> dict[str, str]:
    """Name models for the page: a Hub id as it is, a folder by its last part unless two share that."""
    names = [Path(source).name if Path(source).is_dir() else source for source in sources]
    return {name if names.count(name) == 1 else source: source for name, source in zip(names, sources, strict=True)}


def _explain(error: Exception, path: Path) -> str:
    """Return a scorer's message in terms of what a visitor knows: the file's name, not its path or its bytes."""
    reason = str(error).removeprefix(f"{path}: ")
    logger.info("refused a song: %s", reason.replace(path.name, "it"))  # its name is the visitor's own affair
    # The package's own words tell what failed; the name, which a visitor chose, was taken away first.
    if not isinstance(error, LimitError) and ("decode" in reason or "not in a format" in reason):
        reason = (
            "this cannot be read as a song. Is the file complete, and is it audio? "
            f"This page reads {ACCEPTED_FORMATS}."
        )
    return f"{path.name}: {reason.replace(str(path), path.name)}"
