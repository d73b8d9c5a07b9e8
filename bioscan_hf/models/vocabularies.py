"""Vocabularies of k-mers, for the tokenizer and the configurations.

Uploaded to the Hub beside the weights. Imports nothing, so that the tokenizer loads without torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of `KmerTokenizer`: special ones, then the k-mers of ACGT in alphabetical order, then k-mers with N."""

    special_tokens: tuple[str, ...]  # with the ids 0, 1, ...; the first is the mask token
    letters: str = "ACGT"  # "ACGTN" if k-mers with N have ids
    leading: int | None = None  # id of the token before each barcode; None without one
    left: bool = False  # whether a shorter barcode is padded with N at its start, before it is cut into k-mers
    largest_k: int = 8  # because the size of the vocabulary is a power of k

    def size(self, k: int) -> int:
        """Number of tokens."""
        return len(self.letters) ** k + len(self.special_tokens)

    @property
    def unknown(self) -> int:
        """Id of the token of k-mers without an id of their own."""
        return next(i for i, token in enumerate(self.special_tokens) if "UNK" in token)

    @property
    def num_leading(self) -> int:
        """Number of tokens before each barcode, 0 or 1."""
        return int(self.leading is not None)

    @property
    def has_cls_token(self) -> bool:
        """Whether the token before each barcode is [CLS], for an embedding of the whole barcode."""
        return self.leading is not None and "CLS" in self.special_tokens[self.leading]


#: `barcodebert`: the checkpoints of BarcodeBERT since 2024; `barcodebert-n`: the same with k-mers that contain N;
#: `barcodebert-cls`: BarcodeMAE+; `barcodebert-2023`: the first checkpoints, with as many tokens as BarcodeMAE+ in
#: another order; `clibd`: CLIBD and the Bayesian zero-shot classifier; `barcodemamba` and `barcodemamba-char`:
#: BarcodeMamba of k-mers and of single nucleotides.
VOCABULARIES = {
    "barcodebert": Vocabulary(("[MASK]", "[UNK]")),
    "barcodebert-n": Vocabulary(("[MASK]", "[UNK]"), letters="ACGTN", largest_k=6),
    "barcodebert-cls": Vocabulary(("[MASK]", "[UNK]", "[CLS]"), leading=2),
    "barcodebert-2023": Vocabulary(("<MASK>", "<CLS>", "<UNK>")),
    "clibd": Vocabulary(("<MASK>", "<CLS>", "<UNK>"), leading=0),
    "barcodemamba": Vocabulary(("[MASK]", "[SEP]", "[UNK]"), left=True),
    "barcodemamba-char": Vocabulary(("[MASK]", "[SEP]", "[UNK]"), letters="ACGTN", left=True, largest_k=1),
}


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Unknown {name} {value!r}. Choose one of {', '.join(choices)}.")
