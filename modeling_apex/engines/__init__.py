"""
Engines: what runs the encoder instead of the default path, each by name, none without being asked for.

An engine turns segments `(n, T)` into pooled layers `(n, L, D)`, room 5 of the path, and is set as
`ApexModel.encoder_engine`. Float32 engines prove themselves on a probe before they run; anything coarser needs a
record of what it does to scores, which `apex-music validate` makes (see `validation`). This file needs no torch.
"""

# What each engine can compute in. The first of each is its exact path; the rest change scores.
ENGINES: dict[str, tuple[str, ...]] = {
    "torch": ("float32", "tf32", "bf16"),
    "onnx": ("float32", "int8"),
    "openvino": ("float32", "bf16", "int8"),
}
PRECISIONS = tuple(dict.fromkeys(precision for precisions in ENGINES.values() for precision in precisions))
EXPORT_FORMATS = ("onnx", "openvino")


def check_engine(engine: str, precision: str, *, compile: bool = False) -> None:
    """Raise a `ValueError` if there is no such engine, or it has no such precision or cannot be compiled."""
    if engine not in ENGINES:
        raise ValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {engine!r}.")
    if precision not in ENGINES[engine]:
        raise ValueError(
            f"`precision` must be one of {', '.join(ENGINES[engine])} for the engine {engine!r}, got {precision!r}."
        )
    if compile and engine != "torch":
        raise ValueError(f"`compile` is for the engine 'torch'; {engine!r} compiles its graph by itself.")
