"""Vocabularies of k-mers, for the tokenizer and the configurations.

Uploaded to the Hub beside the weights. Imports nothing, so that the tokenizer loads without torch.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of `KmerTokenizer`: special ones, then the k-mers of ACGT in alphabetical order, then k-mers with N.

    Attributes:
        special_tokens: Ids 0, 1, ...; the first is the mask token, the last the unknown token.
        letters: "ACGTN" if k-mers with N have ids.
        leading: Whether each barcode starts with the token of id 0.
        largest_k: Maximum of k, because the size of the vocabulary is a power of k.
    """

    special_tokens: tuple[str, ...]
    letters: str = "ACGT"
    leading: bool = False
    largest_k: int = 8

    def size(self, k: int) -> int:
        """Number of tokens."""
        return len(self.letters) ** k + len(self.special_tokens)


#: `barcodebert`: the checkpoints of BarcodeBERT since 2024; `barcodebert-n`: the same with k-mers that contain N;
#: `barcodebert-2023`: the first checkpoints; `clibd`: CLIBD and the Bayesian zero-shot classifier.
VOCABULARIES = {
    "barcodebert": Vocabulary(("[MASK]", "[UNK]")),
    "barcodebert-n": Vocabulary(("[MASK]", "[UNK]"), letters="ACGTN", largest_k=6),
    "barcodebert-2023": Vocabulary(("<MASK>", "<CLS>", "<UNK>")),
    "clibd": Vocabulary(("<MASK>", "<CLS>", "<UNK>"), leading=True),
}


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Unknown {name} {value!r}. Choose one of {', '.join(choices)}.")
