"""transformers' Auto* classes know BarcodeBERT once the package is imported, in whatever order that happens."""

import subprocess
import sys

import pytest

from bioscan_hf import BarcodeBertConfig, BarcodeBertForMaskedLM, KmerTokenizer

LOADS = """
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer
folder = sys.argv[1]
found = [cls.from_pretrained(folder) for cls in (AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer)]
print([f"{type(x).__module__}.{type(x).__name__}" for x in found])
"""

EXPECTED = [
    "bioscan_hf.configuration_barcodebert.BarcodeBertConfig",
    "bioscan_hf.modeling_barcodebert.BarcodeBertModel",
    "bioscan_hf.modeling_barcodebert.BarcodeBertForMaskedLM",
    "bioscan_hf.tokenization_kmer.KmerTokenizer",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    config = BarcodeBertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, k=2, vocab_size=18
    )
    BarcodeBertForMaskedLM(config).save_pretrained(folder)
    KmerTokenizer(k=2).save_pretrained(folder)
    return folder


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
def test_no_remote_code_and_no_question(folder, before):
    """transformers' modules import each other in circles, so what is imported first matters; stdin is closed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{before}\n{LOADS}", str(folder)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.stdout.strip() == str(EXPECTED), done.stderr[-2000:]
