"""transformers' Auto* classes know our models once the package is imported, in whatever order that happens."""

import subprocess
import sys

import pytest

from bioscan_hf.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.configuration_barcodemamba import BarcodeMambaConfig
from bioscan_hf.modeling_barcodebert import BarcodeBertForMaskedLM
from bioscan_hf.modeling_barcodemamba import BarcodeMambaForMaskedLM
from bioscan_hf.tokenization_kmer import KmerTokenizer

LOADS = """
from transformers import (AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification,
                          AutoTokenizer)
classes = AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
for folder in sys.argv[1:]:
    for found in [cls.from_pretrained(folder) for cls in classes]:
        print(f"{type(found).__module__}.{type(found).__name__}")
"""

EXPECTED = [
    f"bioscan_hf.{name}"
    for family in ("Bert", "Mamba")
    for name in (
        f"configuration_barcode{family.lower()}.Barcode{family}Config",
        f"modeling_barcode{family.lower()}.Barcode{family}Model",
        f"modeling_barcode{family.lower()}.Barcode{family}ForMaskedLM",
        f"modeling_barcode{family.lower()}.Barcode{family}ForSequenceClassification",
        "tokenization_kmer.KmerTokenizer",
    )
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each family."""
    bert = BarcodeBertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, k=2)
    mamba = BarcodeMambaConfig(hidden_size=16, num_hidden_layers=1, head_dim=8, state_size=4, k=2)
    folders = []
    for model in (BarcodeBertForMaskedLM(bert), BarcodeMambaForMaskedLM(mamba)):
        folders.append(tmp_path_factory.mktemp(model.config.model_type))
        model.save_pretrained(folders[-1])
        KmerTokenizer(k=2).save_pretrained(folders[-1])
    return folders


@pytest.mark.parametrize(
    "before",
    [
        "import bioscan_hf",
        "import transformers, bioscan_hf",
        "from transformers import AutoModel, AutoTokenizer; import bioscan_hf",
        "import bioscan_hf; from transformers import BertModel, Trainer",
        "import bioscan_hf, transformers.modeling_utils",
        "import bioscan_hf; from transformers import AutoConfig",
        "from bioscan_hf import BarcodeBertModel",
        "import bioscan_hf, datasets, accelerate",
    ],
)
def test_no_remote_code_and_no_question(folders, before):
    """transformers' modules import each other in circles, so what is imported first matters; stdin is closed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{before}\n{LOADS}", *map(str, folders)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.split() == EXPECTED, done.stderr[-2000:]
