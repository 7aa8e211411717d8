"""
The layout contract of a song dataset: which columns a row has, of which type, and what each means.

Every builder of songs writes these columns, so that training, evaluation and embedding read one shape whatever the
source.
"""

from collections.abc import Mapping

import datasets

from datasets_scripts.song_record import AESTHETIC_NAMES, LABEL_SOURCES

# What a reader of the dataset card sees; the order is the order of the columns.
SONG_COLUMNS: Mapping[str, tuple[datasets.Value | datasets.Audio, str]] = {
    "id": (datasets.Value("string"), "the song's id at its source, unique in the dataset"),
    "audio": (datasets.Audio(decode=False), "the encoded file as `{bytes, path}`; null when the song has no audio"),
    "platform": (datasets.Value("string"), "where the song was published; counts are ranked within a platform"),
    "creator": (datasets.Value("string"), "the creator, as the platform names them"),
    "prompt": (datasets.Value("string"), "the text that the song was generated from"),
    "group": (datasets.Value("string"), "key that the split was decided by; the same for all songs of a creator"),
    "play_count": (datasets.Value("int64"), "raw plays"),
    "like_count": (datasets.Value("int64"), "raw likes"),
    "score_streams": (datasets.Value("float32"), "target, 0 to 100: transformed percentile of the plays"),
    "score_likes": (datasets.Value("float32"), "target, 0 to 100: transformed percentile of the likes"),
    **{name: (datasets.Value("float32"), "label, 1 to 5; null when unlabelled") for name in AESTHETIC_NAMES},
    "label_source": (
        datasets.Value("string"),
        f"who gave those labels: {', '.join(LABEL_SOURCES)}; a teacher is named where known; or null",
    ),
    "created_at": (datasets.Value("string"), "ISO 8601, UTC"),
    "duration": (datasets.Value("float32"), "seconds: of the decoded audio, else as the metadata says"),
    "title": (datasets.Value("string"), "the song's title"),
    "is_instrumental": (datasets.Value("bool"), "whether it has no vocals; null if unknown"),
}


def build_song_features(extra_columns: Mapping[str, datasets.Value] | None = None) -> datasets.Features:
    """
    Build the `datasets.Features` of a song dataset.

    Args:
        extra_columns (`Mapping[str, datasets.Value]`, *optional*):
            Columns that a source has beyond the shared ones, appended in their order.

    Returns:
        `datasets.Features`: the columns of `SONG_COLUMNS`, then the extra ones.

    Raises:
        `ValueError`: If an extra column has the name of a shared one.
    """
    extra_columns = extra_columns or {}
    taken = sorted(set(extra_columns) & set(SONG_COLUMNS))
    if taken:
        raise ValueError(f"The extra columns {', '.join(taken)} are columns of every song already: rename them.")
    columns = {name: feature for name, (feature, _) in SONG_COLUMNS.items()}
    return datasets.Features({**columns, **extra_columns})


def build_column_descriptions(extra_descriptions: Mapping[str, str] | None = None) -> dict[str, str]:
    """
    Build the sentences that the dataset card shows for the columns.

    Args:
        extra_descriptions (`Mapping[str, str]`, *optional*):
            Sentences for the columns beyond the shared ones.

    Returns:
        `dict[str, str]`: a sentence for every column, in column order.
    """
    return {name: description for name, (_, description) in SONG_COLUMNS.items()} | dict(extra_descriptions or {})
