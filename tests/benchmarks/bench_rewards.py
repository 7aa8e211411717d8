"""
Measure scores as a reward: what a call costs beside the bare encoder, what a gradient costs, and how it is gamed.

    python tests/benchmarks/bench_rewards.py --output tests/benchmarks/results/rewards.json

The encoder has the shape of MERT-v1-95M and random weights; the clips are noise. Gradient ascent starts from noise and
follows apex-tiny: the reward that it climbs rises without the sound becoming music, which is what optimising a reward
does.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from typing import Any

import torch
from bench_scoring import describe_machine
from machine_load import add_output, measure_load, write_result

from modeling_apex import ApexConfig, ApexModel, load_scorer
from modeling_apex.rewards import SongReward

NUM_CLIPS, CLIP_SECONDS, RATE = 8, 10, 32_000
GRADIENT_SECONDS = 30
NUM_ROUNDS = 3
ASCENT_SECONDS, ASCENT_STEPS, ASCENT_STEP = 10, 60, 0.002


def build_model() -> ApexModel:
    torch.manual_seed(0)
    return ApexModel(ApexConfig()).eval()


def measure_overhead() -> dict[str, Any]:
    """Compare a call on clips with the encoder alone on segments that are ready; processor seconds, in turn."""
    model = build_model()
    reward = SongReward(model)
    clips = torch.randn(NUM_CLIPS, 1, CLIP_SECONDS * RATE, generator=torch.Generator().manual_seed(0)) * 0.1
    segments = torch.zeros(NUM_CLIPS, model.config.segment_num_samples)
    segments[:, : CLIP_SECONDS * 24_000] = torch.randn(NUM_CLIPS, CLIP_SECONDS * 24_000)
    calls, bare = [], []
    with torch.no_grad():
        model.compute_segment_embeddings(segments)  # the first call packs the weights
        for _ in range(NUM_ROUNDS):
            begun = time.process_time()
            reward(clips, RATE)
            middle = time.process_time()
            model.compute_segment_embeddings(segments)
            calls.append(middle - begun)
            bare.append(time.process_time() - middle)
    return {
        "num_clips": NUM_CLIPS,
        "clip_seconds": CLIP_SECONDS,
        "sampling_rate": RATE,
        "call_over_encoder": min(calls) / min(bare),
        "spread": max(calls) / min(calls),
    }


def measure_gradient(dtype: str) -> dict[str, float]:
    """Take one gradient of a song and say what memory and time it takes beside the score; in a process of its own."""
    model = build_model()
    model.encoder.to(getattr(torch, dtype))
    song = (torch.randn(GRADIENT_SECONDS * 24_000) * 0.1).requires_grad_()
    begun = time.process_time()
    SongReward(model)(song.detach(), 24_000)
    score_seconds = time.process_time() - begun
    begun = time.process_time()
    SongReward(model, differentiable=True)(song, 24_000).rewards.sum().backward()
    return {
        "gradient_over_score": (time.process_time() - begun) / score_seconds,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def climb() -> dict[str, Any]:
    """Follow the gradient of a score of apex-tiny from noise, by steps of one size in the direction of the signs."""
    reward = SongReward(score="musicality", differentiable=True)
    song = (torch.randn(ASCENT_SECONDS * 24_000, generator=torch.Generator().manual_seed(1)) * 0.05).requires_grad_()
    start = song.detach().clone()
    path = []
    for _ in range(ASCENT_STEPS):
        output = reward(song, 24_000)
        path.append(output.rewards.item())
        (gradient,) = torch.autograd.grad(output.rewards.sum(), song)
        song = (song + ASCENT_STEP * gradient.sign()).detach().clamp(-1, 1).requires_grad_()
    end = song.detach()
    path.append(reward(end, 24_000).rewards.item())
    [before, after] = load_scorer().score([{"array": x.numpy(), "sampling_rate": 24_000} for x in (start, end)])
    return {
        "score": "musicality",
        "num_steps": ASCENT_STEPS,
        "path": path,
        "scores_before": before["scores"],
        "scores_after": after["scores"],
        "novelty_before": before.get("novelty"),
        "novelty_after": after.get("novelty"),
        "change_db": 20 * float(((end - start).norm() / start.norm()).log10()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradient", metavar="DTYPE", help="measure one gradient only, and print it")
    add_output(parser)
    arguments = parser.parse_args()
    if arguments.gradient:
        print(json.dumps(measure_gradient(arguments.gradient)))
        return
    load = measure_load(parser, arguments)
    gradients = {
        dtype: json.loads(subprocess.check_output([sys.executable, __file__, "--gradient", dtype]))
        for dtype in ("float32", "bfloat16")
    }
    result = {
        "command": "python tests/benchmarks/bench_rewards.py",
        "machine": describe_machine(),
        "overhead": measure_overhead(),
        "gradient_seconds": GRADIENT_SECONDS,
        "gradients": gradients,
        "ascent": climb(),
    }
    print(json.dumps(result, indent=2))
    write_result(arguments, result, load)


if __name__ == "__main__":
    main()
