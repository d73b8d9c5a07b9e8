"""Options of pretraining."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ...schema import MAX_NUCLEOTIDES
from .shared import FORCE_HELP, SOURCE_HELP, option, required


@dataclass
class PretrainingOptions:
    """Options of pretraining: data, model and loss."""

    #: Option -> heading before it in `--help`.
    HEADINGS: ClassVar[dict[str, str]] = {
        "decoder_num_hidden_layers": "Decoder, with --objective mae",
        "taxon_objective": "Names of taxa (BarcodeMAE+)",
    }

    source: str = required(SOURCE_HELP)
    preset: str = option(
        "none",
        "Recipe: 'main', 'workshop2023', 'masked-only', 'barcodemae' or 'barcodemae-plus', as published; or 'fast': "
        "the objective of 'main' in large batches for a GPU, with bfloat16, TF32, a compiled model. Other options "
        "override its values.",
    )
    train_split: str = option("pretrain", "Split to train on; 'a+b' joins two.")
    validation_split: str = option("val", "Split to validate on (its labels are not read); 'none': no validation.")
    deduplicate: str = option(
        "split",
        "'none'; 'split': one specimen per barcode in a split; 'upstream': the first specimen of each barcode in the "
        "metadata file, whatever its split, as published.",
    )
    k: int = option(4, "Nucleotides per token.")
    vocabulary: str = option(
        "barcodebert", "Vocabulary of the tokenizer; 'barcodebert-cls' has [CLS] before each barcode."
    )
    max_nucleotides: int = option(MAX_NUCLEOTIDES, "Nucleotides read of a barcode.")
    backbone: str = option("bert", "'bert', or 'mamba', a state-space encoder.")
    mamba_block: str = option(
        "plain",
        "mamba: 'plain' is Mamba-2; 'published' adds the norms and the MLP of the published BarcodeMamba, and needs "
        "--vocabulary barcodemamba, or barcodemamba-char with --k 1.",
    )
    objective: str = option(
        "masked",
        "'masked' k-mers; 'mae': the same, but the encoder does not read masked k-mers and a decoder predicts them "
        "(BarcodeMAE); or, with --backbone mamba, the 'next' k-mer.",
    )
    hidden_size: int = option(768, "Width of the encoder.")
    intermediate_size: int = option(3072, "bert: width inside the feed-forward layers.")
    num_hidden_layers: int = option(4, "Layers of the encoder.")
    num_attention_heads: int = option(4, "bert: attention heads per layer.")
    head_dim: int = option(64, "mamba: width of a head.")
    state_size: int = option(64, "mamba: size of the state of a channel.")
    dropout: float = option(
        0.1, "bert: dropout of hidden states and attention; --mamba_block published: of the embeddings."
    )
    attention_dropout: float | None = option(
        None, "bert: dropout of attention alone; 0 is faster. Default: the value of --dropout."
    )
    attention: str = option("sdpa", "bert: implementation of attention; in bfloat16 on a CPU, 'eager' is faster.")
    mlm_head: str = option("kmers", "'kmers', or 'tied' as in the models of 2023.")
    mask_ratio: float = option(0.5, "Probability of a k-mer to be masked.")
    loss_on: str = option(
        "masked",
        "'masked': masked k-mers; 'valid': also the visible ones; 'weighted': both, weighted by --masked_loss_weight; "
        "'all': every position, padding included (also with --objective next).",
    )
    masked_loss_weight: float | None = option(
        None, "With --loss_on weighted: w in w * masked loss + (1 - w) * visible loss."
    )
    mask_token_share: float = option(1.0, "Share of the masked k-mers that become the mask token.")
    random_token_share: float = option(0.0, "Share of the masked k-mers that become another k-mer.")
    mask_token_id: int | None = option(None, "Id of the mask token. Default: the published id.")
    random_offset: bool = option(True, "Draw the reading frame of each barcode in each epoch.")
    attend_padding: bool = option(False, "Attend to padding, as in 2023.")
    cut_padding: bool = option(True, "Cut each batch to its longest row.")
    sparse_loss: bool = option(True, "With --loss_on masked: compute logits only for masked k-mers.")
    force: bool = option(False, FORCE_HELP)
    decoder_num_hidden_layers: int | None = option(None, "Layers of the decoder. Default: as the encoder.")
    decoder_num_attention_heads: int | None = option(None, "Attention heads. Default: as the encoder.")
    decoder_hidden_size: int | None = option(None, "Width. Default: that of the encoder.")
    decoder_intermediate_size: int | None = option(
        None, "Width inside its feed-forward layers. Default: that of the encoder."
    )
    decoder_projection: str | None = option(
        None,
        "A linear layer before the decoder: 'always', as published, or 'auto': only if the widths differ. Default: "
        "auto.",
    )
    taxon_objective: str = option(
        "none",
        "A loss on [CLS] beside that of k-mers, as in BarcodeMAE+: 'classes' (cross-entropy), 'pairs' (of one taxon "
        "or not) or 'triplet'. Rows without a name count for the k-mers alone. Needs --vocabulary barcodebert-cls.",
    )
    taxon_rank: str | None = option(None, "Rank of the taxa, or dna_bin. Default: genus.")
    taxon_loss_weight: float | None = option(None, "Weight of this loss. Default: 0.1.")
    taxon_warmup_epochs: float | None = option(None, "Epochs over which the weight rises from 0. Default: 5.")
    taxa_per_batch: int | None = option(
        None,
        "Taxa of which each batch, over all processes, has --rows_per_taxon rows; the others are of all kinds. "
        "Default: 0, all rows at random.",
    )
    rows_per_taxon: int | None = option(None, "Rows of each of these taxa. Default: 4.")
