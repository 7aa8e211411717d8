"""`apex-music env`: what a report of a fault needs to say about this machine. It prints no secrets."""

import argparse
import os
import platform
from importlib import metadata
from pathlib import Path

from modeling_apex import __version__
from modeling_apex.process_exit import print_lines

HELP = "print versions, device, threads and model cache, for a bug report"
DESCRIPTION = (
    "Print what a bug report should say about this machine: versions of the packages that compute or read something, "
    "the processor, the device that would be used, threads, and where models are cached. No token, no address and no "
    "name of a user is printed."
)
EXAMPLES = ("",)
NEEDED = ("torch", "transformers", "huggingface_hub", "safetensors", "numpy", "soundfile", "soxr", "filelock", "httpx")
OPTIONAL = (
    *("av", "datasets", "pyarrow", "pandas", "scipy", "accelerate", "evaluate", "scikit-learn", "matplotlib"),
    *("jinja2", "gradio", "onnx", "onnxruntime", "openvino", "nncf"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take no arguments."""


def run(arguments: argparse.Namespace) -> int:
    facts = describe_machine()
    width = max(map(len, facts))
    print_lines("\n".join(f"{name:<{width}}  {fact}" for name, fact in facts.items()))
    return 0


def describe_machine() -> dict[str, str]:
    """
    Return what computes here, by name.

    Returns:
        `dict[str, str]`: versions, processor, device, threads and cache. A package that is not there, or that does not
        load, is a fact as well.
    """
    facts = {"apex-music": __version__, "python": platform.python_version(), "system": platform.platform()}
    facts |= {name: _find_version(name) for name in (*NEEDED, *OPTIONAL)}
    return facts | _describe_audio() | _describe_torch() | _describe_cache()


def _find_version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _describe_audio() -> dict[str, str]:
    """Say which libsndfile is behind soundfile, and which FFmpeg behind PyAV."""
    facts = {}
    try:
        import soundfile

        facts["libsndfile"] = soundfile.__libsndfile_version__
    except (ImportError, OSError) as error:
        facts["libsndfile"] = f"does not load ({type(error).__name__})"
    try:
        import av

        facts["ffmpeg (av)"] = getattr(av, "ffmpeg_version_info", "unknown")
    except ModuleNotFoundError:
        facts["ffmpeg (av)"] = "not installed"
    except (ImportError, OSError) as error:
        facts["ffmpeg (av)"] = f"does not load ({type(error).__name__})"
    return facts


def _describe_torch() -> dict[str, str]:
    """Say which device would be used, on how many threads, and what the processor can do."""
    try:
        import torch

        from modeling_apex.engines.validation import describe_hardware
    except (ImportError, OSError) as error:
        return {"device": f"unknown, torch does not load ({type(error).__name__})"}
    cpu = torch.device("cpu")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else cpu
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {
        "processor": describe_hardware(cpu),
        "cores": str(cores),
        "threads": str(torch.get_num_threads()),
        "device": describe_hardware(device) if device is not None and device.type != "cpu" else "cpu",
    }
    if device is not None and device.type == "cuda":
        facts["device"] += f", CUDA {torch.version.cuda}"
    return facts


def _describe_cache() -> dict[str, str]:
    """Say where models are cached, without the name of the user, and whether the Hub may be asked."""
    try:
        from huggingface_hub import constants
    except (ImportError, OSError) as error:
        return {"model cache": f"unknown, huggingface_hub does not load ({type(error).__name__})"}
    cache, home = constants.HF_HUB_CACHE, str(Path.home())
    return {
        "model cache": f"~{cache.removeprefix(home)}" if cache.startswith(home + os.sep) else cache,
        "hub": "offline" if constants.HF_HUB_OFFLINE else "online",
    }
