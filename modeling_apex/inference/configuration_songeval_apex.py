"""
Configuration of the SongEval model: mel front end, conformer, attention head, scores, and the longest song.

What comes in is a `config.json`; what leaves is a validated [`SongEvalConfig`]. The defaults are the published shape:
the first six layers of MuQ-large-msd-iter and the head of ASLP-lab/SongEval. The scores are data, as in
[`ApexConfig`], so that heads with other outputs load too.
"""

from typing import Any

from transformers import PreTrainedConfig

from .configuration_fields_apex import declare_field, set_fields
from .heads_apex import DEFAULT_HEADS

# SongEval's five scores, in the order of its outputs, which is also APEX's order.
SONGEVAL_HEADS: tuple[dict[str, Any], ...] = tuple(head for head in DEFAULT_HEADS if head["group"] == "aesthetics")


class SongEvalFields:
    """The fields of a SongEval config; [`SongEvalConfig`] says what each one means."""

    # A config is read before its weights: what no such model needs is refused before memory is asked for.
    heads: list[dict[str, Any]] = declare_field(list(SONGEVAL_HEADS), "heads")
    sampling_rate: int = declare_field(24_000, "int", minimum=1, maximum=384_000)
    fft_size: int = declare_field(2048, "int", minimum=1, maximum=65_536)
    hop_size: int = declare_field(240, "int", minimum=1, maximum=65_536)
    num_mel_bands: int = declare_field(128, "int", minimum=1, maximum=1024)
    mel_mean: float = declare_field(6.768444971712967, "float")
    mel_std: float = declare_field(18.417922652295623, "float", above=0.0)
    subsampling_channels: int = declare_field(512, "int", minimum=1, maximum=4096)
    encoder_size: int = declare_field(1024, "int", minimum=1, maximum=16_384)
    num_hidden_layers: int = declare_field(6, "int", minimum=1, maximum=64)
    num_attention_heads: int = declare_field(16, "int", minimum=1, maximum=1024)
    intermediate_size: int = declare_field(4096, "int", minimum=1, maximum=65_536)
    conv_depthwise_kernel_size: int = declare_field(31, "int", minimum=1, maximum=1023)
    rotary_embedding_base: float = declare_field(10_000.0, "float", above=1.0)
    head_intermediate_size: int = declare_field(4096, "int", minimum=1, maximum=65_536)
    num_head_layers: int = declare_field(4, "int", minimum=1, maximum=64)
    num_head_attention_heads: int = declare_field(8, "int", minimum=1, maximum=1024)
    max_song_seconds: float = declare_field(1200.0, "float", above=0.0, below=21_600.0)
    percentile_tables: dict[str, list[float]] = declare_field({}, "percentile tables")
    reference: dict[str, Any] = declare_field({}, "reference")
    provenance: dict[str, Any] = declare_field({}, "provenance")


class SongEvalConfig(SongEvalFields, PreTrainedConfig):
    """
    Describe a SongEval model: log-mel spectrogram, convolutional subsampling, conformer, attention head.

    Args:
        heads (`list[dict]`, *optional*):
            One entry per score, in the order of the output columns, as in [`ApexConfig`]. Defaults to SongEval's five,
            each from 1 to 5.
        sampling_rate (`int`, defaults to 24000):
            Sampling rate, in hertz.
        fft_size (`int`, defaults to 2048):
            Length of a frame of the spectrogram and of its Hann window, in samples.
        hop_size (`int`, defaults to 240):
            Step between frames, in samples.
        num_mel_bands (`int`, defaults to 128):
            Bands of the mel scale, from 0 hertz to half the sampling rate.
        mel_mean (`float`, defaults to 6.768...):
            What is subtracted from the log-mel spectrogram, in decibels.
        mel_std (`float`, defaults to 18.417...):
            What it is then divided by, in decibels.
        subsampling_channels (`int`, defaults to 512):
            Channels of the two convolutional blocks, each of which halves time and frequency.
        encoder_size (`int`, defaults to 1024):
            Width of a token.
        num_hidden_layers (`int`, defaults to 6):
            Conformer layers; SongEval reads the output of MuQ's sixth, and the later ones are not stored.
        num_attention_heads (`int`, defaults to 16):
            Attention heads of a conformer layer.
        intermediate_size (`int`, defaults to 4096):
            Width of the feed-forward layers of the conformer.
        conv_depthwise_kernel_size (`int`, defaults to 31):
            Kernel of the depthwise convolution, in tokens; odd.
        rotary_embedding_base (`float`, defaults to 10000.0):
            Base of the rotary angles.
        head_intermediate_size (`int`, defaults to 4096):
            Width of the feed-forward layer of the head.
        num_head_layers (`int`, defaults to 4):
            Attention layers of the head.
        num_head_attention_heads (`int`, defaults to 8):
            Attention heads of each of them.
        max_song_seconds (`float`, defaults to 1200.0):
            Longest song that is scored, in seconds. Attention needs the whole song: a longer one is refused, never
            cut. Memory grows with the length of the song (ten minutes take about 1 GiB beside the weights), and the
            time of attention with its square.
        percentile_tables (`dict[str, list[float]]`, *optional*):
            Per score, 101 quantiles of the model's scores on its training songs.
        reference (`dict`, *optional*):
            What `apex-music calibrate` measured of songs that the model did not learn from, as in [`ApexConfig`].
        provenance (`dict`, *optional*):
            Where the weights come from: sources, hashes, licences. Shown, never computed with.

    Raises:
        `TypeError`: If a field has the wrong type.
        `ValueError`: If a field has a value that no model can have, or an unknown field is a near miss of one above.
    """

    model_type = "songeval"

    def __init__(self, /, **fields: Any):
        others = set_fields(self, fields)
        self._validate_together()
        super().__init__(**others)

    @property
    def head_names(self) -> list[str]:
        """Names of the scores, in the order of the output columns."""
        return [head["name"] for head in self.heads]

    @property
    def hidden_size(self) -> int:
        """Width of the song embedding: means of the attended tokens beside maxima of the tokens."""
        return 2 * self.encoder_size

    @property
    def popularity_exponent(self) -> None:
        """None, as no score is a transformed percentile; reports ask every model for it."""
        return None

    @property
    def is_whole_song(self) -> bool:
        """True: a song goes in as one segment, however long; it is not cut, padded or normalised."""
        return True

    @property
    def segment_seconds(self) -> float:
        """No length of segments: whoever asks for one would cut the song, and is refused."""
        raise ValueError(
            "a songeval model hears a song whole and has no segments to cut it into. Score songs with it (`apex-music "
            "score`), or call it on what `load_whole_song` gives."
        )

    @property
    def minimum_num_samples(self) -> int:
        """Shortest song, in samples: half a frame is reflected at both ends, and one sample more must be there."""
        return self.fft_size // 2 + 1

    @property
    def max_num_samples(self) -> int:
        """Longest song, in samples: one more than it says, as the published length rounds up in floating point."""
        return round(self.max_song_seconds * self.sampling_rate) + 1

    def _validate_together(self) -> None:
        for width, divisor, factor in (
            ("encoder_size", "num_attention_heads", 2),  # rotary angles turn pairs of numbers
            ("encoder_size", "num_head_attention_heads", 1),
        ):
            if getattr(self, width) % (factor * getattr(self, divisor)):
                raise ValueError(
                    f"`{width}` {getattr(self, width)} must be a multiple of {factor} x `{divisor}` "
                    f"{getattr(self, divisor)}."
                )
        if self.conv_depthwise_kernel_size % 2 == 0:
            raise ValueError(
                f"`conv_depthwise_kernel_size` must be odd, got {self.conv_depthwise_kernel_size}: an even kernel has "
                "no middle, and tokens would shift."
            )
        if self.hop_size > self.fft_size:
            raise ValueError(f"`hop_size` {self.hop_size} is above `fft_size` {self.fft_size}: samples would be lost.")
        if self.max_num_samples < self.minimum_num_samples:
            raise ValueError(
                f"`max_song_seconds` {self.max_song_seconds:g} is {self.max_num_samples} samples, fewer than the "
                f"{self.minimum_num_samples} that the shortest song has."
            )
