"""
Turn what SongEval and MuQ published into one strict safetensors checkpoint of [`SongEvalModel`].

What comes in are the head's `model.safetensors` and MuQ's folder; what leaves is a folder that loads without fetching
anything. MuQ's later layers and what only its own training needed are dropped by name; any other tensor without a
place, and any that is missing or has another shape, is refused by name, from the headers alone. Hashes of the sources,
whether they are the published ones, and their licences go into `config.json`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from modeling_apex.checkpoints.hub_files import compute_blob_id, compute_file_hash
from modeling_apex.checkpoints.limits import read_safetensors_shapes
from modeling_apex.inference.configuration_songeval_apex import SONGEVAL_HEADS, SongEvalConfig
from modeling_apex.inference.modeling_songeval_apex import SongEvalModel
from modeling_apex.inference.report_apex import format_table
from modeling_apex.storage.output_folder import check_new_folder, load_fields, write_new_folder

MUQ_ID = "OpenMuQ/MuQ-large-msd-iter"
MUQ_REVISION = "0562a57814f6f8bbd9fdea0a25921a2fce1a841a"
HEAD_ID = "ASLP-lab/SongEval"
# What the published files hash to: SHA-256 as the Hub states it, and the blob id that git has for the head.
PUBLISHED_HASHES = {
    "config.json": "237335ee27d8fb951ce778701a12a79e06c51ae636dd786f97e45f51ce532543",
    "model.safetensors": "273febab2be02872c37d2c37e48a9d6c52c1c9392f3eeeabd498efa281ccb7a6",
}
PUBLISHED_HEAD_BLOB = "b25155b89115f2f36bcf367c6f3446ae7d6214cb"
# The head's README says CC BY-NC-SA 4.0 and the LICENSE beside it Apache 2.0: the stricter one is assumed.
LICENSES = {"encoder": "cc-by-nc-4.0", "heads": "cc-by-nc-sa-4.0"}

RENAMES = (
    (re.compile(r"model\.conv\.conv\.([01])\.(.+)"), r"encoder.subsampling.blocks.\1.\2"),
    (re.compile(r"model\.conv\.linear\.(.+)"), r"encoder.subsampling.projection.\1"),
    (re.compile(r"model\.conformer\.(layers\.\d+\..+)"), r"encoder.\1"),
    (re.compile(r"attn\.(.+)"), r"head.attention.\1"),
    (re.compile(r"ffd\.0\.(.+)"), r"head.expansion.\1"),
    (re.compile(r"ffd\.2\.(.+)"), r"head.reduction.\1"),
    (re.compile(r"fc\.(.+)"), r"head.output.\1"),
)
# What MuQ holds besides: the final norm and unused positions of its conformer, and its training's targets.
UNNEEDED = re.compile(
    r"model\.(?:conformer\.(?:layer_norm|embed_positions|pos_conv_embed)\..+|linear\.(?:weight|bias)|cls_token|rvq\..+)"
)
NUM_LAYERS = 6  # SongEval reads the output of MuQ's sixth layer
# What the model cannot represent otherwise, in MuQ's config and in the part of it that describes the conformer.
FIXED_FIELDS = {"features": ["melspec_2048"], "label_rate": 25, "is_flash": False}
FIXED_CONFORMER_FIELDS = {"hidden_act": "swish", "position_embeddings_type": "rotary", "layer_norm_eps": 1e-5}


@dataclass
class SongEvalConversion:
    """A written checkpoint: where it lies, its config, and which published tensors were taken and which dropped."""

    folder: Path
    config: SongEvalConfig
    taken: dict[str, str]
    dropped: list[str]

    def format_summary(self) -> str:
        """Return a table of what went where, and for each source file whether it is the published one."""
        kinds: dict[tuple[str, str], int] = {}
        for name in (*self.taken, *self.dropped):
            place = "dropped" if name in self.dropped else self.taken[name].rpartition(".")[0]
            group = re.match(r"(?:model\.)?(?:conformer\.)?\w+", name)
            key = (group[0] if group else name, place if place == "dropped" else ".".join(place.split(".")[:2]))
            kinds[key] = kinds.get(key, 0) + 1
        rows = [[published, ours, str(count)] for (published, ours), count in kinds.items()]
        lines = [format_table(["published", "ours", "tensors"], rows, left_columns=(0, 1)), ""]
        for part in ("encoder", "heads"):
            facts = self.config.provenance[part]
            for name, digest in facts["sha256"].items():
                verdict = "is the published file" if facts["is_published"][name] else "is not the published file"
                lines.append(f"{part} {facts['source']} {name} sha256 {digest}: {verdict}")
            lines.append(f"{part} {facts['source']} is licensed under {facts['license']}")
        return "\n".join(lines)


def convert_songeval(
    head: str | os.PathLike[str],
    encoder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    heads: list[dict[str, Any]] | None = None,
) -> SongEvalConversion:
    """
    Read both sources and write one checkpoint.

    Args:
        head (`str` or `os.PathLike`):
            `model.safetensors` of SongEval's repository (`ckpt/`), or the folder that holds it.
        encoder (`str` or `os.PathLike`):
            MuQ: a folder with `config.json` and `model.safetensors`, or a Hub id such as `OpenMuQ/MuQ-large-msd-iter`.
        output (`str` or `os.PathLike`):
            A folder that does not exist yet, or is empty.
        heads (`list[dict]`, *optional*):
            The scores in the order of the head's outputs, as in [`SongEvalConfig`]. Defaults to SongEval's five; a
            head with other outputs (SongBench has seven) must say what they are.

    Returns:
        [`SongEvalConversion`]

    Raises:
        `FileNotFoundError`: If a source is not there.
        `FileExistsError`: If `output` holds anything.
        `ValueError`: If a file is damaged, holds a tensor without a place, lacks one, or describes what the model
            cannot represent.
    """
    check_new_folder(output)
    head_path, (config_path, encoder_path) = _find_head(head), _find_encoder(encoder)
    config = _build_config(config_path, head_path, heads)
    with torch.device("meta"):
        model = SongEvalModel(config)
    expected = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in model.state_dict().items()}
    taken: dict[str, dict[str, str]] = {}
    dropped: list[str] = []
    for path, part in ((encoder_path, "encoder."), (head_path, "head.")):
        taken[part], unneeded = _match_names(path, part, expected)
        dropped += unneeded
    state_dict: dict[str, torch.Tensor] = {}
    for path, part in ((encoder_path, "encoder."), (head_path, "head.")):
        state_dict |= _read_tensors(path, taken[part])
    model.load_state_dict(state_dict, strict=True, assign=True)
    config.provenance = {
        "encoder": _describe_source(encoder, LICENSES["encoder"], (config_path, encoder_path)),
        "heads": _describe_source(head, LICENSES["heads"], (head_path,)),
    }
    with write_new_folder(output) as part_folder:
        model.save_pretrained(part_folder)
    return SongEvalConversion(Path(os.path.expanduser(output)), config, taken["encoder."] | taken["head."], dropped)


def name_scores(names: Sequence[str]) -> list[dict[str, Any]]:
    """Describe the outputs of a head by their names alone: aesthetic scores from 1 to 5, as SongEval's are."""
    return [{**SONGEVAL_HEADS[0], "name": name} for name in names]


def _build_config(config_path: Path, head_path: Path, heads: list[dict[str, Any]] | None) -> SongEvalConfig:
    """Translate MuQ's config, and the shapes of the head, to ours."""
    fields = load_fields(config_path, "Download MuQ again.")
    for name in ("w2v2_config", "stat"):
        if not isinstance(fields.get(name), dict):
            raise ValueError(f"{config_path}: has no `{name}`, so it is not MuQ's. Pass the folder of {MUQ_ID}.")
    conformer = fields["w2v2_config"]
    for found, fixed in ((fields, FIXED_FIELDS), (conformer, FIXED_CONFORMER_FIELDS)):
        for name, value in fixed.items():
            if found.get(name) != value:
                raise ValueError(f"{config_path}: `{name}` is {found.get(name)!r}, but this model needs {value!r}.")
    shapes = read_safetensors_shapes(head_path)
    num_outputs, inner = (shapes.get(name, (0,))[0] for name in ("fc.weight", "ffd.0.weight"))
    num_attentions = sum(re.fullmatch(r"attn\.\d+\.in_proj_weight", name) is not None for name in shapes)
    if not num_outputs or not inner or not num_attentions:
        raise ValueError(f"{head_path}: holds no `attn.*`, `ffd.*` and `fc.*`, so it is not a head of SongEval.")
    heads = heads or [dict(entry) for entry in SONGEVAL_HEADS]
    if len(heads) != num_outputs:
        raise ValueError(
            f"{head_path}: has {num_outputs} outputs, but {len(heads)} scores are named. Name each output, in their "
            "order (`--scores` on the command line; `heads=` with name, minimum, maximum and group in Python)."
        )
    try:
        return SongEvalConfig(
            heads=heads,
            hop_size=fields["hop_length"],
            num_mel_bands=fields["n_mels"],
            mel_mean=fields["stat"]["melspec_2048_mean"],
            mel_std=fields["stat"]["melspec_2048_std"],
            subsampling_channels=fields["conv_dim"],
            encoder_size=fields["encoder_dim"],
            num_hidden_layers=NUM_LAYERS,
            num_attention_heads=conformer["num_attention_heads"],
            intermediate_size=conformer["intermediate_size"],
            conv_depthwise_kernel_size=conformer["conv_depthwise_kernel_size"],
            rotary_embedding_base=conformer["rotary_embedding_base"],
            head_intermediate_size=inner,
            num_head_layers=num_attentions,
        )
    except KeyError as error:
        raise ValueError(f"{config_path}: lacks the field {error}. Pass the folder of {MUQ_ID}.") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{config_path}: does not describe a MuQ: {error} Pass the folder of {MUQ_ID}.") from error


def _match_names(
    path: Path, part: str, expected: dict[str, tuple[tuple[int, ...], torch.dtype]]
) -> tuple[dict[str, str], list[str]]:
    """Find the place of each tensor of a file by its header; return published name to ours, and what is dropped."""
    taken, dropped, unknown = {}, [], []
    shapes = read_safetensors_shapes(path)
    for name in shapes:
        renamed = next((place for pattern, text in RENAMES if (place := _rename(pattern, text, name))), "")
        layer = re.match(r"encoder\.layers\.(\d+)\.", renamed)
        if UNNEEDED.fullmatch(name) or (layer and int(layer[1]) >= NUM_LAYERS):
            dropped.append(name)
        elif renamed in expected and renamed.startswith(part):
            taken[name] = renamed
        else:
            unknown.append(name)
    if unknown:
        raise ValueError(f"{path}: {', '.join(sorted(unknown)[:5])} does not belong to this model; nothing was read.")
    missing = sorted({name for name in expected if name.startswith(part)} - set(taken.values()))
    if missing:
        raise ValueError(f"{path}: the weights of {', '.join(missing[:5])} are missing; nothing was read.")
    with safe_open(path, framework="pt") as file:
        dtypes = {name: file.get_slice(name).get_dtype() for name in taken}
    for name, place in taken.items():
        shape, dtype = expected[place]
        wanted = "I64" if dtype == torch.int64 else "F32"
        if (shapes[name], dtypes[name]) != (shape, wanted):
            raise ValueError(
                f"{path}: {name!r} is {dtypes[name]} of the shape {shapes[name]}, but must be {wanted} of {shape}; "
                "nothing was read."
            )
    return taken, dropped


def _rename(pattern: re.Pattern[str], text: str, name: str) -> str | None:
    match = pattern.fullmatch(name)
    return match.expand(text) if match else None


def _read_tensors(path: Path, taken: dict[str, str]) -> dict[str, torch.Tensor]:
    with safe_open(path, framework="pt") as file:
        tensors = {place: file.get_tensor(name) for name, place in taken.items()}
    damaged = [name for name, place in taken.items() if not torch.isfinite(tensors[place]).all()]
    if damaged:
        raise ValueError(f"{path}: weights that are NaN or infinite: {', '.join(damaged[:5])}. Download it again.")
    return tensors


def _describe_source(source: str | os.PathLike[str], license_id: str, paths: tuple[Path, ...]) -> dict[str, Any]:
    """State where weights come from, without the path of the machine that converted them."""
    path = Path(os.path.expanduser(source))
    published = {
        path.name: compute_blob_id(path) == PUBLISHED_HEAD_BLOB
        if len(paths) == 1
        else compute_file_hash(path) == PUBLISHED_HASHES[path.name]
        for path in paths
    }
    known = MUQ_ID if len(paths) == 2 else HEAD_ID
    return {
        "source": known if all(published.values()) else path.name if path.exists() else str(source),
        "license": license_id,
        "sha256": {path.name: compute_file_hash(path) for path in paths},
        "is_published": published,
    }


def _find_head(source: str | os.PathLike[str]) -> Path:
    path = Path(os.path.expanduser(source))
    path = path / "model.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. Pass ckpt/model.safetensors of https://github.com/{HEAD_ID}, or its folder."
        )
    return path


def _find_encoder(source: str | os.PathLike[str]) -> tuple[Path, Path]:
    folder = Path(os.path.expanduser(source))
    names = ("config.json", "model.safetensors")
    if not folder.is_dir():
        folder = _download_encoder(str(source), names)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: holds no {' and no '.join(missing)}. Pass the folder of {MUQ_ID}.")
    return folder / names[0], folder / names[1]


def _download_encoder(source: str, names: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source):
        raise FileNotFoundError(f"{source}: no such folder, and not a Hub id of the form owner/name.")
    revision = MUQ_REVISION if source == MUQ_ID else None
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(names)))
    except OSError as error:
        raise FileNotFoundError(
            f"{source}: cannot be fetched from the Hub: {error} To work offline, run `hf download {source}` once "
            "while connected, or pass a local folder."
        ) from error
