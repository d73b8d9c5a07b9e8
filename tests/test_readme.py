"""README: its tables come from results files, and its commands exist."""

import json
import re
from pathlib import Path

from typer.main import get_command

from bioscan_hf.cards import table
from bioscan_hf.cli.main import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def results(name):
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def real_coi():
    """One row per method, one column per question; "-" if a method has no such number."""
    metrics = results("real_coi")["metrics"]
    questions = [key for key in metrics["4-mer counts"] if " of " in key]
    rows = [
        [way, *(values[question]["micro_accuracy"] if question in values else "-" for question in questions)]
        for way, values in metrics.items()
    ]
    rows.append(["specimens", *(metrics["4-mer counts"][question]["support"] for question in questions)])
    return table(["", *questions], rows)


def identify():
    """One row per method: accuracy in percent, queries per second, and their ratio to vsearch in two settings."""
    metrics = results("identify")["metrics"]
    peers = ("vsearch, 8 candidates", "vsearch, 32 candidates")
    rows = [
        (
            way,
            values["species of test"],
            values["genus of test_unseen"],
            f"{values['queries_per_second']:,.0f}",
            *(f"{values['queries_per_second'] / metrics[peer]['queries_per_second']:.1f}" for peer in peers),
        )
        for way, values in metrics.items()
    ]
    header = ("", "species of test", "genus of test_unseen", "queries a second", *(f"times {peer}" for peer in peers))
    return table(header, rows)


def pretrain_step():
    """One row per method and size: ratios of rates."""
    rows = [
        (f"{way}, {size}", f"{values['ratio_wall']:.1f}", f"{values['ratio_cpu']:.1f}")
        for size, ways in results("pretrain_step")["metrics"].items()
        for way, values in ways.items()
    ]
    return table(("", "times as fast", "by CPU time"), rows)


def embed():
    """One row per method: ratio of rates, and the largest difference from the published vectors."""
    metrics = results("embed")["metrics"]
    ways = {
        "float32, each barcode once": "float32_distinct",
        "float32, each barcode twice": "float32_column",
        "bfloat16, each barcode once": "bfloat16_distinct",
        "bfloat16, each barcode twice": "bfloat16_column",
    }
    rows = [
        (text, f"{metrics[f'{way}_ratio_wall']:.1f}", f"{metrics[f'{way}_largest_error']:.1e}")
        for text, way in ways.items()
    ]
    return table(("", "times as fast", "largest difference"), rows)


def tokenizer():
    """Ratio of `encode_column` to the published loop, from an Arrow column and from a list."""
    metrics = results("tokenizer")["metrics"]
    rows = [
        (case, *(f"{values[f'{way}_ratio_wall']:.1f}" for way in ("encode_column", "encode_column_of_list")))
        for case, values in metrics.items()
    ]
    return table(("barcodes", "from an Arrow column", "from a list"), rows)


def dataset_scale():
    """One row per step: seconds, own memory, and peak memory with mapped file pages, in MB."""
    steps = {
        "bioscan-hf build, CSV to Parquet": "build",
        "load_bioscan5m, first time": "first_open",
        "load_bioscan5m, again": "reopen",
        "all of train, streamed": "stream_train",
        "bioscan-dataset, load_bioscan5m_metadata": "peer_load",
    }
    metrics = results("dataset_scale")["metrics"]
    rows = [
        (text, f"{m['seconds']:.1f}", f"{m['anonymous_rss_at_end'] / 1e6:,.0f}", f"{m['peak_rss'] / 1e6:,.0f}")
        for text, m in ((text, metrics[step]) for text, step in steps.items())
    ]
    return table(("", "seconds", "own memory at the end, MB", "peak with mapped files, MB"), rows)


def images():
    """One row per way: photos per second of CPU time, at equal work; and what is left to a GPU."""
    metrics = results("images")["metrics"]
    ways = {
        "this package": "ours",
        "bioscan-dataset and its README's transform": "bioscan_dataset",
        "CLIBD's HDF5 files and transform": "clibd_hdf5",
    }
    works = ("eval", "train", "train_rotated")
    rows = [(text, *(metrics[work]["photos_per_second_of_cpu"][way] for work in works)) for text, way in ways.items()]
    bytes_ = [metrics[work]["photos_per_second_of_cpu"]["bytes"] for work in works[:2]]
    rows.append(("this package, bytes for a GPU", *bytes_, ""))
    return table(("", "evaluation", "training", "training with rotations"), rows)


def confidence():
    """One row per variant of the reads and share of new taxa of the first partition, in percent."""
    cells = results("confidence")["metrics"]["seed 1"]
    rows = []
    for variant in ("whole", "first 313", "one insertion"):
        for mix in ("none new", "half new", "nine tenths new", "family new"):
            values = cells[f"{variant}, {mix}"]
            numbers = [values[rank][name] for rank in ("species", "genus") for name in ("named", "right_of_named")]
            numbers += [values["deepest"][name] for name in ("named", "right_of_named")]
            low, high = values["deepest"]["interval"]
            shown = ["-" if number is None else percent(number) for number in numbers]
            rows.append((f"{variant}, {mix}", *shown, f"{percent(low)} to {percent(high)}"))
    columns = ("species named", "right", "genus named", "right", "any rank named", "right", "interval")
    return table(("reads", *columns), rows)


def clibd_simulated():
    """One row per model: photo to barcode, macro top-1 of species and genus, seen, unseen and harmonic mean."""
    metrics = results("clibd_simulated")["metrics"]
    parts = ("seen", "unseen", "harmonic_mean")
    columns = [(rank, part) for rank in ("species", "genus") for part in parts]
    rows = [
        (name, *(percent(of["image->dna"]["macro"][part][rank]) for rank, part in columns))
        for name, of in metrics.items()
    ]
    asked = metrics["no alignment"]["image->dna"]
    chance = asked["chance"]["macro"]
    rows.append(("chance", *(percent(chance[part][rank]) if part in chance else "-" for rank, part in columns)))
    queries = asked["queries"]
    rows.append(("queries", *(f"{queries[part]}" if part in queries else "-" for _, part in columns)))
    return table(("", *(f"{rank}, {part.replace('_', ' ')}" for rank, part in columns)), rows)


def contrastive():
    """One row per method: ratios to the published loss in the same run; memory beyond the inputs, in MB."""
    metrics = results("contrastive")["metrics"]
    times, memory = metrics["times"], metrics["memory"]
    published = memory["published"]["above_inputs_mb"]
    rows = [
        (
            f"loss, {way}",
            memory[way]["rows"],
            f"{times[way]['ratio_wall']:.1f}",
            f"{memory[way]['above_inputs_mb'] / published:.2f}",
            f"{memory[way]['peak_mb']:,}",
        )
        for way in times
    ]
    rows += [(name, values["rows"], "-", "-", f"{values['peak_mb']:,}") for name, values in metrics["models"].items()]
    return table(("", "rows", "times as fast", "memory, of the published", "peak of the process, MB"), rows)


def real_clustering():
    """One row per encoder and method: AMI at every rank in percent, with the deviation of species over seeds."""
    ranks = ("order", "family", "subfamily", "genus", "species", "dna_bin")  # all are insects
    rows = [
        (
            f"{encoder}; {way}",
            *(percent(values["ami"][rank]) for rank in ranks),
            "-" if values["ami_std"]["species"] is None else percent(values["ami_std"]["species"]),
            f"{values['separation']['n_clusters']:,.0f}",
            f"{sum(values['seconds_of_a_run'].values()):,.0f}",
            f"{values['peak_rss_bytes'] / 1e6:,.0f}",
        )
        for encoder, ways in results("real_clustering")["metrics"].items()
        for way, values in ways.items()
    ]
    header = ("", *ranks[:-1], "BIN", "deviation of species", "clusters", "seconds of a run", "peak memory, MB")
    return table(header, rows)


WARDS = {
    "scikit-learn": "Ward, scikit-learn",
    "exact": "Ward, ours",
    "umap and scikit-learn": "UMAP, then Ward, scikit-learn (published)",
    "umap and exact": "UMAP, then Ward, ours",
    "sample, exact": "Ward, ours, of the million",
    "sample, graph": "Ward over a graph, of the million",
    "graph": "Ward over a graph",
}


def clustering():
    """One row per case: CPU seconds, peak memory, AMI of species in percent, and exponents of the peers."""
    metrics = results("clustering")["metrics"]
    peers = metrics["peers"]
    cases = [
        (way, case | {"rows": int(size)}, f"{peers['exponents'][way]['seconds_cpu']:.1f}")
        for way, sizes in peers["cases"].items()
        if way in WARDS
        for size, case in sizes.items()
    ]
    cases += [(way, metrics["full"][way], "-") for way in ("exact", "graph")]
    cases += [(way, metrics["million"][way], "-") for way in ("sample, exact", "sample, graph", "graph")]
    rows = [
        (
            WARDS[way],
            case["rows"],
            f"{case['seconds_cpu']:,.1f}",
            f"{case['above_inputs_mb']:,.0f}",
            percent(case["ami"]["species"]),
            exponent,
        )
        for way, case, exponent in cases
    ]
    header = (
        "",
        "points",
        "seconds of CPU",
        "memory beyond the points, MB",
        "AMI of species",
        "exponent of the seconds",
    )
    return table(header, rows)


def real_photos():
    """One row per encoder: accuracy in percent with its interval, and the number of photos."""
    rows = []
    for name, found in results("real_photos")["metrics"].items():
        values = found["keys_of_other_figures"]
        top = values["top_1"]
        between = f"{percent(top['low'])} to {percent(top['high'])}"
        label = "CLIBD, trained on made-up photos" if name == "trained_2" else name
        rows.append((label, percent(top["accuracy"]), between, percent(values["chance_top_1"]), values["n"]))
    return table(("", "top-1", "95 % interval", "chance", "photos"), rows)


def retrieval():
    """One row per kind of index: recall of the nearest keys, and speed."""
    found = results("retrieval")
    rows = [
        (
            f"{row['kind']}, effort {row['effort']}",
            f"{found['options']['keys']:,}",
            percent(row["recall_of_nearest"]),
            f"{row['speedup']:.1f}",
            f"{row['build_seconds']:,.0f}",
        )
        for row in found["metrics"]["indexes"]
    ]
    return table(("", "keys", "nearest found", "times as fast", "seconds to build"), rows)


def percent(share):
    return "-" if share is None else f"{100 * share:.1f}"


TABLES = (
    *(confidence, real_coi, identify, pretrain_step, embed, clibd_simulated, contrastive, real_clustering, clustering),
    *(real_photos, retrieval, tokenizer, dataset_scale, images),
)


def test_tables_come_from_results_files():
    for render in TABLES:
        name = render.__name__
        assert f"<!-- {name} -->\n\n{render()}\n" in README, f"the table {name} should read\n\n{render()}"


def test_results_files_have_command_and_commit():
    files = sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for file in files:
        content = json.loads(file.read_text(encoding="utf-8"))
        copied = r"(\+changes)?" if file.name == "gpu_run.json" else ""  # measured on a copy of the working tree
        assert content["command"].startswith(("bench_", "gpu_run")), file.name
        assert re.fullmatch("[0-9a-f]{40}" + copied, content["commit"]), file.name


def test_commands_in_readme_exist():
    names = set(re.findall(r"bioscan-hf ([a-z]+)", README))
    assert names >= {"demo", "simulate", "split", "build", "embed", "probe"}
    assert names <= set(get_command(app).commands)
    for path in re.findall(r"trainers/\w+\.py", README):
        assert (ROOT / path).is_file()


def test_ci_runs_the_second_command_of_readme():
    first, second = (command.strip() for command in re.findall(r"```bash\n(.+?)\n```", README, flags=re.S)[:2])
    assert "\n" not in first + second and "pip install" in first and "bioscan-hf demo" in first
    assert second.removeprefix(".venv/bin/") in (ROOT / ".ci/run").read_text()
