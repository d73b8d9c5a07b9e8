"""Tokenizers of byte pairs of BarcodeMAE, with the ids of its models.

BarcodeMAE changes the ids of the special tokens after tokenizing, and cuts afterwards, so that a barcode that is cut
loses its [SEP]. Here both are part of a plain `tokenizer.json`.
Source: https://github.com/bioscan-ml/BarcodeMAE
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ..files import read_json

#: Special token -> id in the models of BarcodeMAE, and in the files of its tokenizers. The model's [PAD] is unused:
#: it pads with [UNK].
IDS = {"[MASK]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "[PAD]": 4}
FILE_IDS = {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "[PAD]": 3, "[MASK]": 4}


def bpe_tokenizer(folder: str | Path, max_tokens: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder with the ids of BarcodeMAE's models.

    Each barcode becomes [CLS], its pieces and [SEP], cut to `max_tokens`. An empty barcode is [CLS] alone.

    Args:
        folder: With the `tokenizer.json` of byte pairs that BarcodeMAE publishes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a tokenizer of byte pairs with BarcodeMAE's special tokens.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no {str(path)!r}. Give the folder of a tokenizer of BarcodeMAE.")
    content = read_json(path, {"model": dict})
    ids = content["model"].get("vocab")
    if not isinstance(ids, dict) or {name: ids.get(name) for name in FILE_IDS} != FILE_IDS:
        raise ValueError(
            f"{str(path)!r} is not a tokenizer of BarcodeMAE: its special tokens must be {', '.join(FILE_IDS)}, with "
            f"the ids 0 to 4."
        )
    content["model"]["vocab"] = {token: IDS.get(token, number) for token, number in ids.items()}
    # The end of the text becomes [SEP], which is found after the normalizer, and is cut off like other tokens. The
    # normalizer also reads the token itself, which must not change.
    content["normalizer"] = {"type": "Replace", "pattern": {"Regex": r"(?<!\])\z"}, "content": "[SEP]"}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}
    content["added_tokens"] = [
        {"id": number, "content": token, "normalized": token == "[SEP]", **flags} for token, number in IDS.items()
    ]
    first, text = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [IDS["[CLS]"]], "tokens": ["[CLS]"]}},
    }
    try:
        made = Tokenizer.from_str(json.dumps(content))
    except Exception as error:  # tokenizers raises bare exceptions
        raise ValueError(f"{str(path)!r} is not a tokenizer: {error}") from None
    roles = {"unk_token": "[UNK]", "pad_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=made, mask_token="[MASK]", model_max_length=max_tokens, padding_side="right", **roles
    )
