"""
The `synthetic` sub-command of `python -m datasets_scripts.build`: arguments in, folders in the published layouts out.
"""

import argparse
import logging
from pathlib import Path

from datasets_scripts.synthetic.audio_files import AUDIO_FORMATS
from datasets_scripts.synthetic.battles import save_music_arena_layout
from datasets_scripts.synthetic.samples import save_samples
from datasets_scripts.synthetic.song_layouts import save_songeval_layout, save_training_layout
from datasets_scripts.synthetic.systems import ARENA_SYSTEMS, PLATFORMS, SYSTEMS
from datasets_scripts.synthetic.track_layout import save_tracks_layout
from datasets_scripts.synthetic.world import FACTOR_DRAWS, WorldOptions
from modeling_apex.storage.output_lock import OutputLock

logger = logging.getLogger(__name__)

LAYOUTS = ("training", "songeval", "music-arena", "factors", "tracks", "samples")
SYSTEM_GROUPS = {"platforms": PLATFORMS, "unseen": ARENA_SYSTEMS, "all": (*PLATFORMS, *ARENA_SYSTEMS)}
DESCRIPTION = """\
Make a synthetic world of short songs whose five aesthetic factors are known, with listeners, raters and battles.

  training     metadata.jsonl, audio/, pseudo_labels.jsonl: two platforms, two songs per prompt
  songeval     metadata.jsonl with sixteen raters per song, audio/
  music-arena  battle_data/, audio_files/, metadata/: eleven systems that training never sees
  factors      like training, but other songs, with independent factors: a test set
  tracks       tracks.csv with the features of a Spotify-like table and popularity 0 to 100, audio/
  samples      six songs from good to poor
  all          all of these, each in its own folder

Each also has truth.jsonl (latent factors, appeal) and truth_ceilings.json (how well a perfect listener would do).
Run the same command again to resume an interrupted run.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options and the description of the `synthetic` sub-command to its parser."""
    parser.description = DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--output", type=Path, required=True, help="folder to write, or to resume")
    parser.add_argument("--layout", choices=(*LAYOUTS, "all"), default="all", help="what to write (default: all)")
    parser.add_argument("--num-songs", type=int, default=100, help="songs per layout; a battle has two (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the world (default: 0)")
    parser.add_argument("--seconds", type=float, default=24.0, help="length of every song (default: 24)")
    parser.add_argument(
        "--sampling-rate", type=int, help="hertz (default: 24000; in battles, the rate that each system delivers)"
    )
    parser.add_argument("--num-channels", type=int, choices=(1, 2), default=1, help="mono or stereo (default: 1)")
    parser.add_argument("--audio-format", choices=tuple(AUDIO_FORMATS), default="flac", help="battles are always mp3")
    parser.add_argument(
        "--factor-draw", choices=FACTOR_DRAWS, help="independent factors, or linked by quality (default: by layout)"
    )
    parser.add_argument(
        "--systems",
        nargs="+",
        default=[],
        metavar="NAME",
        help=f"systems to use in place of the layout's own: {', '.join(SYSTEM_GROUPS)}, or {', '.join(SYSTEMS)}",
    )
    parser.add_argument(
        "--messy", action="store_true", help="give training songs duplicates, corrupt files and recent songs to filter"
    )
    parser.add_argument("--num-processes", type=int, help="processes that render (default: one per core)")


def run(args: argparse.Namespace) -> int:
    """
    Run the `synthetic` sub-command; the exit status is 0.

    Raises:
        `ValueError`: If an option cannot be used, or the folder holds a world made with other options.
        [`OutputInUseError`]: If another run is writing the folder.
    """
    names = [s.name for name in args.systems for s in SYSTEM_GROUPS.get(name, ())] or args.systems
    options = WorldOptions(
        num_songs=args.num_songs,
        seed=args.seed,
        seconds=args.seconds,
        sampling_rate=args.sampling_rate,
        num_channels=args.num_channels,
        audio_format=args.audio_format,
        factor_draw=args.factor_draw,
        systems=tuple(names),
        is_messy=args.messy,
    )
    with OutputLock(args.output):
        for layout in LAYOUTS if args.layout == "all" else (args.layout,):
            folder = args.output / layout if args.layout == "all" else args.output
            if layout in ("training", "factors"):
                save_training_layout(folder, options, args.num_processes, layout)
            elif layout == "songeval":
                save_songeval_layout(folder, options, args.num_processes)
            elif layout == "tracks":
                save_tracks_layout(folder, options, args.num_processes)
            elif layout == "music-arena":
                save_music_arena_layout(folder, options, args.num_processes)
            else:
                save_samples(folder, args.num_processes)
            logger.info("Wrote %s.", folder)
    return 0
