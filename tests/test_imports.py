"""The direction in which data flows: which module may import which, and how light the package is to import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"bioscan_hf": "", "trainers": "trainers.", "dataset_script": "dataset_script."}

#: Module -> modules of ours that it may import, besides taxonomy and results, which everything may.
#:
#: Where one purpose takes more than a file, its parts share the beginning of their names and the first of them is what
#: others import: release (reading), build (writing Parquet), simulate, statistics, partition. `results` writes the
#: results files of trainers, commands and benchmarks, so that no two of them differ; `build` renders the card
#: (`hub`), because a folder without a card cannot be loaded by name; `sources` opens what `data` prepares; `demo`,
#: `commands` and `commands_models` are what the command line runs, apart from it because it must start without torch.
#: `training` is what the trainers share, as they do not import each other; `pretraining` and `finetuning` hold what
#: one learns from and how, so that the program itself stays one page of options and one of steps. `embedding_batches`
#: is the part of `embedding` that computes, apart because benchmarks on a GPU need no dataset. `cards` is what the
#: cards of models (`hub`, `hub_clibd`) and of clusterings and indexes (`hub_protocols`) share. `clustering` takes
#: arrays, and `clustering_protocol` reads folders of embeddings; what is looked at (`clustering_output`) is apart from
#: both, so that numbers need no pictures. `identification` asks a `retrieval_index`; `pipelines` and `export` show
#: models to other libraries. `embedding` knows of `photos` because both kinds of columns go through one resumable
#: path.
ALLOWED: dict[str, set[str]] = {
    "__init__": {
        "configuration_alignedbarcode",
        "configuration_barcodebert",
        "configuration_barcodemamba",
        "configuration_clibd",
        "modeling_alignedbarcode",
        "modeling_barcodebert",
        "modeling_barcodemamba",
        "modeling_clibd",
        "pipelines",
        "processing_clibd",
        "tokenization_kmer",
    },
    "taxonomy": set(),
    "results": set(),
    "metrics": set(),
    "plots": set(),
    "cards": set(),
    "hub": {"cards"},
    "unpickling": set(),
    "inventory": set(),
    "download": {"inventory"},
    "configuration_barcodebert": set(),
    "tokenization_kmer": set(),
    "modeling_barcodebert": {"configuration_barcodebert"},
    "configuration_barcodemamba": {"configuration_barcodebert"},
    "modeling_barcodemamba": {"configuration_barcodemamba", "modeling_barcodebert"},
    "configuration_alignedbarcode": set(),
    "modeling_alignedbarcode": {"configuration_alignedbarcode"},
    "configuration_clibd": {"configuration_barcodebert"},
    "modeling_clibd": {"configuration_clibd", "modeling_barcodebert"},
    "clibd_lora": set(),
    "open_clip_towers": {"configuration_clibd", "modeling_barcodebert", "modeling_clibd", "processing_clibd"},
    "processing_clibd": {"clibd_crops", "photos", "tokenization_kmer"},
    "clibd_crops": {"photos"},
    "clibd_batches": {"clibd_crops", "processing_clibd"},
    "clibd_views": {"augmentation", "clibd_batches", "photos", "processing_clibd"},
    "clibd_options": {"clibd_views", "processing_clibd", "training"},
    "clibd_training": {
        "clibd_batches",
        "clibd_lora",
        "clibd_options",
        "configuration_clibd",
        "data",
        "losses_clibd",
        "modeling_clibd",
        "processing_clibd",
        "tokenization_kmer",
        "training",
    },
    "clibd_trainer": {
        "clibd_crops",
        "clibd_options",
        "clibd_training",
        "losses",
        "losses_cached",
        "losses_clibd",
        "processing_clibd",
        "retrieval_protocol",
        "training",
    },
    "convert_clibd": {
        "clibd_lora",
        "configuration_barcodebert",
        "configuration_clibd",
        "modeling_clibd",
        "processing_clibd",
        "tokenization_kmer",
    },
    "hub_clibd": {"cards"},
    "hub_protocols": {"cards"},
    "evaluate_metrics": {"metrics"},
    "losses_clibd": {"losses"},
    "losses_cached": set(),
    "retrieval": {"metrics", "retrieval_index"},
    "retrieval_index": set(),
    "retrieval_protocol": {"metrics", "retrieval", "retrieval_index"},
    "retrieval_embeddings": {
        "data",
        "embedding",
        "embedding_batches",
        "modeling_clibd",
        "processing_clibd",
        "retrieval_protocol",
    },
    "retrieval_plots": {"plots"},
    "convert_checkpoints": {
        "convert_clibd",
        "configuration_barcodebert",
        "modeling_barcodebert",
        "tokenization_kmer",
        "unpickling",
    },
    "sequences": set(),
    "collators": set(),
    "augmentation": {"collators"},
    "losses": set(),
    "training": set(),
    "pretraining": {"collators", "data", "release", "training"},
    "classification": {"collators", "metrics"},
    "finetuning": {"classification", "data", "tokenization_kmer", "training"},
    "photos": set(),
    "release": {"release_files", "release_photos"},
    "release_files": set(),
    "release_photos": {"release_files"},
    "cropping": {"unpickling"},
    "crop_files": {"build", "cropping", "release", "release_files"},
    "build": {"build_shards", "hub", "release"},
    "build_shards": {"release"},
    "publish": {"build", "hub"},
    "sources": {"build", "release"},
    "data": {"release", "sources"},
    "samples": {"release"},
    "block_source": {"data", "release", "release_files"},
    "bioscan1m": {"block_source", "release"},
    "other_sources": {"block_source", "release"},
    "statistics": {"release", "statistics_columns"},
    "statistics_columns": {"build", "data", "release"},
    "statistics_report": {"plots"},
    "partition": {"partition_draws"},
    "partition_draws": set(),
    "simulate": {"simulate_metadata", "simulate_photos", "simulate_specimens", "simulate_taxa"},
    "simulate_metadata": {"simulate_photos", "simulate_specimens", "simulate_taxa"},
    "simulate_specimens": {"simulate_photos", "simulate_taxa"},
    "simulate_photos": {"simulate_taxa"},
    "simulate_taxa": set(),
    "embedding": {"embedding_batches", "photos"},
    "embedding_batches": set(),
    "probing": {"linear_fits", "metrics"},
    "linear_fits": set(),
    "cells": set(),
    "identification": {"retrieval_index"},
    "clustering": {"clustering_linkage", "clustering_methods", "clustering_metrics"},
    "clustering_graph": set(),
    "clustering_linkage": {"clustering_graph"},
    "clustering_methods": {"clustering_graph", "clustering_linkage"},
    "clustering_metrics": set(),
    "clustering_protocol": {"clustering", "clustering_methods", "data", "embedding", "retrieval_embeddings"},
    "clustering_output": {"clustering_map", "clustering_plots", "clustering_report", "data", "photos", "plots"},
    "clustering_plots": {"plots"},
    "clustering_map": {"clustering_plots"},
    "clustering_report": set(),
    "image_encoders": {"image_weights", "photos"},
    "image_weights": {"unpickling"},
    "export": set(),
    "pipelines": {"data", "modeling_barcodebert", "retrieval", "retrieval_index", "tokenization_kmer"},
    "bzsl": {"bzsl_features", "bzsl_likelihood", "metrics"},
    "bzsl_features": {"metrics"},
    "bzsl_likelihood": set(),
    "baselines": {"baselines_cnn", "baselines_hub"},
    "baselines_cnn": {"metrics"},
    "baselines_hub": {"configuration_barcodebert", "modeling_barcodebert", "tokenization_kmer"},
    "baselines_search": {"metrics"},
    "demo": {"baselines", "build", "data", "embedding", "plots", "probing", "simulate"},
    "cli": {"commands", "commands_models"},
    "commands": {
        "build",
        "crop_files",
        "demo",
        "download",
        "inventory",
        "partition",
        "publish",
        "release",
        "simulate",
        "statistics",
        "statistics_report",
    },
    "commands_models": {
        "baselines",
        "cards",
        "clustering_output",
        "clustering_protocol",
        "commands",
        "convert_checkpoints",
        "cropping",
        "data",
        "embedding",
        "hub",
        "hub_clibd",
        "hub_protocols",
        "identification",
        "image_encoders",
        "probing",
        "retrieval_embeddings",
        "retrieval_index",
        "retrieval_protocol",
        "sequences",
        "unpickling",
    },
    "trainers.__init__": set(),
    "trainers.pretrain_barcodebert": {
        "cards",
        "collators",
        "configuration_barcodebert",
        "configuration_barcodemamba",
        "hub",
        "modeling_barcodebert",
        "modeling_barcodemamba",
        "pretraining",
        "tokenization_kmer",
        "training",
    },
    "trainers.finetune_barcodebert": {"cards", "classification", "finetuning", "hub", "tokenization_kmer", "training"},
    "trainers.contrast_barcodes": {
        "augmentation",
        "cards",
        "configuration_alignedbarcode",
        "data",
        "embedding_batches",
        "hub",
        "losses",
        "modeling_alignedbarcode",
        "probing",
        "tokenization_kmer",
        "training",
    },
    "trainers.train_clibd": {
        "cards",
        "clibd_batches",
        "clibd_options",
        "clibd_trainer",
        "clibd_training",
        "clibd_views",
        "hub_clibd",
        "processing_clibd",
        "training",
    },
    "trainers.evaluate_clibd": {
        "clibd_batches",
        "data",
        "embedding_batches",
        "modeling_clibd",
        "plots",
        "processing_clibd",
        "retrieval",
        "retrieval_embeddings",
        "retrieval_index",
        "retrieval_plots",
        "retrieval_protocol",
        "training",
    },
    "dataset_script.__init__": set(),
    "dataset_script.bioscan5m": {"release"},
}

#: These are uploaded beside the weights, or belong to no part of the package: not even taxonomy.
ALONE = {
    "taxonomy",
    "results",
    "metrics",
    "plots",
    "configuration_barcodebert",
    "configuration_barcodemamba",
    "configuration_alignedbarcode",
    "configuration_clibd",
    "modeling_clibd",
    "tokenization_kmer",
    "modeling_barcodebert",
    "modeling_barcodemamba",
    "modeling_alignedbarcode",
    "losses",
}


def modules() -> dict[str, Path]:
    return {
        prefix + path.stem: path for folder, prefix in FOLDERS.items() for path in sorted((ROOT / folder).glob("*.py"))
    }


def imports_of_ours(path: Path) -> set[str]:
    """Modules of this repository that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level or module == "bioscan_hf":
                names = [module] if node.level and module else [alias.name for alias in node.names]
                found |= {name.split(".")[0] for name in names if not name.startswith("__")}
            elif module.startswith("bioscan_hf."):
                found.add(module.removeprefix("bioscan_hf."))
            elif module.split(".")[0] in FOLDERS:
                found.add(module)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in FOLDERS and alias.name != "bioscan_hf":
                    found.add(alias.name.removeprefix("bioscan_hf."))
    return found


def test_every_module_is_in_the_table_and_only_those():
    assert set(modules()) == set(ALLOWED)


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_imports_follow_the_table(name):
    everywhere = set() if name in ALONE else {"taxonomy", "results"}
    unexpected = imports_of_ours(modules()[name]) - ALLOWED[name] - everywhere
    assert not unexpected, f"{name} imports {unexpected}"


def test_the_reader_of_imports_sees_every_form(tmp_path):
    """Guards the table against a reader that finds nothing."""
    source = "from .data import a\nfrom . import release\nimport bioscan_hf.hub.model_cards\nfrom bioscan_hf.cli.main import main\n"
    source += "from bioscan_hf import embed\nfrom trainers import x\ndef f():\n    from .losses import y\n"
    (tmp_path / "m.py").write_text(source)
    assert imports_of_ours(tmp_path / "m.py") == {"data", "release", "hub", "cli", "embed", "trainers", "losses"}


HEAVY = ("torch", "transformers", "datasets", "timm", "faiss", "umap", "sklearn", "matplotlib", "pyarrow", "numpy")


@pytest.mark.parametrize(
    "statement", ["import bioscan_hf", "import bioscan_hf.cli.main; bioscan_hf.cli.main.parser()"]
)
def test_import_is_light(statement):
    """`import bioscan_hf` and the command line's help load none of the heavy libraries."""
    code = f"{statement}\nimport sys\nprint([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_public_names_exist():
    import bioscan_hf

    for name in bioscan_hf.__all__:
        assert getattr(bioscan_hf, name) is not None
    assert set(bioscan_hf.__all__) <= set(dir(bioscan_hf))
    with pytest.raises(AttributeError, match="no attribute 'embedd'"):
        bioscan_hf.embedd  # noqa: B018
