"""`apex-music env`: what a bug report needs, and nothing that is secret."""

import os
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from modeling_apex import __version__
from modeling_apex.cli import main
from modeling_apex.commands.env import describe_machine


def read_facts(text: str) -> dict[str, str]:
    """Read what was printed back into its facts."""
    pairs = (line.split("  ", 1) for line in text.splitlines())
    return {name: fact.strip() for name, fact in pairs}


def test_versions_device_threads_and_cache_are_printed(capsys: pytest.CaptureFixture) -> None:
    assert main(["env"]) == 0
    facts = read_facts(capsys.readouterr().out)
    assert facts == describe_machine()
    assert facts["apex-music"] == __version__
    assert facts["torch"] == metadata.version("torch")
    assert facts["threads"] == str(torch.get_num_threads())
    assert int(facts["cores"]) >= 1
    assert facts["device"] == "cpu" or torch.accelerator.is_available()
    assert {"libsndfile", "processor", "model cache", "hub", "ffmpeg (av)"} <= set(facts)


def test_neither_token_nor_proxy_nor_home_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from huggingface_hub import constants

    home = Path("/home/somebody")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:password@proxy.example:3128")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "cache" / "hub"))
    assert main(["env"]) == 0
    said = capsys.readouterr().out
    assert read_facts(said)["model cache"] == os.path.join("~", "cache", "hub")
    for secret in ("hf_secret", "password", "proxy.example", "somebody"):
        assert secret not in said


@pytest.mark.parametrize(
    ("module", "fact"), [("torch", "device"), ("soundfile", "libsndfile"), ("huggingface_hub", "model cache")]
)
def test_a_package_that_does_not_load_is_a_fact(module: str, fact: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert "does not load (ModuleNotFoundError)" in describe_machine()[fact]


def test_a_package_that_is_not_there_is_a_fact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    assert describe_machine()["ffmpeg (av)"] == "not installed"
