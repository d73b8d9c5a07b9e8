"""BIOSCAN-5M and its benchmarks for the Hugging Face ecosystem.

Importing this package is quick and loads neither torch nor transformers: each name below is imported on first use.
The first use of a name that needs transformers, or `import bioscan_hf.auto`, registers our models, tokenizer,
processor and pipelines with transformers.
"""

from importlib import import_module
from typing import Any

__version__ = "0.2.0"

_NAMES = {
    "RANKS": "schema",
    "SPLITS": "schema",
    "LabelMaps": "labels",
    "taxonomy_text": "models.taxonomy_text",
    "load_bioscan5m": "dataset.load",
    "load_label_maps": "dataset.load",
    "load_bioscan1m": "dataset.bioscan1m",
    "load_canadian_invertebrates": "dataset.canadian_invertebrates",
    "load_clibd_hdf5": "dataset.clibd_hdf5",
    "to_torch": "dataset.torch_rows",
    "make_splits": "partition.assign",
    "simulate_release": "simulate.release",
    "contrastive_loss": "losses.contrastive",
    "read_sequences": "dataset.sequences",
    "read_references": "identification.formats",
    "search_nearest": "identification.sequence_search",
    "knn_probe": "evaluation.probing",
    "linear_probe": "evaluation.probing",
    "probe_ranks": "evaluation.probing",
    "bayesian_zero_shot": "evaluation.bzsl",
    "genus_species_zero_shot": "evaluation.bzsl",
    "retrieval_accuracy": "evaluation.retrieval",
    "build_index": "search.index",
    "zero_shot_cluster": "clustering.cluster",
}

#: Names whose first use also imports `bioscan_hf.auto`.
_WITH_TRANSFORMERS = {
    "KmerTokenizer": "models.tokenization_kmer",
    "BarcodeBertConfig": "models.configuration_barcodebert",
    "BarcodeBertModel": "models.modeling_barcodebert",
    "BarcodeBertForMaskedLM": "models.modeling_barcodebert",
    "BarcodeBertForSequenceClassification": "models.modeling_barcodebert",
    "BarcodeMaeForPreTraining": "models.modeling_barcodemae",
    "BarcodeMambaConfig": "models.configuration_barcodemamba",
    "BarcodeMambaModel": "models.modeling_barcodemamba",
    "BarcodeMambaForMaskedLM": "models.modeling_barcodemamba",
    "BarcodeMambaForSequenceClassification": "models.modeling_barcodemamba",
    "AlignedBarcodeConfig": "models.configuration_alignedbarcode",
    "AlignedBarcodeModel": "models.modeling_alignedbarcode",
    "ClibdConfig": "models.configuration_clibd",
    "ClibdModel": "models.modeling_clibd",
    "ClibdProcessor": "models.processing_clibd",
    "convert_checkpoint": "checkpoints.barcodebert",
    "load_encoder": "encoders.barcode_encoders",
    "embed": "encoders.embed",
    "identify": "identification.opening",
    "open_library": "identification.opening",
    "ReferenceLibrary": "identification.library",
    "EmbeddingLibrary": "identification.embeddings",
    "JointLibrary": "identification.joint",
    "load_image_encoder": "encoders.image_encoders",
    "export_onnx": "hub.export",
}

__all__ = ["__version__", *_NAMES, *_WITH_TRANSFORMERS]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'bioscan_hf' has no attribute {name!r}; it has {', '.join(__all__)}.")
    if name in _WITH_TRANSFORMERS:
        import_module(f"{__name__}.auto")
    return getattr(import_module(f"{__name__}.{(_NAMES | _WITH_TRANSFORMERS)[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
