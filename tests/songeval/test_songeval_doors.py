"""The doors of SongEval that are open: Auto classes and the converter's command; the others say that they are shut."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel

from modeling_apex import SongEvalConfig, SongEvalModel, load_pipeline, load_scorer, load_whole_song
from modeling_apex.checkpoints.convert_songeval import SongEvalConversion
from modeling_apex.cli import main

from waveforms import make_waveform


def test_auto_classes_read_a_converted_folder(conversion: SongEvalConversion) -> None:
    assert type(AutoConfig.from_pretrained(conversion.folder)) is SongEvalConfig
    model = AutoModel.from_pretrained(conversion.folder)
    assert type(model) is SongEvalModel
    song = load_whole_song(
        make_waveform(1.5, 44_100, num_channels=2), sampling_rate=44_100, target_rate=model.config.sampling_rate
    )
    with torch.inference_mode():
        scores = model(torch.from_numpy(song.samples)[None]).scores
    assert scores.shape == (1, 5)
    assert ((scores > 1) & (scores < 5)).all()


def test_the_command_converts(published, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["--muq", str(published.encoder), "--songeval", str(published.head), "--output", str(tmp_path / "made")]
    assert main(["convert", *words]) == 0
    printed = capsys.readouterr().out
    assert "is not the published file" in printed
    assert f"written: {tmp_path / 'made'}" in printed
    assert (tmp_path / "made" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "got none of them. Pass --encoder and --heads for APEX, or --muq and --songeval for SongEval."),
        (["--encoder", "mert"], "got --encoder. Pass"),
        (["--encoder", "mert", "--songeval", "head"], "got --encoder --songeval. Pass"),
    ],
)
def test_halves_that_do_not_belong_together_are_refused(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["convert", *words, "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_scoring_says_that_it_does_not_take_it_yet(
    conversion: SongEvalConversion, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(ValueError, match="names the model type 'songeval'; expected one of apex, spectrogram-fusion"):
        load_scorer(conversion.folder)
    with pytest.raises(ValueError, match="names the model type 'songeval'; expected one of apex, spectrogram-fusion"):
        load_pipeline(conversion.folder)
    assert main(["score", "song.wav", "--model", str(conversion.folder)]) == 2
    assert "names the model type 'songeval'" in capsys.readouterr().err
