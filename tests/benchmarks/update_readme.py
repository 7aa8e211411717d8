"""
Write the tables of README.md and docs from result files, between `<!-- begin NAME -->` and `<!-- end NAME -->` marks.

    python tests/benchmarks/update_readme.py

A test compares the pages with what this makes, so a number in them cannot outlive the run that it came from.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modeling_apex.inference.report_apex import format_count
from modeling_apex.robustness.robustness_report import build_changes_table, describe_largest
from modeling_apex.storage.markdown import build_table

REPOSITORY = Path(__file__).parent.parent.parent
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
RESULTS = Path(__file__).parent / "results"
TINY = REPOSITORY / "modeling_apex" / "pretrained" / "apex-tiny"
TINY_RESULTS = TINY / "results.json"


def describe_resamplers(result: dict[str, Any]) -> str:
    """Say what soxr in place of the published filter does to scores."""
    rows = [
        [f"`{name}`", f"{difference['mean']:.3f}", f"{difference['largest']:.3f}"]
        for name, difference in result["difference"].items()
    ]
    return (
        build_table(["score", "mean change", "largest change"], rows)
        + f"\n\nModel: {result['model']}; {result['songs']}. Made by `{result['command']}`."
    )


def describe_tiny(result: dict[str, Any]) -> str:
    """Say how well apex-tiny hears the synthetic songs that it never saw."""
    test, unseen = result["evaluations"]["test"], result["evaluations"]["unseen"]
    rows = []
    for name, seen in test["scores"].items():
        other = unseen["scores"][name]
        cells = [
            f"{score['spearman']['value']:.2f} ({score['spearman']['low']:.2f} to {score['spearman']['high']:.2f})"
            for score in (seen, other)
        ]
        ceilings = [f"{score['spearman_ceiling']:.2f}" for score in (seen, other)]
        rows.append([f"`{name}`", cells[0], ceilings[0], cells[1], ceilings[1]])
    header = ["score", "new songs", "ceiling", "unseen systems", "ceiling"]
    return (
        build_table(header, rows)
        + f"\n\nSpearman correlation with 95 % intervals on {test['num_songs']} and {unseen['num_songs']} synthetic "
        "songs whose five factors were drawn independently; the ceiling is what a listener who knows the truth of the "
        "simulation reaches."
    )


def describe_heads(result: dict[str, Any]) -> str:
    """Say what training the heads costs beside the published design, and beside the products that it is made of."""
    runs = [result[name] for name in ("published_by_row", "published_by_tensor", "ours")]

    def row(label: str, key: str, digits: int) -> list[str]:
        ratios = [f"{run[key] / runs[-1][key]:.1f}" for run in runs[:-1]]
        return [label, *(f"{run[key]:.{digits}f}" for run in runs), " / ".join(ratios)]

    rows = [
        row("one epoch, s", "epoch_seconds", 1),
        row("of it making the batches, s", "batches_seconds", 2),
        row("loading, s", "load_seconds", 1),
        row("peak memory, MB", "peak_memory_mb", 0),
    ]
    header = ["training the heads", "published, by row", "published, by tensor", "ours", "published / ours"]
    floor = result["floor"]
    others = result["other_operations"]
    each = ", ".join(f"{name.removesuffix('_seconds')} {seconds:.1f} s" for name, seconds in others.items())
    return (
        build_table(header, rows)
        + f"\n\nRandom embeddings of {result['num_songs']:,} songs, {result['num_threads']} thread, processor "
        "seconds, all in one run of `tests/benchmarks/bench_heads.py`, which says what the two restatements of the "
        f"published design do. The matrix products of an epoch, {floor['epoch_teraflop']:.2f} TFLOP, take "
        f"{floor['epoch_seconds']:.1f} s by themselves, each the quickest of many with its data in cache; "
        f"what is no product takes {sum(others.values()):.1f} s in the same way ({each}). "
        f"`--mixed-precision bf16` brings our epoch to {result['ours_bf16']['epoch_seconds']:.1f} s. "
        f"Building the columns, once for all runs, took {result['build_columns_once']['build_seconds']:.1f} s and "
        f"{result['build_columns_once']['peak_memory_mb']:.0f} MB."
    )


def describe_scoring(result: dict[str, Any]) -> str:
    """Say what a song costs beside the published way and beside what its matrix products alone would cost."""
    memory, last, machine = result["peak_memory_mb"], result["last_segment"], result["machine"]
    error, minutes = result["embedding_error"], result["long_seconds"] / 60
    rows = [
        ["published way", "1.0", f"{result['published_over_floor']:.2f}", "reference", f"{memory['published']:,.0f}"],
        [
            "ours, float32 (default)",
            f"{result['published_over_ours']:.2f}",
            f"{result['ours_over_floor']:.2f}",
            f"{error['ours']:.1e}",
            f"{memory['ours']:,.0f}",
        ],
        [
            "ours, bfloat16 products",
            f"{result['published_over_ours_bfloat16']:.2f}",
            f"{result['ours_bfloat16_over_floor']:.2f} (of bfloat16)",
            f"{error['ours_bfloat16']:.1e}",
            "",
        ],
    ]
    header = ["path", "times faster", "time / floor", "error of the embedding", "peak memory, MB"]
    parts = describe_parts(result) if "parts_seconds" in result else ""  # an older result has none
    total = sum(result["rooms"].values())
    rooms = "; ".join(f"{name} {seconds / total:.1%}" for name, seconds in result["rooms"].items())
    return (
        build_table(header, rows)
        + f"\n\nA song of {result['song_seconds']:.0f} s at the shape of MERT-v1-95M with random weights, "
        f"{machine['cpu']} ({machine['capability']}), {machine['num_threads']} threads; "
        "the floor is what its matrix products take at the best rate that this CPU reaches. On this CPU the published "
        f"way takes {result['published_over_floor']:.2f} floors: nothing that computes every product in float32 can "
        f"be faster than it by more than that.{parts}\n\n"
        f"A last segment of 5 s costs {last['short_over_full']:.2f} of a full one (error {last['error']:.1e}). "
        f"A file of {minutes:.0f} minutes peaks at {memory['ours_long']:,.0f} MB; the published way needs "
        f"{memory['published_long_first_segment_only']:,.0f} MB before its second segment. "
        f"Share of the time: {rooms}. Made by `{result['command']}`."
    )


def describe_parts(result: dict[str, Any]) -> str:
    """Say what the encoder's operations take one by one, in floors."""
    floors = {
        name: {part: seconds / result["floor_seconds"][name] for part, seconds in found.items()}
        for name, found in result["parts_seconds"].items()
    }
    each = ", ".join(f"{part} {value:.2f}" for part, value in floors["float32"].items())
    sums = {name: sum(found.values()) for name, found in floors.items()}
    return (
        "\n\nA floor counts every product at that one rate, and nothing else. Timed one by one, each at its own shape "
        f"and with its data in cache, the encoder's operations take, in floors: {each}; together "
        f"{sums['float32']:.2f}, and in bfloat16, whose products take least, {sums['bfloat16']:.2f}."
    )


def describe_read_ahead(result: dict[str, Any]) -> str:
    """Say what decoding in the background is worth where decoding is a large part of the work."""
    rows = [
        [name, f"{case['speedup']:.2f}", f"{case['speedup_of_perfect_overlap']:.2f}"]
        for name, case in result["cases"].items()
    ]
    return (
        build_table(["files", "times faster", "if decoding cost nothing"], rows)
        + f"\n\n{result['model']}, {result['num_songs']} songs, {result['num_cores']} cores, {result['num_threads']} "
        f"thread for the model, seconds on a clock with and without reading ahead (`{result['command']}`). Behind a "
        "large encoder decoding is a small part of the work and so is the gain."
    )


def describe_corpus(result: dict[str, Any]) -> str:
    """Say how many songs an hour one core scores."""
    return (
        f"`apex-music score FOLDER` with {result['model']} scores {result['songs_per_core_hour']:,.0f} songs of "
        f"{result['song_seconds']:.0f} s an hour and core, {result['times_real_time']:.0f} times real time "
        f"({result['num_songs']} songs, start-up included; `{result['command']}`)."
    )


def describe_space(result: dict[str, Any]) -> str:
    """Say what the Space adds to a song's time."""
    return (
        f"The Space answers in {result['seconds']['space']['median']:.2f} s where the pipeline takes "
        f"{result['seconds']['direct']['median']:.2f} s (median of {len(result['seconds']['space']['all'])}, a sample "
        f"song, upload included; `{result['command']}`)."
    )


def describe_build_memory(result: dict[str, Any]) -> str:
    """Say what building training songs needs of memory, by the length of the table."""
    names = ("megabytes_peak", "megabytes_peak_without_mapped_files", "megabytes_after_import")
    rows = [[f"{table['num_rows']:,}", *(str(table[name]) for name in names)] for table in result["tables"]]
    return (
        build_table(["rows", "peak memory, MB", "of it allocated", "after the imports"], rows)
        + "\n\nTables of made-up songs without audio, about a kilobyte of text a row; "
        "`tests/benchmarks/measure_build_memory.py`."
    )


def describe_presets(result: dict[str, Any]) -> str:
    """Say what each difference between training conditions is worth."""

    def cell(groups: dict[str, Any], group: str) -> str:
        if group not in groups:
            return "–"
        value = groups[group]
        return f"{value['mean']:+.3f} ({value['low']:+.3f} to {value['high']:+.3f})"

    rows = [
        [name, cell(groups, "popularity"), cell(groups, "aesthetics")]
        for name, groups in result["differences"].items()
    ]
    return (
        build_table(["difference of mean Spearman", "popularity", "aesthetics"], rows)
        + f"\n\nSynthetic songs, embedded by apex-tiny; {result['num_seeds']} seeds, 95 % intervals; "
        "`tests/benchmarks/compare_presets.py`."
    )


def describe_hostile_audio(result: dict[str, Any]) -> str:
    """Say what became of the corpus of bad audio files."""
    rows = []
    for kind, outcomes in result["by_kind"].items():
        read = outcomes.get("decoded", 0) + outcomes.get("scored", 0)
        refused = sum(count for outcome, count in outcomes.items() if outcome.startswith("refused"))
        faults = sum(outcomes.values()) - read - refused
        rows.append([kind, str(sum(outcomes.values())), str(read), str(refused), str(faults)])
    faults = result["faults"]
    return (
        build_table(["what is wrong with the file", "cases", "read", "refused by name", "faults"], rows)
        + f"\n\n{result['num_cases']:,} cases: {faults['crash']} crashes, {faults['hang']} hangs (more than "
        f"{result['limits']['processor_seconds']:g} s of processor time), {faults['not finite']} scores that are not "
        f"finite, {faults['unexplained error'] + faults['unnamed error']} errors of an unplanned kind. Most memory: "
        f"{result['largest_megabytes']} MB, {result['worker_megabytes_before_first_case']} MB of it before the first "
        f"song; longest case: {result['longest_processor_seconds']:.1f} s. {result['what'][0].upper()}"
        f"{result['what'][1:]}. Made by `{result['command']}`."
    )


def describe_formats(result: dict[str, Any]) -> str:
    """Say how every format that FFmpeg writes is read."""
    outcomes = ("equal", "warned", "differs", "refused")
    listed = {name: entry for name, entry in result["containers"].items() if set(entry["outcomes"]) != {"equal"}}
    whole = {name: entry for name, entry in result["containers"].items() if name not in listed}
    num_whole = sum(entry["files"] for entry in whole.values())
    rows = [
        [f"`.{name}`", f"{entry['files']:,}", *(str(entry["outcomes"].get(outcome, 0)) for outcome in outcomes)]
        for name, entry in listed.items()
    ]
    rows.append([f"the other {len(whole)}", f"{num_whole:,}", f"{num_whole:,}", "0", "0", "0"])
    reasons: dict[tuple[str, str], dict[str, Any]] = {}
    for other in result["others"]:
        why = other["reason"] or re.sub(r"[\d.]+", "…", other["example"])
        entry = reasons.setdefault((other["outcome"], why), {"files": 0, "encoders": set()})
        entry["files"] += other["files"]
        entry["encoders"] |= {name.rsplit("-", 2)[0] for name in other["names"]}
    whys = [
        [outcome, why, f"{entry['files']:,}", ", ".join(f"`{name}`" for name in sorted(entry["encoders"]))]
        for (outcome, why), entry in sorted(reasons.items())
    ]
    return (
        build_table(["container", "files", *outcomes], rows)
        + "\n\n"
        + build_table(["outcome", "why", "files", "encoders of FFmpeg"], whys)
        + f"\n\n{result['num_files']:,} files, every one that FFmpeg {result['ffmpeg']} writes: codec by container by "
        "1, 2, 6, 8 and 12 channels and by eleven rates from 8 to 192 kHz. Equal: read at the same rate, to the same "
        "length within one frame and the same mean over channels (relative difference at most "
        f"{result['largest_difference']:.2g}) as FFmpeg's own decoder gives, without a warning. Equal throughout: "
        + ", ".join(f"`.{name}`" for name in whole)
        + f". Made by `{result['command']}`."
    )


def describe_fuzzing(result: dict[str, Any]) -> str:
    """Say what the fuzzer did."""
    return (
        f"The fuzzer (atheris, {result['seconds']} s): {result['executions']:,} inputs over "
        f"{result['coverage_points']} coverage points of this package's code, {result['crashes']} crashes, "
        f"{result['hangs']} hangs, {result['out_of_memory']} out of memory. Made by `{result['command']}`."
    )


def describe_kills(result: dict[str, Any]) -> str:
    """Say what was left of commands that were killed at random moments."""
    columns = {
        "kills": "kills",
        "kills_after_first_output": "while it wrote",
        "kills_at_renames": "right before a rename",
        "interrupts": "Ctrl-C",
        "terminations": "SIGTERM",
        "rows_lost": "rows lost",
        "rows_twice": "rows twice",
        "other_hash": "other bytes",
        "leftovers": "files left behind",
        "half_folders": "half folders",
    }
    rows = [[f"`{name}`", *(str(found[fact]) for fact in columns)] for name, found in result["commands"].items()]
    return (
        build_table(["command", *columns.values()], rows)
        + f"\n\nEach was killed and started again until it ended, and compared with an undisturbed run; after a kill, "
        f"a folder that bears its final name must be whole. Made by `{result['command']}`."
    )


def describe_leaks(result: dict[str, Any]) -> str:
    """Say how the memory of a process grew while it scored many songs."""
    marks = result["resident_megabytes_after"]
    rows = [list(map("{:,}".format, map(int, marks))), [f"{value:,.0f} MB" for value in marks.values()]]
    header = ["songs", *rows[0]]
    return (
        build_table(header, [["resident memory", *rows[1]]])
        + f"\n\n{result['songs']:,} songs of half a second to five, of all lengths, {result['broken_songs']} of them "
        f"broken, through {result['model']}. Made by `{result['command']}`."
    )


def describe_cold_start(result: dict[str, Any]) -> str:
    """Say what the first score costs, from the start of the process."""
    names = {
        "apex-music score": "`apex-music score CLIP`",
        "pipeline": "the same through `load_pipeline`",
        "import transformers, modeling_apex": "`import transformers, modeling_apex`",
        "import transformers": "`import transformers`",
    }
    rows = [
        [words, *(f"{result['programs'][name][f'{unit}_over_imports']:.2f}" for unit in ("wall", "cpu"))]
        for name, words in names.items()
    ]
    return (
        build_table(["whole process / `import transformers, torch`", "wall", "CPU"], rows)
        + f"\n\napex-tiny on the CPU; {result['clip']}; medians of {result['num_rounds']} rounds; torch "
        f"{result['versions']['torch']}, transformers {result['versions']['transformers']}. Made by "
        f"`{result['command']}`."
    )


def describe_engines(result: dict[str, Any]) -> str:
    """Say how fast every engine and precision is, and what it changes."""
    scores = result["scores"]["paths"]
    rows = []
    for path in result["full_size"]["paths"]:
        name = f"{path['engine']} {path['precision']}{' compiled' if path['is_compiled'] else ''}"
        changes = ["–", "–"]
        if name in scores:
            found = scores[name]
            by_span: dict[float, list[float]] = {100.0: [], 4.0: []}
            for head, value in found["largest_change"].items():
                by_span[found["ranges"][head]].append(value)
            changes = [f"{max(by_span[100.0]):.3f}", f"{max(by_span[4.0]):.4f}"]
        title = {"published float32": "the published way", "torch float32": "the default"}.get(name, f"`{name}`")
        rows.append(
            [
                title,
                f"{path['cpu_seconds']:.1f}",
                f"{path['speed_ratio_to_published']:.2f}",
                f"{path['relative_error_of_embedding']:.0e}" if path["engine"] != "published" else "–",
                *changes,
            ]
        )
    header = ["path", "CPU s per 30 s segment", "times the published speed", "error of the embedding"]
    header += ["change of popularity (0 to 100)", "change of aesthetics (1 to 5)"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        build_table(header, rows)
        + f"\n\nTimes and errors: {result['full_size']['model']}, one thread, least of {result['num_rounds']} rounds "
        f"in one run (load average {result['load_at_start']:.0f}), {result['hardware']}; {versions}. On random "
        f"weights the error says what the arithmetic does, not what a song would show. Changes: the largest of any "
        f"score of {result['scores']['model']} on {result['scores']['songs']}; "
        f"{result['scores']['calibration']} served as calibration. Int8 quantizes matrix products and leaves "
        "convolutions, softmax and norms in floating point, so it gains less than its products do. "
        f"`{result['command']}`."
    )


def describe_gpu(result: dict[str, Any]) -> str:
    """Say how fast a GPU is, or that none was measured."""
    if not result["is_gpu"]:
        return f"On a GPU nothing was measured yet: no GPU was available. `{result['command']}` does it."
    rows = [
        [
            shape,
            path["precision"],
            path["way"],
            str(path["batch_size"]),
            f"{path['segments_per_second']:.0f}",
            f"{path['songs_per_hour']:,.0f}",
            f"{path['share_of_peak']:.0%}" if path.get("share_of_peak") else "–",
            f"{path['relative_error_to_cpu']:.0e}",
        ]
        for shape, found in result["shapes"].items()
        for path in found["paths"]
    ]
    header = ["encoder", "precision", "way", "batch", "segments a second", "songs an hour", "of the peak", "error"]
    files = result.get("files", {})
    rates = [
        f"{rate * files['song_seconds'] / 30:.0f} with {format_count(int(number), 'thread')}"
        for number, rate in files.get("embed_songs_per_second", {}).items()
    ]
    return (
        build_table(header, rows)
        + f"\n\n{result['hardware'].removeprefix('cuda ')}, torch {result['torch']}; random weights, segments of 30 s "
        "from memory, copies to the card and back included; songs of 3 minutes. Published: transformers' "
        "`HubertModel` with torch's fused attention. Ours: the arrangement that a model on a GPU runs. The peak is "
        "the data sheet's dense rate for that precision; the error is the largest relative one of a pooled layer "
        "against float32 on a CPU. `embed` from MP3 files, in segments a second by the threads that decode: "
        f"{', '.join(rates)}. {result.get('note', '')} `{result['command']}`."
    )


SONGEVAL_WAYS = {
    "ours": "ours, a waveform in memory",
    "file": "ours, from a stereo file at 44.1 kHz",
    "bfloat16": "ours in bfloat16, a waveform in memory",
    "original": "the original's way, restated",
}


def describe_songeval(result: dict[str, Any]) -> str:
    """Say what a song costs by SongEval, and by the way its own packages go."""
    rows = [
        [song, words, f"{found[way]['cpu_seconds']:.1f}", f"{found[way]['memory_gib']:.2f}"]
        for song, found in result["songs"].items()
        for way, words in SONGEVAL_WAYS.items()
        if way in found
    ]
    compared = {song: found for song, found in result["songs"].items() if "original" in found}
    ratios = ", ".join(f"{found['original_over_ours_cpu_seconds']:.2f} at {song}" for song, found in compared.items())
    error = max(found["largest_score_difference"] for found in compared.values())
    rounding = max(found["largest_score_difference_of_bfloat16"] for found in compared.values())
    return (
        build_table(["song", "way", "processor seconds", "GiB above the weights"], rows)
        + f"\n\nThe published shape with random weights, {result['machine']['cpu']}, one thread. The original's way "
        f"takes {ratios} times our processor time and differs by at most {error:.0e} in a score; ours in bfloat16 "
        f"differs by {rounding:.2g} of the four points of a scale, so float32 stays the default. A song of ten "
        f"minutes is out of the original's reach. `{result['command']}`."
    )


PROCESSES_HEADER = ["model", "one thread, s", "two threads", "two processes", "CPU time, two threads", "two processes"]


def list_noise(result: dict[str, Any]) -> str:
    """List the songs that each model had."""
    return "; ".join(f"{model['songs']} of noise for {name}" for name, model in result["models"].items())


def describe_embed_processes(result: dict[str, Any]) -> str:
    """Say what a second core is worth to `embed`."""
    rows = [
        [
            name,
            f"{model['one_thread']['seconds']:.1f}",
            *(f"{model['speed_up'][way]:.2f}" for way in ("two_threads", "two_processes")),
            *(f"{model['cpu_seconds_ratio'][way]:.2f}" for way in ("two_threads", "two_processes")),
        ]
        for name, model in result["models"].items()
    ]
    return (
        build_table(PROCESSES_HEADER, rows)
        + f"\n\nTimes faster than one process of one thread, and times its CPU time; {result['num_cores']} cores, the "
        f"least of {result['num_rounds']} rounds, load average {result['load_at_start']:.1f} at the start; "
        f"{list_noise(result)}. One process decodes in a thread beside the encoder, so behind a small encoder a "
        f"second core was already in part used. Made by `{result['command']}`."
    )


def describe_score_processes(result: dict[str, Any]) -> str:
    """Say what a second process is worth to `score`."""
    ways = ("two_threads", "two_processes")

    def cell(found: dict[str, float]) -> str:
        return f"{found['median']:.2f} ({found['least']:.2f} to {found['largest']:.2f})"

    rows = [
        [
            name,
            f"{model['one_process']['median']:.1f}",
            *(cell(model["speed_up"][way]) for way in ways),
            *(f"{model['cpu_seconds_ratio'][way]:.2f}" for way in ways),
        ]
        for name, model in result["models"].items()
    ]
    return (
        build_table(PROCESSES_HEADER, rows)
        + f"\n\n`apex-music score` as a whole, the start of its processes included: times faster than one process of "
        f"one thread, and times its CPU time; medians of {result['num_rounds']} rounds, the least and the largest in "
        f"parentheses; {result['num_cores']} cores, load average {result['load_at_start']:.1f} at the start; "
        f"{list_noise(result)}. All ways wrote the same bytes. Made by `{result['command']}`."
    )


def describe_models(result: dict[str, Any]) -> str:
    """Say how the models compare, and what the features that leak the target do to the fused one."""

    def cell(model: dict[str, Any], split: str, metric: str, digits: int) -> str:
        value = model[split][metric]["value"]
        return "–" if value is None else f"{value:.{digits}f}"

    rows = []
    for name, model in result["models"].items():
        parameters = "–" if model["num_parameters"] is None else f"{model['num_parameters']:,}"
        cells = [
            cell(model, split, metric, digits)
            for split in ("test", "unseen")
            for metric, digits in (("spearman", 2), ("mae", 1), ("f1", 2))
        ]
        rows.append([name, *cells, parameters, f"{model['cpu_seconds_per_song']:.3f}"])
    names = [
        f"{name}, {songs}" for songs in ("new artists", "unseen generators") for name in ("Spearman", "MAE", "F1")
    ]
    header = ["model", *names, "parameters", "CPU s / song"]
    parts = [build_table(header, rows), describe_leaking_features(result), describe_fusion(result)]
    return "\n\n".join(parts)


def describe_leaking_features(result: dict[str, Any]) -> str:
    """Say by numbers what the leaking features are worth, beside the paper's figures and trivial predictions."""
    names = ("fused CNN, with leaking features", "fused CNN, without leaking features")
    told, untold = (result["models"][name]["test"] for name in names)
    songs, paper = result["songs"]["test"], result["paper"]
    change = result["differences"][" minus ".join(names)]["test"]["f1"]
    meaning = (
        "came from features that no unpublished song has" if change["low"] > 0 else "is not told apart from chance"
    )
    return (
        "With the features that leak the target (artist popularity, followers, plays, likes) the fused CNN has F1 "
        f"{told['f1']['value']:.2f} and MAE {told['mae']['value']:.1f} on new artists; arXiv 2505.07280 reports "
        f"{paper['f1']:.2f} and {paper['mae']:.1f} on its own data. Without them it has {untold['f1']['value']:.2f} "
        f"and {untold['mae']['value']:.1f}: {change['value']:.2f} of F1 ({change['low']:.2f} to {change['high']:.2f}) "
        f"{meaning}. A hit is a popularity of {result['hit_threshold']:g} or more, {songs['hit_share']:.0%} of the "
        f"songs: predicting the majority class has F1 {songs['f1_of_majority_class']:.2f}, calling every song a hit "
        f"{songs['f1_of_calling_all_hits']:.2f}."
    )


def describe_fusion(result: dict[str, Any]) -> str:
    """Say whether the fused model beats its branches, and what could be reached."""
    rows = []
    for name, parts in result["differences"].items():
        cells = [
            f"{part['value']:+.3f} ({part['low']:+.3f} to {part['high']:+.3f})"
            for part in (parts[split]["spearman"] for split in ("test", "unseen"))
        ]
        rows.append([name, *cells])
    header = ["difference of Spearman", "new artists", "unseen generators"]
    ceiling, num_songs = result["ceilings"]["audio_and_release"], result["num_songs"]
    num_tiny = json.loads(TINY_RESULTS.read_text(encoding="utf-8"))["training"]["num_songs"]
    text = (
        f"{num_songs['train']:,} synthetic training songs of {result['song_seconds']:g} s, {num_songs['test']} of new "
        f"artists, {num_songs['unseen']} of unseen generators; means of {result['num_seeds']} seeds, 95 % intervals "
        "over seeds and artists. A listener who knows exactly what is heard and how the track was released, which is "
        f"all that is known of an unpublished song, reaches a Spearman of {ceiling:.2f}. The encoder of "
        f"apex-tiny was trained "
        f"on {num_tiny:,} other synthetic songs with aesthetic labels, which no other model had. Seconds are of one "
        f"thread, from encoded audio to report. `{result['command']}`."
    )
    return build_table(header, rows) + "\n\n" + text


def describe_uncertainty(result: dict[str, Any]) -> str:
    """Say how often intervals hold, whether percentiles are ranks, and what is called novel."""
    heads = list(result["interval_widths"])
    rows = [
        [songs, *(f"{counts[head]['share']:.2f}" for head in heads)] for songs, counts in result["coverage"].items()
    ]
    own = next(iter(result["coverage"]))  # drawn as the reference set was
    lowest = min(heads, key=lambda head: result["coverage"][own][head]["share"])
    shares = result["tenths"]["shares"]
    inverted = [share for table in shares.values() for share in table.get("inverted target", ())]
    ranked = [share for table in shares.values() for share in table["reference"]]
    novelty = result["novelty"]["called_novel"]
    full, weighted = (result["tail"]["changes"][tail]["score_streams"] for tail in ("full", "weighted"))
    return (
        build_table([f"share of labels within the {100 * result['interval_level']:.0f} % interval", *heads], rows)
        + f"\n\n{result['model']}, calibrated on {result['reference']['num_songs']} synthetic songs "
        f"({result['reference']['name']}); the intervals reach "
        + ", ".join(f"{width:.2f} ({head})" for head, width in result["interval_widths"].items())
        + f" to each side. On {own} coverage is lowest for {lowest} "
        f"({result['coverage'][own][lowest]['share']:.2f}), and they lose coverage "
        "where songs are unlike the reference set. On "
        f"{result['tenths']['songs']}, each tenth of stated percentiles holds {min(ranked):.2f} to {max(ranked):.2f} "
        f"of the songs, and {min(inverted):.2f} to {max(inverted):.2f} where the number is the inverted target. "
        "Called unlike the reference set: "
        + ", ".join(
            f"{100 * counts['share']:.1f} % of {name} ({counts['num_sounds']})" for name, counts in novelty.items()
        )
        + f". One second of silence at the end of {result['tail']['num_songs']} songs of 20 s changes streams by "
        f'{full["mean"]:.2f} on average (at most {full["largest"]:.2f}) with `tail="full"`, by '
        f'{weighted["mean"]:.2f} (at most {weighted["largest"]:.2f}) with `"weighted"`. Made by '
        f"`{result['command']}`."
    )


def describe_robustness(result: dict[str, Any]) -> str:
    """Say how far scores move when a song is the same and its file is not."""
    return (
        build_changes_table(result)
        + f"\n\n{describe_largest(result)} {result['model']}, {result['num_songs']} synthetic songs. Each cell has "
        "the mean absolute change and the largest one; flipped pairs are pairs of songs that changed their order, on "
        "average over the scores. `make robustness`."
    )


def describe_statistics(result: dict[str, Any]) -> str:
    """Say how often the verdict on aesthetics is wrong, and how often intervals hold the truth."""
    scenarios = result["scenarios"]
    effects = {name: entry for name, entry in scenarios.items() if "helps" in entry}

    def write_share(entry: dict[str, float]) -> str:
        return f"{entry['share']:.3f} ({entry['low']:.3f} to {entry['high']:.3f})"

    rows = [
        [
            name.removeprefix("effect: ").replace("_", " "),
            "yes" if entry["has_effect"] else "no",
            *(write_share(entry[verdict]) for verdict in ("helps", "hurts")),
            f"{entry['num_simulations']}",
        ]
        for name, entry in effects.items()
    ]
    coverage = [
        [name.removeprefix("coverage: ").replace("_", " "), metric.replace("_", " "), write_share(share)]
        for name, entry in scenarios.items()
        for metric, share in entry.get("coverage", {}).items()
    ]
    return (
        build_table(["simulated battles", "effect planted", "told to help", "told to hurt", "simulations"], rows)
        + f"\n\nNominal in each direction: {result['level_each_direction']}.\n\n"
        + build_table(["simulated", "estimate", "share of 95 % intervals that hold the truth"], coverage)
        + "\n\n95 % intervals of the simulation in brackets. Made by "
        "`tests/benchmarks/simulate_statistics.py`."
    )


def describe_decoding(result: dict[str, Any]) -> str:
    """Say what it takes from a file to normalised segments beside the bare decoder."""
    ratios = {
        "segments / decoder": "segments_over_decode",
        "segments / decoder and resampler's products": "segments_over_decode_and_products",
        "with soxr / decoder": "soxr_over_decode",
    }
    rows = [
        [
            name,
            *(f"{case[key]:.2f}" for key in ratios.values()),
            f"{result['song_seconds'] / (case['decode_seconds'] * case['segments_over_decode']):,.0f}",
            f"{case['two_threads']:.2f}" if "two_threads" in case else "",
        ]
        for name, case in result["cases"].items()
    ]
    header = ["file", *ratios, "times real time", "two threads / one"]
    return (
        build_table(header, rows)
        + f"\n\nA song of {result['song_seconds']:.0f} s, processor seconds, the least of {result['num_rounds']}; "
        f"{result['machine']['cpu']}. The decoder of a WAV file is a copy, beside which any arithmetic is long. Made "
        f"by `{result['command']}`."
    )


def describe_rewards(result: dict[str, Any]) -> str:
    """Say what a reward costs, and what becomes of a score that is climbed."""
    overhead, ascent = result["overhead"], result["ascent"]
    gradients = "; ".join(
        f"{cost['peak_memory_mb'] / 1000:.1f} GB and {cost['gradient_over_score']:.1f} times the score in {dtype}"
        for dtype, cost in result["gradients"].items()
    )
    before, after = ascent["scores_before"], ascent["scores_after"]
    rows = [[f"`{name}`", f"{before[name]:.2f}", f"{after[name]:.2f}"] for name in before]
    return (
        f"At the shape of MERT-v1-95M, {overhead['num_clips']} clips of {overhead['clip_seconds']} s at "
        f"{overhead['sampling_rate']:,} Hz cost {overhead['call_over_encoder']:.2f} times what the encoder takes for "
        f"their segments alone. A gradient for {result['gradient_seconds']} s takes {gradients}, all of the "
        "process.\n\n"
        f"{ascent['num_steps']} steps of gradient ascent on `{ascent['score']}` of apex-tiny, from noise:\n\n"
        + build_table(["score", "noise", "after the climb"], rows)
        + f"\n\nIt is still noise: its distance from the reference set went from "
        f"{ascent['novelty_before']['distance']:.1f} to {ascent['novelty_after']['distance']:.1f}, where "
        f"{ascent['novelty_before']['threshold']:.1f} counts as unlike it. Made by `{result['command']}`."
    )


def describe_distillation(result: dict[str, Any]) -> str:
    """Say how a student that repeats a larger teacher follows it and the truth, beside one that learnt the truth."""
    columns = {
        "distilled student": ("following the teacher", "distilled"),
        "informed student": ("following the teacher", "informed"),
        "teacher, truth": ("following the truth", "teacher"),
        "distilled, truth": ("following the truth", "distilled"),
        "informed, truth": ("following the truth", "informed"),
    }
    rows = []
    for name, found in result["scores"].items():
        cells = (found[followed][who]["spearman"] for followed, who in columns.values())
        rows.append(
            [f"`{name}`", *(f"{cell['value']:.2f} ({cell['low']:.2f} to {cell['high']:.2f})" for cell in cells)]
        )
    numbers, sizes = result["num_songs"], result["num_parameters"]
    return (
        build_table(["Spearman", *columns], rows)
        + f"\n\nSynthetic songs of {result['song_seconds']:g} s: a teacher of {sizes['teacher']:,} parameters learnt "
        f"the truth of {numbers['teacher']['train']} and labelled others; the distilled student, {sizes['student']:,} "
        f"parameters, learnt what it said of {numbers['student']['train']}, the informed one the truth of the same. "
        f"Measured on {numbers['student']['test']} songs that neither student learnt from; encoders are untrained. "
        f"Made by `{result['command']}`."
    )


def describe_selection(result: dict[str, Any]) -> str:
    """Say what choosing among takes gains, and what a listener's own head gains over the scores of everyone."""
    takes, personal = result["best_of_takes"], result["personal"]
    gains = [
        [way, _format_estimate(found), _format_estimate(takes["all_scores_over"].get(way))]
        for way, found in takes["over_chance"].items()
    ]
    tastes = [
        [name, _format_estimate(found), _format_estimate(personal["personal_over"].get(name))]
        for name, found in personal["correlation"].items()
    ]
    best = _format_estimate(personal["personal_over"]["the best for each listener"])
    share = personal["share_of_listeners_better_than_their_best"]
    return (
        f"True appeal, in standard deviations, of the best of {takes['num_takes']} takes by {result['model']} above "
        f"that of a take by chance; {takes['num_prompts']} prompts of systems that it never heard:\n\n"
        + build_table(["chosen by", "over chance", "all scores lead by"], gains)
        + f"\n\nWhat {personal['num_ratings']} ratings of a listener with a taste of their own teach: rank "
        f"correlation with that taste on {personal['num_other_songs']} songs that they did not rate, mean of "
        f"{personal['num_listeners']} listeners:\n\n"
        + build_table(["score", "correlation", "the personal head leads by"], tastes)
        + f"\n\nOver the score that happens to suit each listener best, which nobody knows beforehand, it leads by "
        f"{best}, for {100 * share:.0f} % of them. 95 % intervals in brackets; synthetic songs of "
        f"{result['song_seconds']:g} s. Made by `python tests/benchmarks/simulate_selection.py`."
    )


def _format_estimate(found: dict[str, Any] | None) -> str:
    return "" if found is None else f"{found['estimate']:.2f} ({found['low']:.2f} to {found['high']:.2f})"


def describe_cluster(result: dict[str, Any]) -> str:
    """Say what simulated clusters need for millions of songs."""
    rows = [
        [
            name,
            f"{fleet['hours']:,.0f}" if fleet["hours"] >= 10 else f"{fleet['hours']:.1f}",
            f"{fleet['worker_hours']:,.0f}",
            f"{fleet['songs_per_second']:,.0f}",
            f"{fleet['skew_seconds'] / 60:,.0f}",
            f"{fleet['failures']:,.0f}",
            f"{fleet['share_of_work_lost']:.2%}",
            f"{fleet['driver_gigabytes']['checkpoint of Ray Data']:,.1f}",
        ]
        for name, fleet in result["fleets"].items()
    ]
    header = ["fleet", "hours", "worker hours", "songs a second", "last minutes", "failures", "work lost"]
    assumed = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in result["assumed"].items())
    return (
        build_table([*header, "GB of Ray's checkpoint"], rows)
        + "\n\nThe last minutes are those from the end of the median worker to that of the last one. Measured: a "
        f"second of audio is decoded in {result['measured']['decode'] * 1000:.1f} ms and encoded on a core in "
        f"{result['measured']['encode_on_a_core'] * 1000:.0f} ms at the size of MERT-v1-95M. Assumed: {assumed}. Made "
        f"by `{result['command']}`."
    )


def describe_ray(result: dict[str, Any]) -> str:
    """Say what was lost where workers, nodes and drivers were killed, and what a cluster costs beside one process."""
    peace, runs = result["peace"], result["runs"]
    faults, kills = (
        {name: sum(run[name] for run in runs) for name in names}
        for names in (
            ("rows_lost", "rows_twice", "rows_other"),
            ("killed_workers", "killed_nodes", "killed_drivers"),
        )
    )
    seconds = sorted(run["seconds"] for run in runs)
    return (
        f"In {len(runs)} runs over {result['num_songs']} songs of 1 s to 10 min, one of "
        f"{result['longest_seconds'] / 60:.0f} min and {result['num_broken']} broken ones among them, on two nodes of "
        f"one machine, {kills['killed_workers']} workers, {kills['killed_nodes']} nodes and "
        f"{kills['killed_drivers']} drivers were killed at random moments. Beside the rows of one process "
        f"{faults['rows_lost']} were lost, {faults['rows_twice']} there twice and {faults['rows_other']} others. A "
        f"run took {seconds[0]:.0f} to {seconds[-1]:.0f} s. Without a kill, one worker and all of Ray compute "
        f"{peace['overhead_cpu_seconds_per_song']:.2f} CPU seconds a song more than one process, which computes "
        f"{peace['one_process_cpu_seconds'] / result['num_songs']:.2f} with the small model of these runs, start "
        f"included (load of the machine {peace['load']}). Made by `{result['command']}`."
    )


SECTIONS: dict[str, tuple[Path, Callable[[Any], str]]] = {
    "resamplers": (RESULTS / "resamplers.json", describe_resamplers),
    "cold-start": (RESULTS / "cold_start.json", describe_cold_start),
    "apex-tiny": (TINY_RESULTS, describe_tiny),
    "heads": (RESULTS / "heads.json", describe_heads),
    "hostile-audio": (RESULTS / "hostile_audio.json", describe_hostile_audio),
    "formats": (RESULTS / "formats.json", describe_formats),
    "fuzzing": (RESULTS / "fuzz.json", describe_fuzzing),
    "build-memory": (RESULTS / "build_memory.json", describe_build_memory),
    "presets": (RESULTS / "presets.json", describe_presets),
    "scoring": (RESULTS / "scoring.json", describe_scoring),
    "scoring-intel": (RESULTS / "scoring_intel.json", describe_scoring),
    "read-ahead": (RESULTS / "read_ahead.json", describe_read_ahead),
    "corpus": (RESULTS / "corpus.json", describe_corpus),
    "space": (RESULTS / "space.json", describe_space),
    "kills": (RESULTS / "kills.json", describe_kills),
    "leaks": (RESULTS / "leaks.json", describe_leaks),
    "engines": (RESULTS / "engines.json", describe_engines),
    "gpu": (RESULTS / "gpu.json", describe_gpu),
    "songeval": (RESULTS / "songeval.json", describe_songeval),
    "score-processes": (RESULTS / "score_processes.json", describe_score_processes),
    "embed-processes": (RESULTS / "embed_processes.json", describe_embed_processes),
    "models": (RESULTS / "models.json", describe_models),
    "uncertainty": (TINY / "uncertainty.json", describe_uncertainty),
    "robustness": (TINY / "robustness" / "robustness.json", describe_robustness),
    "statistics": (RESULTS / "statistics.json", describe_statistics),
    "decoding": (RESULTS / "decoding.json", describe_decoding),
    "rewards": (RESULTS / "rewards.json", describe_rewards),
    "distillation": (RESULTS / "distillation.json", describe_distillation),
    "selection": (RESULTS / "selection.json", describe_selection),
    "cluster": (RESULTS / "cluster.json", describe_cluster),
    "ray": (RESULTS / "ray.json", describe_ray),
}


def build_page(text: str) -> str:
    """Return the text of a page with every marked section made anew from its result file."""
    for name in re.findall(r"<!-- begin (\S+) -->", text):
        path, describe = SECTIONS[name]
        section = describe(json.loads(path.read_text(encoding="utf-8")))
        pattern = rf"(<!-- begin {name} -->\n).*?(<!-- end {name} -->)"
        text = re.sub(
            pattern, lambda match, section=section: f"{match[1]}{section}\n{match[2]}", text, flags=re.DOTALL
        )
    return text


def main() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (made := build_page(text)) != text:
            page.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
