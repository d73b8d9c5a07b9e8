"""Published encoders by id, as tiny random models in folders: plain ones, and such with code of their own."""

import json
from itertools import product

import pyarrow as pa
import pytest
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertModel,
    EsmConfig,
    EsmForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedTokenizerFast,
)

from bioscan_hf.encoders import hub_encoders
from bioscan_hf.encoders.barcode_encoders import load_encoder
from bioscan_hf.encoders.embed import embed
from bioscan_hf.encoders.hub_encoders import HubSettings, load_hub_encoder, load_published_barcodebert, mean_of_tokens
from bioscan_hf.models.modeling_barcodebert import BarcodeBertModel

BARCODES = ["ACGTACGTACGT", "ACGTACG", "", "TTTTACGTAGGGGGAAAAAA"]
TABLE = pa.table({"processid": list("abcd"), "dna_barcode": BARCODES})


def save_tokenizer(folder, limit=10, side="right", pad="[PAD]"):
    """A letter is a token, after [PAD], [CLS], [SEP] and [UNK]; `limit` tokens at most."""
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"ACGTN"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    specials = [("[CLS]", 1), ("[SEP]", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=specials)
    options = {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": pad}
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=limit, padding_side=side, **options
    ).save_pretrained(folder)


def letter_ids(barcode):
    return [4 + "ACGTN".index(letter) for letter in barcode]


@pytest.fixture
def bert(tmp_path):
    torch.manual_seed(0)
    config = BertConfig(vocab_size=9, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    model = BertModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path / "bert")
    save_tokenizer(tmp_path / "bert")
    return model, tmp_path / "bert"


def test_plain_model_pools_its_letters_alone(bert):
    """No special token, no padding, and the first 16 tokens of longer barcodes; nothing for an empty barcode."""
    model, folder = bert
    encoder, tokens = load_hub_encoder(str(folder), settings=HubSettings(max_tokens=16))
    result = embed(encoder, tokens, TABLE)
    assert result.valid.tolist() == [True, True, False, True] and (result.embeddings[2] == 0).all()
    for row in (0, 1, 3):
        with torch.inference_mode():
            expected = model(torch.tensor([letter_ids(BARCODES[row])[:16]])).last_hidden_state.mean(1)
        torch.testing.assert_close(torch.from_numpy(result.embeddings[row : row + 1]), expected, atol=1e-5, rtol=1e-4)
    other = load_encoder(f"hf:{folder}")
    torch.testing.assert_close(
        torch.from_numpy(embed(*other, TABLE).embeddings[:2]), torch.from_numpy(result.embeddings[:2])
    )


def test_a_batch_of_empty_barcodes(bert):
    result = embed(*load_hub_encoder(str(bert[1])), TABLE.slice(2, 1))
    assert result.embeddings.shape == (1, 16) and not result.valid.any()


def test_checkpoint_with_a_head_opens_as_its_encoder(tmp_path):
    """The layout of the Nucleotide Transformer: a masked language model of the ESM kind."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = EsmConfig(vocab_size=9, pad_token_id=0, mask_token_id=3, position_embedding_type="rotary", **shape)
    model = EsmForMaskedLM(config).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    embeddings = embed(*load_encoder(f"hf:{tmp_path}"), TABLE).embeddings
    with torch.inference_mode():
        hidden = model(torch.tensor([letter_ids(BARCODES[0])]), output_hidden_states=True).hidden_states[-1]
    torch.testing.assert_close(torch.from_numpy(embeddings[:1]), hidden.mean(1), atol=1e-5, rtol=1e-4)


#: Like published code: a table made while the model is built, a tuple as output, a config class that is not the one of
#: `auto_map`, and in some no argument for a mask.
CODE = """
from pathlib import Path
import torch
from transformers import BertConfig, PreTrainedModel
Path({marker!r}).touch()

class TinyPreTrained(PreTrainedModel):
    config_class = BertConfig
    base_model_prefix = "tiny"

class TinyModel(TinyPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.words = torch.nn.Embedding(9, config.hidden_size)
        self.decay = torch.linspace(1, 2, 64)[:, None]
        self.post_init()
    def forward(self, input_ids{argument}):
        x = self.words(input_ids) * self.decay[: input_ids.shape[1]]
        return x{use}, x[:, 0]

class TinyForMaskedLM(TinyPreTrained):
    def __init__(self, config):
        super().__init__(config)
        self.tiny = TinyModel(config)
        self.head = torch.nn.Linear(config.hidden_size, 9)
        self.post_init()
    def forward(self, input_ids):
        return self.head(self.tiny(input_ids)[0])
"""


def save_remote(folder, classes, *, masked=True, with_head=True, pickled=False, **tokenizer):
    """A repository with code of its own; its weights have a row for each token: token + column / 4."""
    folder.mkdir()
    parts = {"argument": ", attention_mask", "use": " * attention_mask[..., None]"} if masked else {}
    marker = str(folder / "ran")
    (folder / "modeling_tiny.py").write_text(CODE.format(marker=marker, **({"argument": "", "use": ""} | parts)))
    auto_map = {auto: f"modeling_tiny.{name}" for auto, name in classes.items()}
    auto_map["AutoConfig"] = "configuration_absent.TinyConfig"
    config = {"model_type": "bert", "vocab_size": 9, "hidden_size": 4, "auto_map": auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    words = torch.arange(9)[:, None] + torch.arange(4) / 4
    state = {"tiny.words.weight": words, "head.weight": torch.zeros(9, 4)} if with_head else {"words.weight": words}
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        from safetensors.torch import save_file

        save_file(state, folder / "model.safetensors")
    save_tokenizer(folder, **tokenizer)
    return words


def test_code_of_a_repository_does_not_run_unasked(tmp_path):
    """Neither by the id alone nor with the prefix, and no question is asked of a terminal."""
    folder = tmp_path / "remote"
    save_remote(folder, {"AutoModel": "TinyModel"})
    for load in (load_hub_encoder, lambda name: load_encoder(f"hf:{name}")):
        with pytest.raises(
            ValueError, match="brings code of its own .modeling_tiny.TinyModel.* trust_remote_code=True"
        ):
            load(str(folder))
    assert not (folder / "ran").exists()
    load_encoder(f"hf:{folder}", trust_remote_code=True)
    assert (folder / "ran").exists()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("encoder", {"classes": {"AutoModel": "TinyModel", "AutoModelForMaskedLM": "TinyForMaskedLM"}}),
        ("head", {"classes": {"AutoModelForMaskedLM": "TinyForMaskedLM"}}),
        ("bare", {"classes": {"AutoModel": "TinyModel"}, "with_head": False, "pickled": True}),
    ],
)
def test_remote_encoder(tmp_path, name, options):
    """ACG are the tokens 4, 5, 6 at the places 0, 1, 2 with the factors 1, 64/63, 65/63: by hand in the test.

    The table made while the model is built must hold its values, which loading by transformers' own way leaves out."""
    words = save_remote(tmp_path / name, **options)
    encoder, tokens = load_encoder(f"hf:{tmp_path / name}", trust_remote_code=True)
    with torch.inference_mode():
        output = encoder(**tokens(["ACG", "A", ""])).pooler_output
    expected = (words[4] + words[5] * 64 / 63 + words[6] * 65 / 63) / 3
    torch.testing.assert_close(output, torch.stack([expected, words[4], torch.zeros(4)]))


def test_encoder_that_is_told_no_mask(tmp_path, monkeypatch):
    """HyenaDNA's way: padded on the left to the tokenizer's limit of 6, special tokens pooled, no mask for the model.

    A is then 0 0 0 [CLS] A [SEP], pooled over the places 3, 4 and 5 with the factors 66/63, 67/63 and 68/63."""
    words = save_remote(tmp_path / "hyena", {"AutoModel": "TinyModel"}, masked=False, limit=6, side="left")
    settings = hub_encoders.PUBLISHED["LongSafari/hyenadna-tiny-1k-seqlen-d256-hf"]
    monkeypatch.setitem(hub_encoders.PUBLISHED, str(tmp_path / "hyena"), settings)
    encoder, tokens = load_encoder(str(tmp_path / "hyena"), trust_remote_code=True)  # a published id needs no prefix
    inputs = tokens(["A", "", "ACGTACGT"])
    assert inputs["input_ids"].shape == (3, 6) and inputs["attention_mask"].sum(1).tolist() == [3, 0, 6]
    with torch.inference_mode():
        output = encoder(**inputs).pooler_output
    expected = (words[1] * 66 + words[4] * 67 + words[2] * 68) / 63 / 3
    torch.testing.assert_close(output[:2], torch.stack([expected, torch.zeros(4)]))


def test_stand_in_of_gena_lm(tmp_path, monkeypatch):
    """ModernGENA's layout: a ModernBERT with a head for masked tokens; its letters alone are pooled."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    special = {f"{name}_token_id": i for i, name in enumerate(("pad", "cls", "sep"))}
    config = ModernBertConfig(vocab_size=9, **shape, **special, bos_token_id=1, eos_token_id=2)
    model = ModernBertForMaskedLM(config).eval()
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    settings = hub_encoders.PUBLISHED["AIRI-Institute/moderngena-base"]
    monkeypatch.setitem(hub_encoders.PUBLISHED, str(tmp_path), settings)
    embeddings = embed(*load_encoder(str(tmp_path)), TABLE).embeddings
    for row in (0, 1, 3):
        with torch.inference_mode():
            expected = model.model(torch.tensor([letter_ids(BARCODES[row])])).last_hidden_state.mean(1)
        torch.testing.assert_close(torch.from_numpy(embeddings[row : row + 1]), expected, atol=1e-5, rtol=1e-4)


#: Caduceus' layout: weights below `caduceus.backbone`, no mask, hidden states of both strands side by side.
CADUCEUS = """
import torch
from transformers import BertConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithNoAttention

class CaduceusPreTrainedModel(PreTrainedModel):
    config_class = BertConfig
    base_model_prefix = "caduceus"

class Caduceus(CaduceusPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.backbone = torch.nn.ModuleDict({"embeddings": torch.nn.Embedding(9, config.hidden_size)})
        self.post_init()
    def forward(self, input_ids=None, inputs_embeds=None, output_hidden_states=None, return_dict=None):
        one = self.backbone["embeddings"](input_ids)
        hidden = torch.cat([one.cumsum(1), one.flip(1).cumsum(1).flip(1)], -1)
        return BaseModelOutputWithNoAttention(last_hidden_state=hidden)

class CaduceusForMaskedLM(CaduceusPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.caduceus = Caduceus(config)
        self.post_init()
"""


def test_stand_in_of_caduceus(tmp_path, monkeypatch):
    """Padded on the left to the limit of 6; [CLS] A [SEP] are pooled in both directions, as numbers by hand."""
    from safetensors.torch import save_file

    (tmp_path / "modeling_caduceus.py").write_text(CADUCEUS)
    classes = {"AutoModel": "Caduceus", "AutoModelForMaskedLM": "CaduceusForMaskedLM"}
    auto_map = {auto: f"modeling_caduceus.{name}" for auto, name in classes.items()}
    config = {"model_type": "bert", "vocab_size": 9, "hidden_size": 2, "auto_map": auto_map}
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = torch.arange(18.0).reshape(9, 2)
    save_file({"caduceus.backbone.embeddings.weight": words}, tmp_path / "model.safetensors")
    save_tokenizer(tmp_path, limit=6, side="left")
    settings = hub_encoders.PUBLISHED["kuleshov-group/caduceus-ps_seqlen-1k_d_model-256_n_layer-4_lr-8e-3"]
    monkeypatch.setitem(hub_encoders.PUBLISHED, str(tmp_path), settings)
    with pytest.raises(ValueError, match="brings code of its own"):
        load_encoder(str(tmp_path))
    encoder, tokens = load_encoder(str(tmp_path), trust_remote_code=True)
    with torch.inference_mode():
        output = encoder(**tokens(["A", ""])).pooler_output
    pad, cls, sep, letter = words[0], words[1], words[2], words[4]
    forward = torch.stack([3 * pad + cls, 3 * pad + cls + letter, 3 * pad + cls + letter + sep]).mean(0)
    backward = torch.stack([cls + letter + sep, letter + sep, sep]).mean(0)
    torch.testing.assert_close(output, torch.stack([torch.cat([forward, backward]), torch.zeros(4)]))


def test_weights_that_lack_one_are_refused(tmp_path, bert):
    save_remote(tmp_path / "remote", {"AutoModel": "TinyModel"})
    torch.save({"tiny.other": torch.zeros(1)}, tmp_path / "remote/pytorch_model.bin")
    (tmp_path / "remote/model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"missing: words.weight \(1\)"):
        load_hub_encoder(str(tmp_path / "remote"), trust_remote_code=True)
    model, folder = bert
    state = {key: value for key, value in model.state_dict().items() if "layer.1." not in key}
    model.save_pretrained(folder, state_dict=state)
    with pytest.raises(ValueError, match=r"missing: encoder.layer.1.* \(16\)"):
        load_hub_encoder(str(folder))


def test_tokenizers_that_cannot_make_batches_are_refused(bert):
    save_tokenizer(bert[1], pad=None)
    with pytest.raises(ValueError, match="has no padding token"):
        load_hub_encoder(str(bert[1]))
    save_tokenizer(bert[1], limit=int(1e30))
    with pytest.raises(ValueError, match="has no limit to which barcodes could be padded"):
        load_hub_encoder(str(bert[1]), settings=HubSettings(max_tokens=None, attends=False))


def test_a_tokenizer_that_knows_no_token_of_a_barcode_is_refused(bert):
    """As of DNABERT, which wants 6-mers with spaces between them: every barcode would have the same embedding."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *("".join(letters) for letters in product("ACGT", repeat=6))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    assert set(whole(["ACGT" * 100])["input_ids"][0]) == {1} and whole("ACGTAC CGTACG")["input_ids"] != [1, 1]
    whole.save_pretrained(bert[1])
    with pytest.raises(ValueError, match=r"Every token of a barcode is unknown to \w+, .*k-mers with spaces between"):
        load_encoder(f"hf:{bert[1]}")


def test_output_that_is_no_vector_for_each_token_is_refused():
    class Flat(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            return (torch.zeros(len(input_ids), 4),)

    with pytest.raises(ValueError, match=r"Flat gave \(2, 4\) for tokens \(2, 3\)"):
        mean_of_tokens(Flat(), torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3))


def test_published_barcodebert_is_our_own_class(tmp_path, monkeypatch):
    """A BERT with a head for tokens over 66 tokens, so k = 3; its embedding is the mean over a barcode's tokens."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = BertForTokenClassification(BertConfig(vocab_size=66, num_labels=64, **shape)).eval()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr(hub_encoders, "BARCODEBERT", str(tmp_path))
    assert isinstance(load_encoder(f"hf:{tmp_path}")[0], BarcodeBertModel)
    encoder, tokenizer = load_encoder(str(tmp_path))
    assert isinstance(encoder, BarcodeBertModel) and tokenizer.k == 3
    ids = torch.tensor(tokenizer.encode_column(["ACGTTT"])[0][:, :2])
    with torch.inference_mode():
        expected = model(ids, output_hidden_states=True).hidden_states[-1].mean(1)
    table = pa.table({"processid": ["a"], "dna_barcode": ["ACGTTT"]})
    torch.testing.assert_close(
        torch.from_numpy(embed(encoder, tokenizer, table).embeddings), expected, atol=1e-5, rtol=1e-4
    )


def test_another_bert_is_no_barcodebert(bert):
    with pytest.raises(ValueError, match=r"of type 'bert' with 9 tokens, not a BarcodeBERT"):
        load_published_barcodebert(str(bert[1]))
