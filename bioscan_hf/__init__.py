"""BIOSCAN-5M and its benchmarks for the Hugging Face ecosystem.

Importing this package is quick and loads neither torch nor transformers: each name below is imported on first use.
Once transformers itself is imported, its Auto* classes know our models and tokenizer, without remote code, and its
`pipeline()` knows our tasks.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "RANKS": "schema",
    "SPLITS": "schema",
    "LabelMaps": "schema",
    "taxonomy_text": "schema",
    "load_bioscan5m": "dataset.load",
    "load_label_maps": "dataset.load",
    "load_bioscan1m": "dataset.bioscan1m",
    "load_canadian_invertebrates": "dataset.other_sources",
    "load_clibd_hdf5": "dataset.other_sources",
    "to_torch": "dataset.torch_rows",
    "make_splits": "partition.assign",
    "simulate_release": "simulate.release",
    "KmerTokenizer": "models.tokenization_kmer",
    "BarcodeBertConfig": "models.configuration_barcodebert",
    "BarcodeBertModel": "models.modeling_barcodebert",
    "BarcodeBertForMaskedLM": "models.modeling_barcodebert",
    "BarcodeBertForSequenceClassification": "models.modeling_barcodebert",
    "BarcodeMambaConfig": "models.configuration_barcodemamba",
    "BarcodeMambaModel": "models.modeling_barcodemamba",
    "BarcodeMambaForMaskedLM": "models.modeling_barcodemamba",
    "BarcodeMambaForSequenceClassification": "models.modeling_barcodemamba",
    "AlignedBarcodeConfig": "models.configuration_alignedbarcode",
    "AlignedBarcodeModel": "models.modeling_alignedbarcode",
    "ClibdConfig": "models.configuration_clibd",
    "ClibdModel": "models.modeling_clibd",
    "ClibdProcessor": "models.processing_clibd",
    "contrastive_loss": "losses.contrastive",
    "convert_checkpoint": "checkpoints.barcodebert",
    "read_sequences": "dataset.sequences",
    "load_encoder": "encoders.barcode_encoders",
    "search_nearest": "identification.sequence_search",
    "embed": "encoders.embed",
    "knn_probe": "evaluation.probing",
    "linear_probe": "evaluation.probing",
    "probe_ranks": "evaluation.probing",
    "bayesian_zero_shot": "evaluation.bzsl",
    "genus_species_zero_shot": "evaluation.bzsl",
    "retrieval_accuracy": "evaluation.retrieval",
    "build_index": "search.index",
    "calibrate": "identification.confidence",
    "identify": "identification.confidence",
    "zero_shot_cluster": "clustering.cluster",
    "load_image_encoder": "encoders.image_encoders",
    "export_onnx": "hub.export",
}

__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'bioscan_hf' has no attribute {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])


def _register_configs() -> None:
    from transformers import AutoConfig

    from .models.configuration_clibd import ClibdConfig

    for config in (*_configs(), ClibdConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)


def _register_tokenizer() -> None:
    from transformers import AutoTokenizer

    from .models.tokenization_kmer import KmerTokenizer

    for config in _configs():
        AutoTokenizer.register(config, fast_tokenizer_class=KmerTokenizer, exist_ok=True)


def _register_processor() -> None:
    from transformers import AutoProcessor

    from .models.configuration_clibd import ClibdConfig
    from .models.processing_clibd import ClibdProcessor

    AutoProcessor.register(ClibdConfig, ClibdProcessor, exist_ok=True)


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

    from .models import modeling_alignedbarcode as aligned
    from .models import modeling_barcodebert as bert
    from .models import modeling_barcodemamba as mamba
    from .models import modeling_clibd as clibd

    for model in (
        bert.BarcodeBertModel,
        mamba.BarcodeMambaModel,
        aligned.AlignedBarcodeModel,
        clibd.ClibdModel,
    ):
        AutoModel.register(model.config_class, model, exist_ok=True)
    for masked in (bert.BarcodeBertForMaskedLM, mamba.BarcodeMambaForMaskedLM):
        AutoModelForMaskedLM.register(masked.config_class, masked, exist_ok=True)
    for classifier in (bert.BarcodeBertForSequenceClassification, mamba.BarcodeMambaForSequenceClassification):
        AutoModelForSequenceClassification.register(classifier.config_class, classifier, exist_ok=True)


def _register_pipelines() -> None:
    from .hub.pipelines import register_pipelines

    register_pipelines()


def _configs() -> tuple[Any, ...]:
    """Those of the models of barcodes, which share a tokenizer."""
    from .models.configuration_alignedbarcode import AlignedBarcodeConfig
    from .models.configuration_barcodebert import BarcodeBertConfig
    from .models.configuration_barcodemamba import BarcodeMambaConfig

    return BarcodeBertConfig, BarcodeMambaConfig, AlignedBarcodeConfig


_REGISTRATIONS = {
    "transformers.models.auto.configuration_auto": _register_configs,
    "transformers.models.auto.tokenization_auto": _register_tokenizer,
    "transformers.models.auto.processing_auto": _register_processor,
    "transformers.models.auto.modeling_auto": _register_models,
    "transformers.pipelines": _register_pipelines,
}


class _RegisterAfterImport(MetaPathFinder):
    """Runs a registration once transformers has imported the Auto* classes that it concerns.

    Modules of transformers import each other in circles, so a registration, which imports more of them, waits until
    the outermost import of a module of transformers or of ours is over.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.waiting: list[Callable[[], None]] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.split(".")[0] not in ("transformers", __name__):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            with self.importing():
                load(module)
                if fullname in _REGISTRATIONS:
                    self.waiting.append(_REGISTRATIONS.pop(fullname))

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    @contextmanager
    def importing(self) -> Iterator[None]:
        self.depth += 1
        try:
            yield
            while self.depth == 1 and self.waiting:
                self.waiting.pop(0)()
        finally:
            self.depth -= 1


_finder = _RegisterAfterImport()
sys.meta_path.insert(0, _finder)
with _finder.importing():
    _finder.waiting += [_REGISTRATIONS.pop(name) for name in list(_REGISTRATIONS) if name in sys.modules]
