"""Speed of training steps, embedding, tokenizing, loaders, photos, indexes and data on a CPU."""

from __future__ import annotations

from bioscan_hf.cards import table

from .results import Blocks, megabytes, percent, results


def pretrain_step() -> str:
    """One row per method and size: ratios of rates."""
    rows = [
        (
            f"{way}, {size}",
            f"{values['samples_per_second']:.1f}",
            f"{values['ratio_wall']:.1f}",
            f"{values['ratio_cpu']:.1f}",
        )
        for size, ways in results("pretrain_step")["metrics"].items()
        for way, values in ways.items()
    ]
    return table(("", "samples/s", "times as fast", "by CPU time"), rows)


def embed() -> str:
    """One row per method: ratio of rates, and the largest difference from the published vectors."""
    metrics = results("embed")["metrics"]
    ways = {
        "float32, each barcode once": "float32_distinct",
        "float32, each barcode twice": "float32_column",
        "bfloat16, each barcode once": "bfloat16_distinct",
        "bfloat16, each barcode twice": "bfloat16_column",
    }
    rows = [
        (
            text,
            f"{metrics[f'{way}_barcodes_per_second']:.0f}",
            f"{metrics[f'{way}_ratio_wall']:.1f}",
            f"{metrics[f'{way}_largest_error']:.1e}",
        )
        for text, way in ways.items()
    ]
    return table(("", "barcodes/s", "times as fast", "largest difference"), rows)


def tokenizer() -> str:
    """Ratio of `encode_column` to the published loop, from an Arrow column and from a list."""
    metrics = results("tokenizer")["metrics"]
    rows = [
        (
            case,
            f"{values['encode_column_sequences_per_second']:,}",
            *(f"{values[f'{way}_ratio_wall']:.1f}" for way in ("encode_column", "encode_column_of_list")),
        )
        for case, values in metrics.items()
    ]
    return table(("barcodes", "barcodes/s, Arrow column", "times as fast", "times as fast, from a list"), rows)


def loaders() -> str:
    metrics = results("loaders")["metrics"]
    rows = [(name, rate) for name, rate in metrics["specimens_per_second_of_a_core"].items()]
    return table(("loader", "specimens/s of one core"), rows)


def images() -> str:
    """One row per way: photos per second of CPU time at equal work, and how many times slower the peers are."""
    found = results("images")
    metrics, required = found["metrics"], found["required_ratios"]
    ways = {
        "this package": "ours",
        "bioscan-dataset and its README's transform": "bioscan_dataset",
        "CLIBD's HDF5 files and transform": "clibd_hdf5",
        "this package, bytes for a GPU": "bytes",
    }
    works = ("eval", "train", "train_rotated")
    rows = [
        (text, *(metrics[work]["photos_per_second_of_cpu"].get(way, "-") for work in works))
        for text, way in ways.items()
    ]
    for peer, text in (("bioscan_dataset", "times bioscan-dataset"), ("clibd_hdf5", "times CLIBD's")):
        cells = []
        for work in works:
            goal = required.get(f"{work}, {peer}")
            ratio = f"{metrics[work][f'ratio_to_{peer}_cpu']:.1f}"
            cells.append(ratio if goal is None else f"{ratio} (goal {goal})")
        rows.append((text, *cells))
    return table(("", "evaluation", "training", "training with rotations"), rows)


def real_photos() -> str:
    """One row per encoder: accuracy in percent with its interval, and the number of photos."""
    rows = []
    for name, found in results("real_photos")["metrics"].items():
        values = found["keys_of_other_figures"]
        top = values["top_1"]
        interval = f"{percent(top['low'])} to {percent(top['high'])}"
        label = "CLIBD, trained on made-up photos" if name == "trained_2" else name
        clusters = (percent(found["clusters"][way]["order"]) for way in ("none", "umap"))
        shown = (percent(top["accuracy"]), interval, percent(values["chance_top_1"]), values["n"], *clusters)
        rows.append((label, *shown))
    return table(("", "top-1", "95 % interval", "chance", "photos", "AMI of orders", "AMI after UMAP"), rows)


def retrieval() -> str:
    """One row per kind of index: recall of the nearest keys, and speed."""
    found = results("retrieval")
    rows = [
        (
            f"{row['kind']}, effort {row['effort']}",
            f"{found['options']['keys']:,}",
            percent(row["recall_of_nearest"]),
            percent(row["recall_at_5"]),
            f"{row['speedup']:.1f}",
            f"{row['build_seconds']:,.0f}",
        )
        for row in found["metrics"]["indexes"]
    ]
    header = ("", "keys", "nearest found", "of the 5 nearest found", "times as fast", "seconds to build")
    return table(header, rows)


STEPS = {
    "bioscan-hf build, CSV to Parquet": "build",
    "bioscan-hf split": "split",
    "load_bioscan5m, first time": "first_open",
    "load_bioscan5m, again": "reopen",
    "load_bioscan5m with label ids of 8 ranks": "open_with_labels",
    "all of train, streamed from Parquet": "stream_train",
    "one split of a release, streamed, first time": "stream_release",
    "one split of a release, streamed, again": "stream_release_again",
    "bioscan-dataset, load_bioscan5m_metadata": "peer_load",
}


def steps_of(name: str) -> str:
    """One row per step: seconds, CPU seconds, own memory at the end, and peak with mapped file pages, in MB."""
    metrics = results(name)["metrics"]
    rows = [
        (
            text,
            f"{m['seconds']:.1f}",
            f"{m['cpu_seconds']:.1f}",
            megabytes(m["anonymous_rss_at_end"]),
            megabytes(m["peak_rss"]),
        )
        for text, m in ((text, metrics[step]) for text, step in STEPS.items() if step in metrics)
    ]
    header = ("", "seconds", "CPU seconds", "own memory at the end, MB", "peak with mapped files, MB")
    return table(header, rows)


def scale_claims(name: str) -> str:
    found = results(name)
    rows = [
        (
            claim.replace("_", " "),
            f"{one['at_most']:,.10g}",
            f"{found['metrics'][claim]:,.4g}" if found["metrics"][claim] < 1e6 else f"{found['metrics'][claim]:,.0f}",
            "yes" if one["kept"] else "**no**",
        )
        for claim, one in found["claims"].items()
    ]
    return table(("", "at most", "reached", "holds"), rows)


def statistics() -> str:
    metrics = results("statistics")["metrics"]
    names = {"describe": "all tables of bioscan-hf stats", "distances_family": "distances within families"}
    rows = [
        (
            text,
            metrics[name].get("rows", metrics[name].get("barcodes")),
            f"{metrics[name]['wall_seconds']:.0f}",
            f"{metrics[name]['cpu_seconds']:.0f}",
            f"{metrics[name]['peak_megabytes']:,.0f}",
        )
        for name, text in names.items()
    ]
    return table(("", "rows or barcodes", "seconds", "CPU seconds", "peak memory, MB"), rows)


def app() -> str:
    """One row per filter of the web page: specimens that it leaves, and seconds of the slowest of three answers."""
    metrics = results("app")["metrics"]
    rows = [
        (
            name.replace("dna_bin", "BIN"),
            found["rows"],
            f"{found['numbers, tree map and sites']['wall_seconds']:.2f}",
            f"{found['numbers, tree map and sites']['cpu_seconds']:.2f}",
            f"{found['photos']['wall_seconds']:.2f}",
            f"{found['photos']['cpu_seconds']:.2f}",
        )
        for name, found in metrics["filters"].items()
    ]
    head = ("filter", "specimens", "seconds", "CPU seconds", "sample of photos, seconds", "CPU seconds")
    return table(head, rows)


def app_opened() -> str:
    """A sentence on the start of the web page."""
    metrics = results("app")["metrics"]
    opened, load = metrics["open"], (metrics["load_before"], metrics["load_after"])
    return (
        f"Opening the page took {opened['wall_seconds']:.1f} s ({opened['cpu_seconds']:.1f} CPU seconds), and the "
        f"most memory was {metrics['peak_megabytes']:,.0f} MB. The load was {load[0]:.1f} to {load[1]:.1f} on 2 cores."
    )


BLOCKS: Blocks = {
    "app": app,
    "app_opened": app_opened,
    "pretrain_step": pretrain_step,
    "embed": embed,
    "tokenizer": tokenizer,
    "loaders": loaders,
    "images": images,
    "real_photos": real_photos,
    "retrieval": retrieval,
    "dataset_scale": lambda: steps_of("dataset_scale"),
    "dataset_scale_5150850": lambda: steps_of("dataset_scale_5150850"),
    "dataset_scale_5150850_claims": lambda: scale_claims("dataset_scale_5150850"),
    "dataset_scale_500000": lambda: steps_of("dataset_scale_500000"),
    "dataset_scale_500000_claims": lambda: scale_claims("dataset_scale_500000"),
    "statistics": statistics,
}
