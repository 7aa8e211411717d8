"""
Measure what scoring a song by SongEval costs at the published shape, beside the original's way, in one run.

    python tests/benchmarks/bench_songeval.py [--seconds 30 180] [--long-seconds 600] [--threads 1]

Weights are random: neither time nor memory depends on training. Each measurement is a process of its own, with the
weights in memory before it begins. The original's way is restated from what its packages do: the whole song at once,
transformers' conformer with eager attention, all twelve layers with every hidden state kept, and a head that computes
its attention weights; a song of ten minutes is out of its reach (14 GB for one matrix of attention) and is measured on
ours alone. The same song is also scored as users have it, from a stereo file at 44.1 kHz through a [`SongScorer`], and
in bfloat16. Processor seconds are stated beside wall seconds, as they bear other work on the machine. Result:
results/songeval.json.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
import torch
from bench_scoring import describe_machine
from machine_load import add_output, measure_load, write_result
from torch import nn
from transformers import Wav2Vec2ConformerConfig
from transformers.models.wav2vec2_conformer.modeling_wav2vec2_conformer import Wav2Vec2ConformerEncoder

from modeling_apex.inference.configuration_songeval_apex import SongEvalConfig
from modeling_apex.inference.modeling_songeval_apex import SongEvalModel
from modeling_apex.inference.scoring_apex import SongScorer
from modeling_apex.inference.songeval_mel_apex import compute_log_mel

RESULT = Path(__file__).parent / "results" / "songeval.json"
NUM_MUQ_LAYERS = 12


class OriginalPath(nn.Module):
    """
    Score songs the original's way.

    Args:
        model ([`SongEvalModel`]):
            A model with all of MuQ's layers; its weights are used.
    """

    def __init__(self, model: SongEvalModel):
        super().__init__()
        config = model.config
        self.config, self.subsampling, self.head = config, model.encoder.subsampling, model.head
        shape = Wav2Vec2ConformerConfig(
            hidden_size=config.encoder_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=config.intermediate_size,
            hidden_act="swish",
            conv_depthwise_kernel_size=config.conv_depthwise_kernel_size,
            position_embeddings_type="rotary",
            attn_implementation="eager",
        )
        self.conformer = Wav2Vec2ConformerEncoder(shape).eval()
        self.conformer.layers.load_state_dict(model.encoder.layers.state_dict(), assign=True)
        self.attention = nn.ModuleList()
        for layer in model.head.attention:
            attention = nn.MultiheadAttention(config.encoder_size, layer.num_heads, batch_first=True)
            attention.load_state_dict(layer.state_dict(), assign=True)
            self.attention.append(attention.eval())

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Return the scores `(B, H)` of whole songs `(B, N)`."""
        hidden = self.subsampling.compute_tokens(compute_log_mel(waveform, self.config))
        angles, states = self.conformer.embed_positions(hidden), [hidden]
        for layer in self.conformer.layers:
            states.append(layer(states[-1], relative_position_embeddings=angles))
        tokens = self.head.reduction(torch.relu(self.head.expansion(states[6])))
        attended = tokens
        for attention in self.attention:
            attended, _ = attention(attended, attended, attended)
        return self.head.score_song(torch.cat([attended.mean(1), tokens.amax(1)], dim=-1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, nargs="+", default=[30, 180], help="songs for both (default: 30 180)")
    parser.add_argument("--long-seconds", type=float, default=600, help="the song for ours alone (default: 600)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default: 1)")
    add_output(parser, RESULT)
    parser.add_argument("--measure", nargs=2, metavar=("PATH", "SECONDS"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        print(json.dumps(measure(arguments.measure[0], float(arguments.measure[1]))))
        return
    load = measure_load(parser, arguments)
    songs = {}
    for seconds in arguments.seconds:
        paths = ("ours", "file", "bfloat16", "original")
        found = {path: run_apart(path, seconds, arguments.threads) for path in paths}
        ours, original = found["ours"], found["original"]
        songs[f"{seconds:g} s"] = {
            **found,
            "original_over_ours_cpu_seconds": original["cpu_seconds"] / ours["cpu_seconds"],
            "original_over_ours_memory": original["memory_gib"] / ours["memory_gib"],
            "bfloat16_over_ours_cpu_seconds": found["bfloat16"]["cpu_seconds"] / ours["cpu_seconds"],
            "largest_score_difference": compute_difference(ours, original),
            "largest_score_difference_of_bfloat16": compute_difference(ours, found["bfloat16"]),
        }
    long = {path: run_apart(path, arguments.long_seconds, arguments.threads) for path in ("ours", "file")}
    songs[f"{arguments.long_seconds:g} s"] = long
    result = {
        "command": "python tests/benchmarks/bench_songeval.py",
        "machine": describe_machine(),
        "memory": "peak resident memory above that before the song, with the weights in memory, in GiB",
        "songs": songs,
    }
    write_result(arguments, result, load)
    print(json.dumps(result, indent=2))


def compute_difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the largest difference between the scores of two measurements."""
    return max(abs(a - b) for a, b in zip(one["scores"], other["scores"], strict=True))


def run_apart(path: str, seconds: float, threads: int) -> dict[str, Any]:
    """Measure one path on one song in a process of its own."""
    command = [sys.executable, __file__, "--measure", path, str(seconds), "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


@torch.no_grad()
def measure(path: str, seconds: float) -> dict[str, Any]:
    """Score one song of noise; return seconds, memory above the weights, and scores."""
    torch.manual_seed(0)
    model: Any = SongEvalModel(SongEvalConfig(num_hidden_layers=NUM_MUQ_LAYERS))
    if path == "original":
        model = OriginalPath(model)
    else:
        del model.encoder.layers[6:]
    if path == "bfloat16":
        model.to(torch.bfloat16)
    generator = torch.Generator().manual_seed(1)
    with tempfile.TemporaryDirectory() as folder:
        if path == "file":
            song = write_file(Path(folder) / "song.wav", seconds, generator)
        before = read_memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts anew from here
        start, cpu_start = time.perf_counter(), read_cpu_seconds()
        if path == "file":
            scores = list(next(SongScorer(model).score([song]))["scores"].values())
        else:
            waveform = torch.empty(1, round(seconds * 24_000)).normal_(0, 0.1, generator=generator)
            output = model(waveform)
            scores = (output if path == "original" else output.scores)[0].tolist()
        return {
            "wall_seconds": time.perf_counter() - start,
            "cpu_seconds": read_cpu_seconds() - cpu_start,
            "memory_gib": (read_memory("VmHWM") - before) / 2**30,
            "scores": scores,
        }


def write_file(path: Path, seconds: float, generator: torch.Generator) -> Path:
    """Write stereo noise at 44.1 kHz, a second at a time."""
    with soundfile.SoundFile(path, "w", 44_100, 2) as file:
        for start in range(0, round(seconds * 44_100), 44_100):
            count = min(44_100, round(seconds * 44_100) - start)
            file.write(torch.empty(count, 2).normal_(0, 0.1, generator=generator).numpy())
    return path


def read_memory(field: str) -> int:
    """Return a field of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def read_cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
