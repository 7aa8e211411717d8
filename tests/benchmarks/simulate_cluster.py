"""
What 10 million and 1 billion songs ask of a cluster, simulated event by event; no Ray and no audio is involved.

    python tests/benchmarks/simulate_cluster.py --output tests/benchmarks/results/cluster.json

What comes in: seconds of decoding a minute of audio, as `results/decoding.json` has them; seconds of encoding on a
core, as `results/scoring.json` has them; and what is assumed, which the result names: how long songs are, what an
accelerator does in a second, how often machines fail and how long new ones take. Workers take blocks of
songs; a worker that fails loses its block, which goes back to the end of the queue. Of a large corpus a part is
simulated on all workers, and its steady time counts as often as the whole is larger. What leaves is throughput, what
the last worker waits for, what failures cost, and the memory that lists of finished songs need.
"""

import argparse
import heapq
import json
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
MAX_BLOCKS = 50_000  # of one simulation; what is larger is simulated in part
# Ray reads its checkpoint into the driver: 93 MB for a million ids, once measured by hand. Ours is reckoned and not
# measured: keys of 8 bytes, and a copy of them while they are sorted.
CHECKPOINT_BYTES = {"checkpoint of Ray Data": 93.0, "this package": 16.0}


@dataclass(frozen=True)
class Assumptions:
    """What no result file knows."""

    median_song_seconds: float = 180.0
    spread_of_songs: float = 0.5  # standard deviation of the logarithm
    longest_song_seconds: float = 3600.0
    segment_seconds: float = 30.0
    accelerator_segments_per_second: float = 100.0
    hours_between_failures_of_a_worker: float = 200.0
    seconds_until_a_new_worker: float = 180.0
    start_seconds: float = 20.0


@dataclass(frozen=True)
class Fleet:
    """How many workers of which kind take blocks of how many songs."""

    num_songs: int
    num_workers: int
    songs_per_block: int
    has_accelerators: bool


def read_rates(results: Path) -> dict[str, float]:
    """Read seconds of decoding and of encoding a second of audio on one core."""
    decoding = json.loads((results / "decoding.json").read_text(encoding="utf-8"))
    case = decoding["cases"]["mp3, 44100 Hz, stereo"]
    # Decoding, and resampling and cutting beside it.
    decode = case["decode_seconds"] * case["segments_over_decode"] / decoding["song_seconds"]
    scoring = json.loads((results / "scoring.json").read_text(encoding="utf-8"))
    num_threads = scoring["machine"]["num_threads"]
    encode = scoring["rooms"]["5 and 6: encoder and layer mix"] * num_threads / scoring["song_seconds"]
    return {"decode": decode, "decode_spread": case["spread"], "encode_on_a_core": encode}


def draw_blocks(fleet: Fleet, num_blocks: int, rates: dict[str, float], assumed: Assumptions) -> np.ndarray:
    """Draw the seconds of work of each block, of shape `(num_blocks,)`."""
    generator = np.random.default_rng(0)
    totals = np.empty(num_blocks)
    for block in range(num_blocks):
        lengths = assumed.median_song_seconds * np.exp(
            assumed.spread_of_songs * generator.standard_normal(fleet.songs_per_block)
        )
        lengths = np.minimum(lengths, assumed.longest_song_seconds)
        noise = generator.uniform(1.0, rates["decode_spread"], size=len(lengths))
        decode = rates["decode"] * lengths * noise
        if fleet.has_accelerators:
            encode = np.ceil(lengths / assumed.segment_seconds) / assumed.accelerator_segments_per_second
            # One song is decoded ahead while another is encoded: the slower of the two sets the pace.
            totals[block] = np.maximum(decode, encode).sum()
        else:
            totals[block] = (decode + rates["encode_on_a_core"] * lengths).sum()
    return totals


def simulate(fleet: Fleet, rates: dict[str, float], assumed: Assumptions, *, has_failures: bool) -> dict[str, float]:
    """Run a fleet until every block is done; workers fail, and a failed block goes to the end of the queue."""
    whole = fleet.num_songs // fleet.songs_per_block
    num_blocks = min(whole, MAX_BLOCKS)
    num_workers = fleet.num_workers
    work = draw_blocks(fleet, num_blocks, rates, assumed)
    generator = np.random.default_rng(1)
    mean_life = assumed.hours_between_failures_of_a_worker * 3600

    def draw_life() -> float:
        return float(generator.exponential(mean_life)) if has_failures else float("inf")

    queue = deque(range(num_blocks))
    free = [(assumed.start_seconds, worker) for worker in range(num_workers)]  # a heap: it is sorted
    ends_of_life = [assumed.start_seconds + draw_life() for _ in range(num_workers)]
    last_end = np.zeros(num_workers)
    lost_seconds, num_failures = 0.0, 0
    # A block that is lost is known at the time of the failure: until then nobody can take it.
    returned: list[tuple[float, int]] = []
    while queue or returned:
        now, worker = heapq.heappop(free)
        while returned and (returned[0][0] <= now or not queue):
            time_known, block = heapq.heappop(returned)
            now = max(now, time_known)
            queue.append(block)
        block = queue.popleft()
        end = now + work[block]
        if end > ends_of_life[worker]:
            failed = max(now, ends_of_life[worker])
            lost_seconds += failed - now
            num_failures += 1
            heapq.heappush(returned, (failed, block))
            end = failed + assumed.seconds_until_a_new_worker
            ends_of_life[worker] = end + draw_life()
        else:
            last_end[worker] = end
        heapq.heappush(free, (end, worker))
    skew = float(last_end.max() - np.median(last_end))
    scale = whole / num_blocks
    total = (float(last_end.max()) - skew) * scale + skew
    busy = float(work.sum())
    return {
        "simulated_blocks": num_blocks,
        "hours": total / 3600,
        "songs_per_second": fleet.num_songs / total,
        "worker_hours": total * fleet.num_workers / 3600,
        "share_of_time_at_work": busy * scale / (total * num_workers),
        "skew_seconds": skew,
        "failures": num_failures * scale,
        "share_of_work_lost": lost_seconds / busy,
    }


def list_fleets() -> dict[str, Fleet]:
    """List what is simulated, by name."""
    fleets = {}
    for num_songs, label in ((10_000_000, "10 million songs"), (1_000_000_000, "1 billion songs")):
        for num_workers, has_accelerators in ((1000, False), (32, True), (512, True)):
            kind = "accelerators" if has_accelerators else "cores"
            for songs_per_block in (64, 512):
                fleets[f"{label}, {num_workers} {kind}, {songs_per_block} songs a block"] = Fleet(
                    num_songs, num_workers, songs_per_block, has_accelerators
                )
    return fleets


def compute_memory(num_songs: int) -> dict[str, float]:
    """Compute gigabytes of the list of finished songs that the driver holds."""
    return {name: size * num_songs / 1e9 for name, size in CHECKPOINT_BYTES.items()}


def main(words: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Simulate clusters that score millions of songs.")
    parser.add_argument("--only", metavar="WORDS", default="", help="simulate the fleets whose name has these words")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="write the results as JSON")
    options = parser.parse_args(words)
    rates, assumed = read_rates(RESULTS), Assumptions()
    content: dict[str, Any] = {
        "command": "python tests/benchmarks/simulate_cluster.py",
        "measured": rates,
        "assumed": asdict(assumed),
        "checkpoint_bytes_per_song": CHECKPOINT_BYTES,
        "fleets": {},
    }
    for name, fleet in list_fleets().items():
        if options.only in name:
            peace = simulate(fleet, rates, assumed, has_failures=False)
            found = simulate(fleet, rates, assumed, has_failures=True)
            content["fleets"][name] = {
                **asdict(fleet),
                **found,
                "hours_without_failures": peace["hours"],
                "driver_gigabytes": compute_memory(fleet.num_songs),
            }
            print(f"{name}: {found['hours']:.1f} hours", flush=True)
    options.output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
