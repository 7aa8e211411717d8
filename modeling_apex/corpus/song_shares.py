"""
The share of a machine in a corpus that many machines score: what comes in is I/N or what a scheduler has set, what
leaves is which songs and which file are this process's own. Every process lists all songs and takes every N-th.
"""

import glob
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_SHARE = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class SongShare:
    """
    One of `count` equal shares of a list of songs.

    Args:
        number (`int`), count (`int`):
            Which of how many, from 1.
        source (`str`):
            What said so, for messages.
    """

    number: int
    count: int
    source: str = "--shard"

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        Read `I/N`.

        Raises:
            `ValueError`: If it is none.
        """
        found = _SHARE.fullmatch(text.strip())
        number, count = (int(part) for part in found.groups()) if found else (0, 0)
        if not 1 <= number <= count:
            raise ValueError(f"--shard must be I/N, such as 1/20 for the first of twenty shares, got {text!r}.")
        return cls(number, count)

    @classmethod
    def find(cls, environment: Mapping[str, str]) -> Self | None:
        """
        Read the share that torchrun or SLURM has given this process.

        Each task of an array is a share, and in it each process that torchrun or srun started; `None` where there is
        one process alone. In a batch script, which SLURM runs once whatever the number of its tasks, that number says
        nothing.
        """
        shares = [cls._read(environment, "RANK", "WORLD_SIZE")]
        if shares[0] is None and ("SLURM_STEP_ID" in environment or "SLURM_JOB_ID" not in environment):
            shares = [cls._read(environment, "SLURM_PROCID", "SLURM_NTASKS")]
        first = environment.get("SLURM_ARRAY_TASK_MIN", "0")
        shares.insert(0, cls._read(environment, "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", first))
        found: Self | None = None
        for share in filter(None, shares):
            number = share.number if found is None else (found.number - 1) * share.count + share.number
            count = share.count * (1 if found is None else found.count)
            found = cls(number, count, share.source if found is None else f"{found.source}, {share.source}")
        return found if found is not None and found.count > 1 else None

    @classmethod
    def _read(cls, environment: Mapping[str, str], index: str, count: str, first: str = "0") -> Self | None:
        texts = (environment.get(index, ""), environment.get(count, ""), first)
        if not all(text.isascii() and text.isdigit() for text in texts):
            return None
        position, number, start = map(int, texts)
        step = environment.get("SLURM_ARRAY_TASK_STEP", "") if index == "SLURM_ARRAY_TASK_ID" else ""
        position = (position - start) // max(1, int(step) if step.isascii() and step.isdigit() else 1)
        if not 0 <= position < number:
            raise ValueError(
                f"{index} is {texts[0]} and {count} is {texts[1]}, which is not a share of a whole. Say which share "
                "this is with --shard I/N, or --shard 1/1 for all songs."
            )
        return cls(position + 1, number, f"{index} and {count}")

    def take(self, songs: Sequence[str]) -> list[str]:
        """Return the songs of this share, in order."""
        return list(songs[self.number - 1 :: self.count])

    def name(self, output: str | os.PathLike) -> str:
        """Return the output of this share: `scores-00002-of-00020.jsonl` for `scores.jsonl`."""
        path = Path(output)
        return str(path.with_name(f"{path.stem}-{self.number:05d}-of-{self.count:05d}{path.suffix}"))

    def refuse_others(self, output: Path) -> None:
        """
        Refuse a folder that holds shards of another number of shares, which readers would take for the same songs.

        Raises:
            `ValueError`: If it does.
        """
        stem, _, ending = output.name.partition(f"-{self.number:05d}-of-{self.count:05d}")
        for path in sorted(output.parent.glob(f"{glob.escape(stem)}-*-of-*{ending}")):
            found = re.fullmatch(rf"{re.escape(stem)}-\d{{5}}-of-(\d{{5}}){re.escape(ending)}", path.name)
            if found and int(found[1]) != self.count:
                raise ValueError(
                    f"{output.parent}: holds shards of another number of shares ({path.name}), and this would be "
                    f"{output.name}. Name another folder, or remove them."
                )


def find_share(text: str | None) -> SongShare | None:
    """Return the share that a command line or the environment names; `None` for all songs."""
    share = SongShare.parse(text) if text is not None else SongShare.find(os.environ)
    return share if share is not None and share.count > 1 else None


def find_own_card(environment: Mapping[str, str]) -> str | None:
    """Return the card of a process that torchrun or srun started beside others on a machine; `None` for the usual."""
    numbers = (environment.get(name, "") for name in ("LOCAL_RANK", "SLURM_LOCALID"))
    number = next((text for text in numbers if text.isascii() and text.isdigit()), None)
    if number is None:
        return None
    import torch

    num_cards = torch.cuda.device_count()  # a scheduler that gives each process its own card shows it that one alone
    return f"cuda:{int(number) % num_cards}" if num_cards > 1 else None
