"""
The processes of a run: how they start and end, who takes which rows, and what they tell each other.

Accelerate does the work; a run in one process passes through the same functions.
"""

import functools
import gc
import logging
import os
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch.distributed as dist
from numpy.typing import NDArray

from modeling_apex.training.arguments import ApexTrainingArguments

logger = logging.getLogger(__name__)


def build_accelerator(arguments: ApexTrainingArguments, output: str | os.PathLike) -> Any:
    """Start Accelerate: device, precision, processes, trackers."""
    from accelerate import Accelerator

    if (sentence := explain_single_process()) is not None:
        warn_once(sentence)
    trackers = [arguments.report_to] if arguments.report_to != "none" else []
    if arguments.report_to == "auto":
        trackers = [name for name in ("tensorboard", "trackio") if find_spec(name) is not None]
    return Accelerator(mixed_precision=arguments.mixed_precision, log_with=trackers or None, project_dir=str(output))


def explain_single_process() -> str | None:
    """
    Say that `accelerate launch` started one process, as it does on CPUs whatever number it was told; else nothing.

    It leaves no trace of that number, only an address where several would meet, where it was told of several.
    """
    is_launched = "ACCELERATE_DYNAMO_BACKEND" in os.environ and "MASTER_ADDR" in os.environ
    if not is_launched or "WORLD_SIZE" in os.environ:  # which whatever starts several sets
        return None
    return (
        "accelerate launch was asked for several processes and started one: on CPUs it starts no more. All runs in "
        "this one. For several, with the same result: ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 -m "
        "modeling_apex.cli ..."
    )


@functools.cache
def warn_once(sentence: str) -> None:
    """Log a warning, and no second time in this process, which may train many models."""
    logger.warning(sentence)


def is_distributed() -> bool:
    """Tell whether several processes share each batch."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def is_main_process() -> bool:
    """Tell whether this process speaks for all."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)


def share_rows(num_rows: int, accelerator: Any) -> tuple[int, int]:
    """Return first and last row (exclusive) of this process's share."""
    index, num_processes = accelerator.process_index, accelerator.num_processes
    return index * num_rows // num_processes, (index + 1) * num_rows // num_processes


def gather_rows(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Join the rows of all processes, in their order, in every process."""
    from accelerate.utils import gather_object

    return np.concatenate(gather_object([rows]))


def broadcast_from_main(value: Any) -> Any:
    """Return the first process's value in every process."""
    from accelerate.utils import broadcast_object_list

    values = [value]
    broadcast_object_list(values)
    return values[0]


def close_processes() -> None:
    """Leave the group of processes; the last thing that a command does."""
    from accelerate import PartialState

    state = PartialState()
    gc.collect()  # what still refers to the group, such as a module that was shared over it, goes before it
    state.wait_for_everyone()
    state.destroy_process_group()
