"""Registers the models, tokenizer and processor with transformers' Auto classes. Importing this file does it."""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    AutoProcessor,
    AutoTokenizer,
)

from .configuration_alignedbarcode import AlignedBarcodeConfig
from .configuration_barcodebert import BarcodeBertConfig
from .configuration_barcodemamba import BarcodeMambaConfig
from .configuration_clibd import ClibdConfig
from .modeling_alignedbarcode import AlignedBarcodeModel
from .modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertForSequenceClassification, BarcodeBertModel
from .modeling_barcodemae import BarcodeMaeForPreTraining
from .modeling_barcodemamba import (
    BarcodeMambaForMaskedLM,
    BarcodeMambaForSequenceClassification,
    BarcodeMambaModel,
)
from .modeling_clibd import ClibdModel
from .processing_clibd import ClibdProcessor
from .tokenization_kmer import KmerTokenizer

AutoConfig.register("alignedbarcode", AlignedBarcodeConfig, exist_ok=True)
AutoConfig.register("barcodebert", BarcodeBertConfig, exist_ok=True)
AutoConfig.register("barcodemamba", BarcodeMambaConfig, exist_ok=True)
AutoConfig.register("clibd", ClibdConfig, exist_ok=True)

AutoTokenizer.register(AlignedBarcodeConfig, fast_tokenizer_class=KmerTokenizer, exist_ok=True)
AutoTokenizer.register(BarcodeBertConfig, fast_tokenizer_class=KmerTokenizer, exist_ok=True)
AutoTokenizer.register(BarcodeMambaConfig, fast_tokenizer_class=KmerTokenizer, exist_ok=True)
AutoProcessor.register(ClibdConfig, ClibdProcessor, exist_ok=True)

AutoModel.register(AlignedBarcodeConfig, AlignedBarcodeModel, exist_ok=True)
AutoModel.register(BarcodeBertConfig, BarcodeBertModel, exist_ok=True)
AutoModel.register(BarcodeMambaConfig, BarcodeMambaModel, exist_ok=True)
AutoModel.register(ClibdConfig, ClibdModel, exist_ok=True)
AutoModelForMaskedLM.register(BarcodeBertConfig, BarcodeBertForMaskedLM, exist_ok=True)
AutoModelForMaskedLM.register(BarcodeMambaConfig, BarcodeMambaForMaskedLM, exist_ok=True)
AutoModelForPreTraining.register(BarcodeBertConfig, BarcodeMaeForPreTraining, exist_ok=True)
AutoModelForSequenceClassification.register(BarcodeBertConfig, BarcodeBertForSequenceClassification, exist_ok=True)
AutoModelForSequenceClassification.register(BarcodeMambaConfig, BarcodeMambaForSequenceClassification, exist_ok=True)
