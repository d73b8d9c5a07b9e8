"""BIOSCAN-5M and its benchmarks for the Hugging Face ecosystem.

Importing this package is quick and loads neither torch nor transformers: each name below is imported on first use.
Once transformers itself is imported, its Auto* classes know BarcodeBERT, without remote code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_NAMES = {
    "RANKS": "taxonomy",
    "SPLITS": "taxonomy",
    "LabelMaps": "taxonomy",
    "taxonomy_text": "taxonomy",
    "load_bioscan5m": "data",
    "load_label_maps": "data",
    "make_splits": "partition",
    "simulate_release": "simulate",
    "KmerTokenizer": "tokenization_kmer",
    "BarcodeBertConfig": "configuration_barcodebert",
    "BarcodeBertModel": "modeling_barcodebert",
    "BarcodeBertForMaskedLM": "modeling_barcodebert",
    "BarcodeBertForSequenceClassification": "modeling_barcodebert",
    "embed": "embedding",
    "knn_probe": "probing",
    "linear_probe": "probing",
}

__all__ = ["__version__", *_NAMES]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'bioscan_hf' has no attribute {name!r}; it has {', '.join(__all__)}.")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])


def _register_config() -> None:
    from transformers import AutoConfig

    from .configuration_barcodebert import BarcodeBertConfig

    AutoConfig.register(BarcodeBertConfig.model_type, BarcodeBertConfig, exist_ok=True)


def _register_tokenizer() -> None:
    from transformers import AutoTokenizer

    from .configuration_barcodebert import BarcodeBertConfig
    from .tokenization_kmer import KmerTokenizer

    AutoTokenizer.register(BarcodeBertConfig, fast_tokenizer_class=KmerTokenizer, exist_ok=True)


def _register_models() -> None:
    from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

    from . import modeling_barcodebert as modeling
    from .configuration_barcodebert import BarcodeBertConfig

    AutoModel.register(BarcodeBertConfig, modeling.BarcodeBertModel, exist_ok=True)
    AutoModelForMaskedLM.register(BarcodeBertConfig, modeling.BarcodeBertForMaskedLM, exist_ok=True)
    AutoModelForSequenceClassification.register(
        BarcodeBertConfig, modeling.BarcodeBertForSequenceClassification, exist_ok=True
    )


_REGISTRATIONS = {
    "transformers.models.auto.configuration_auto": _register_config,
    "transformers.models.auto.tokenization_auto": _register_tokenizer,
    "transformers.models.auto.modeling_auto": _register_models,
}


class _RegisterAfterImport(MetaPathFinder):
    """Runs a registration once transformers has imported the Auto* classes that it concerns.

    These modules import each other, so a registration waits until the outermost of them is whole.
    """

    def __init__(self) -> None:
        self.busy = 0
        self.waiting: list[Callable[[], None]] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        register = _REGISTRATIONS.pop(fullname, None)
        if register is None:
            return None
        spec = find_spec(fullname)  # comes here again, and finds the registration taken
        if spec is None or spec.loader is None:
            return spec
        load = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.busy += 1
            try:
                load(module)
            finally:
                self.busy -= 1
            self.run(register)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def run(self, register: Callable[[], None]) -> None:
        self.waiting.append(register)
        while self.waiting and not self.busy:
            self.busy += 1
            try:
                self.waiting.pop(0)()
            finally:
                self.busy -= 1


_finder = _RegisterAfterImport()
for _module in [name for name in _REGISTRATIONS if name in sys.modules]:
    _finder.run(_REGISTRATIONS.pop(_module))
sys.meta_path.insert(0, _finder)
