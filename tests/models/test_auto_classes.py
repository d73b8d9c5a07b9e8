"""`bioscan_hf.auto` registers models, tokenizers, processors and pipelines with the Auto classes."""

import json
import os
import subprocess
import sys

import pytest
import torch
from tiny import tiny_clibd
from transformers import AutoProcessor, BertTokenizer

import bioscan_hf.auto  # noqa: F401
from bioscan_hf.models.configuration_alignedbarcode import AlignedBarcodeConfig
from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.configuration_barcodemamba import BarcodeMambaConfig
from bioscan_hf.models.modeling_alignedbarcode import AlignedBarcodeModel
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM
from bioscan_hf.models.modeling_barcodemamba import BarcodeMambaForMaskedLM
from bioscan_hf.models.processing_clibd import ClibdProcessor, make_image_processor
from bioscan_hf.models.tokenization_kmer import KmerTokenizer

LOADS = """
from transformers import (AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification,
                          AutoTokenizer)
classes = AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer
for folder in sys.argv[1:]:
    for found in [cls.from_pretrained(folder) for cls in classes]:
        print(f"{type(found).__module__}.{type(found).__name__}")
"""

EXPECTED = [
    f"bioscan_hf.models.{name}"
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


def run(code, *arguments):
    """Output of a new process. Its stdin is closed, so that a prompt about remote code fails."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "before",
    [
        "import bioscan_hf.auto",
        "import transformers, datasets, accelerate, bioscan_hf.auto",
        "from transformers import AutoModel, AutoTokenizer; import bioscan_hf.auto",
        "import bioscan_hf; from transformers import BertModel, Trainer, AutoConfig; bioscan_hf.KmerTokenizer",
        "from bioscan_hf import BarcodeBertModel",
        "from bioscan_hf import embed; import transformers",
    ],
)
def test_registered_in_any_order_of_imports(folders, before):
    """transformers has circular imports, so the order of imports matters."""
    assert run(f"import sys\n{before}\n{LOADS}", *folders).split() == EXPECTED


UNTOUCHED = """
import importlib.util, sys

class Hook:
    "Calls a function after a module is imported, as wrapt's post-import hooks do."
    def find_spec(self, name, path=None, target=None):
        if name == "transformers.modeling_utils":
            sys.meta_path.remove(self)
            spec = importlib.util.find_spec(name)
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda m: (execute(m), print("hook", hasattr(m, "PreTrainedModel")))
            return spec

sys.meta_path.insert(0, Hook())
import bioscan_hf
print("transformers" in sys.modules)
from bioscan_hf import RANKS, LabelMaps
sys.modules["peft"] = sys.modules["timm"] = None  # as if they were not installed
from transformers import AutoTokenizer
from transformers.modeling_utils import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pipelines import get_supported_tasks
print("barcodebert" in CONFIG_MAPPING, "dna-classification" in get_supported_tasks())
import bioscan_hf.auto
print("barcodebert" in CONFIG_MAPPING, "dna-classification" in get_supported_tasks())
"""


@pytest.mark.slow
def test_import_registers_nothing_and_does_not_change_transformers():
    """Imports of users work without optional packages, and import hooks of other packages still run."""
    assert run(UNTOUCHED).splitlines() == ["False", "hook True", "False False", "True True"]


OTHERS = """
import sys
import bioscan_hf.auto
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor, AutoTokenizer
from transformers.pipelines import get_supported_tasks
aligned, clibd = sys.argv[1:]
for folder, classes in ((aligned, (AutoConfig, AutoModel, AutoTokenizer, AutoProcessor)),
                        (clibd, (AutoConfig, AutoModel, AutoProcessor, AutoImageProcessor))):
    for found in [cls.from_pretrained(folder) for cls in classes]:
        print(type(found).__name__)
print(type(AutoTokenizer.from_pretrained(clibd, subfolder="dna_tokenizer")).__name__)
print(*[task for task in get_supported_tasks() if "dna" in task or "species" in task])
"""


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Folders of the aligned-barcode encoder with its tokenizer, and of a CLIBD with its processor."""
    aligned, clibd = tmp_path_factory.mktemp("aligned"), tmp_path_factory.mktemp("clibd")
    AlignedBarcodeModel(AlignedBarcodeConfig(positions=24, max_nucleotides=40, embedding_size=4)).save_pretrained(
        aligned
    )
    KmerTokenizer(k=1, max_nucleotides=40).save_pretrained(aligned)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "diptera", "sciaridae"]
    (clibd / "vocab.txt").write_text("\n".join(words))
    text = BertTokenizer(vocab=str(clibd / "vocab.txt"))
    (clibd / "vocab.txt").unlink()
    tiny_clibd().save_pretrained(clibd)
    processor = ClibdProcessor(make_image_processor(32), KmerTokenizer(k=2, max_nucleotides=40), text)
    processor.save_pretrained(clibd)
    return aligned, clibd


@pytest.mark.slow
def test_processors_and_tasks(others):
    """Each processor and tokenizer loads by its Auto class; the tasks of the pipelines are registered."""
    assert run(OTHERS, *others).split() == [
        *("AlignedBarcodeConfig", "AlignedBarcodeModel", "KmerTokenizer", "KmerTokenizer"),
        *("ClibdConfig", "ClibdModel", "ClibdProcessor", "CLIPImageProcessor", "KmerTokenizer"),
        *("dna-classification", "dna-feature-extraction", "zero-shot-species-retrieval"),
    ]


REMOTE = """
import sys
sys.modules["bioscan_hf"] = None  # as if it were not installed
import numpy as np, torch
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoProcessor
folder = sys.argv[1]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules"), type(processor)
photo = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)
batch = processor(images=[photo, None], dna=["ACGTACGTTA", None], text=[{"order": "Diptera"}, None])
torch.save(dict(batch), folder + "/batch.pt")
given = {name: x for name, x in batch.items() if not name.endswith("_present")}
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
torch.save(model(**given).dna_embeds, folder + "/dna.pt")
print(type(AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)).__name__)
processor.save_pretrained(folder + "/again")
"""


@pytest.mark.slow
def test_processor_loads_without_the_package(others):
    """Without this package, AutoProcessor loads the code beside the weights, makes the same batch and can be saved.

    A tokenizer is published without an auto_map, which would ask for remote code where none is needed.
    """
    folder = others[1]
    assert "auto_map" not in json.loads((folder / "dna_tokenizer" / "tokenizer_config.json").read_text())
    done = subprocess.run(
        [sys.executable, "-c", REMOTE, str(folder)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"HF_MODULES_CACHE": str(folder / "modules")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["CLIPImageProcessor"]
    made = torch.load(folder / "batch.pt")
    for where in (folder, folder / "again"):
        processor = AutoProcessor.from_pretrained(where)
        assert type(processor) is ClibdProcessor and processor.modalities == ("image", "dna", "text")
        photo = torch.arange(40 * 60 * 3).to(torch.uint8).view(40, 60, 3).numpy()
        ours = processor(images=[photo, None], dna=["ACGTACGTTA", None], text=[{"order": "Diptera"}, None])
        assert ours.keys() == made.keys()
        for name, tensor in ours.items():
            assert torch.equal(tensor, made[name]), name
    assert torch.load(folder / "dna.pt").shape == (2, 24)


def test_saving_does_not_change_a_processor(tmp_path):
    """An interrupted embedding is resumed if the processor's description is the same."""
    processor = ClibdProcessor(make_image_processor(32), KmerTokenizer(k=2, max_nucleotides=40))
    before = processor.to_json_string()
    processor.save_pretrained(tmp_path)
    assert processor.to_json_string() == before == ClibdProcessor.from_pretrained(tmp_path).to_json_string()
