"""
One command for every dataset: `apex-music build DATASET`, with `--help` for the list of them. `python -m
datasets_scripts.build` is the same.

Arguments come in, a folder leaves that `datasets.load_dataset` reads (the synthetic world writes the raw layouts that
the other sub-commands read). A build that was stopped goes on where it was when the same command is given again.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets_scripts.build_arguments import MEBIBYTE, SYNTHETIC, build_parser
from hub_card.hub_upload import UploadTarget
from modeling_apex.process_exit import print_lines, run_command
from modeling_apex.storage.output_lock import OutputLock


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    Args:
        arguments (`Sequence[str]`, *optional*):
            Defaults to those of the process.

    Returns:
        `int`: exit status, as every command here has it; 1 when the Hub did not take the dataset, or a process that
        shared the work died.
    """
    return run_command(
        "error",
        lambda args: run(build_parser().parse_args(arguments, args)),
        words=arguments,
        when_interrupted="run the same command again to resume",
    )


def run(args: argparse.Namespace) -> int:
    """Build what the arguments describe, as [`add_arguments`] declares them; return the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    return _run_synthetic(args) if args.dataset == SYNTHETIC else _run_builder(args)


def _run_synthetic(args: argparse.Namespace) -> int:
    from datasets_scripts.synthetic.command import run

    status = run(args)
    if args.push_to_hub:
        from datasets_scripts.publishing import push_world_to_hub

        push_world_to_hub(args.output, _build_target(args))
    return status


def _run_builder(args: argparse.Namespace) -> int:
    # Here, because they need what an extra brings, and `--help` needs none.
    from datasets_scripts.parquet_folder import EmptyDatasetError, open_output_folder, write_parquet_folder
    from datasets_scripts.publishing import push_folder_to_hub
    from datasets_scripts.sources import load_identities, refuse_changed_sources

    output = Path(os.path.expanduser(args.output))
    builder = args.create_builder(args)
    with OutputLock(output):
        working_folder = open_output_folder(output, options=builder.describe_options(), overwrite=args.overwrite)
        if working_folder is None:
            refuse_changed_sources(builder, output, rereads=args.recheck)
            print_lines(f"{output} is already finished: nothing to do (--overwrite rebuilds it).")
        else:
            try:
                prepared = builder.prepare(working_folder, {} if args.recheck else load_identities(working_folder))
            except EmptyDatasetError as error:
                raise EmptyDatasetError(f"{', '.join(builder.config.list_places())}: {error}") from error
            manifest = write_parquet_folder(prepared, output, max_shard_bytes=round(args.max_shard_size * MEBIBYTE))
            _print_summary(manifest, output)
    if args.push_to_hub:
        push_folder_to_hub(output, _build_target(args))
    return 0


def _build_target(args: argparse.Namespace) -> UploadTarget:
    return UploadTarget(
        args.push_to_hub,
        repo_type="dataset",
        is_private=not args.public,
        removes_other_files=args.remove_other_files,
    )


def _print_summary(manifest: dict[str, Any], output: Path) -> None:
    for reason, count in manifest["num_dropped"].items():
        if count:
            print_lines(f"left out {count:>9,}  {reason}")
    for match in manifest.get("matches", []):
        print_lines(f"{match['source']}: {match['num_matched_songs']:,} of {match['num_songs']:,} songs")
    for name, split in manifest["splits"].items():
        print_lines(f"{name:<10} {split['num_rows']:>7,}  rows in {len(split['shards'])} shard(s)")
    print_lines(f'Wrote {output}. Load it with datasets.load_dataset("{output}").')


if __name__ == "__main__":
    sys.exit(main())
