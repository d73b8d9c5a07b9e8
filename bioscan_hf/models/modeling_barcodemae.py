"""BarcodeMAE: the encoder of BarcodeBERT, pretrained as a masked autoencoder.

Masked k-mers are left out of the encoder's input, and a decoder predicts them. The encoder alone is a
`BarcodeBertModel`, which `AutoModel` opens from the same folder. Uploaded to the Hub beside the weights and the files
that it imports. Paper: https://arxiv.org/abs/2502.18405
Shape letters: B = batch, L = tokens, P = tokens of the fullest row after packing, D = hidden_size,
E = decoder_hidden_size, V = vocab_size.
"""

from typing import Any

import torch
from torch import nn
from transformers import BertConfig
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.bert.modeling_bert import BertModel, BertPreTrainedModel
from transformers.utils.generic import can_return_tuple

from .barcode_heads import IGNORED, MaskedLMMixin, count_labels, weighted_loss, without_empty
from .configuration_barcodebert import BarcodeBertConfig
from .modeling_barcodebert import BarcodeBertModel, TaxonHead

#: Id of [MASK]. Tokens with it are left out of the encoder's input.
MASK = 0

#: Vocabularies in which no other token has the id of [MASK].
MAE_VOCABULARIES = ("barcodebert", "barcodebert-n", "barcodebert-cls")


#: Fields that the decoder takes from the encoder.
SHARED = (
    *("hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob", "max_position_embeddings"),
    *("type_vocab_size", "initializer_range", "layer_norm_eps"),
)


def decoder_config(config: BarcodeBertConfig) -> BertConfig:
    """Configuration of the decoder. Its only word embedding is the one of masked tokens."""
    made = BertConfig(
        vocab_size=1,
        pad_token_id=0,
        hidden_size=config.decoder_hidden_size or config.hidden_size,
        num_hidden_layers=config.decoder_num_hidden_layers,
        num_attention_heads=config.decoder_num_attention_heads or config.num_attention_heads,
        intermediate_size=config.decoder_intermediate_size or config.intermediate_size,
        use_cache=False,
        **{name: getattr(config, name) for name in SHARED},
    )
    made._attn_implementation = config._attn_implementation
    return made


class BarcodeMaeForPreTraining(MaskedLMMixin, BertPreTrainedModel):
    """Predicts masked k-mers from the visible ones: logit j is the token id j, and only k-mers of ACGT are predicted.

    Padding is left out of the encoder's input too. Weights: `bert` (the encoder), `projection` (see
    `decoder_projection`), `decoder` (a `BertModel`; its one word embedding stands for masked tokens), `decoder_head`,
    and `taxon_head` where the config has a `taxon_objective`.

    Raises:
        ValueError: for a config without decoder layers, or with a vocabulary that has other tokens of the id of
            [MASK].
    """

    config_class = BarcodeBertConfig
    config: BarcodeBertConfig

    def __init__(self, config: BarcodeBertConfig):
        super().__init__(config)
        self.loss_type = "ForMaskedLM"  # transformers would choose a causal loss by the name of the class
        if config.decoder_num_hidden_layers < 1:
            raise ValueError("decoder_num_hidden_layers is 0, but BarcodeMAE needs a decoder. Give 1 layer or more.")
        if config.vocabulary not in MAE_VOCABULARIES:
            raise ValueError(
                f"BarcodeMAE cannot use the vocabulary {config.vocabulary!r}. Choose one of "
                f"{', '.join(MAE_VOCABULARIES)}."
            )
        width = config.decoder_hidden_size or config.hidden_size
        self.bert = BarcodeBertModel(config)
        project = config.decoder_projection == "always" or width != config.hidden_size
        self.projection = nn.Linear(config.hidden_size, width) if project else nn.Identity()
        self.decoder = BertModel(decoder_config(config), add_pooling_layer=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.decoder_head = nn.Linear(width, config.num_kmers)
        if config.taxon_objective is not None:
            self.taxon_head = TaxonHead(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        masked: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Logits (B, L, V) of the token ids at each position, and with labels the loss in nats.

        `hidden_states` are those of the packed encoder, (B, P, D); [CLS] stays first. Logits of padding mean nothing.

        Args:
            labels: Token ids (B, L), -100 for positions without prediction.
            masked: Bool (B, L), which labels count as masked in the weighted loss; None: where the token is [MASK].
            kwargs: Arguments of the encoder, and `num_items_in_batch`, see `count_labels`.
        """
        if input_ids is None:
            raise ValueError("BarcodeMAE needs input_ids, because masked tokens are known by their id.")
        weight = self.config.masked_loss_weight
        if labels is None or weight is None:
            return super().forward(input_ids, attention_mask, labels, return_dict=True, **kwargs)
        num_items_in_batch = kwargs.pop("num_items_in_batch", None)
        outputs = super().forward(input_ids, attention_mask, return_dict=True, **kwargs)
        targets = self._targets(labels)
        masked = input_ids == MASK if masked is None else masked
        own = (targets != IGNORED).sum()
        share = own / count_labels(labels, targets != IGNORED, num_items_in_batch)
        outputs.loss = share * weighted_loss(outputs.logits, targets, masked, weight)
        return outputs

    def _encode(self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None, **kwargs: Any) -> Any:
        """Outputs of the encoder for the visible tokens, but with the decoder's last hidden state (B, L, E)."""
        kwargs.pop("return_dict", None)
        ids, attention_mask = without_empty(input_ids, attention_mask)
        assert ids is not None  # forward has checked it
        order, count = pack_visible(ids, attention_mask)  # (B, P), (B,)
        place = torch.arange(order.shape[1], device=ids.device)
        attended = place < count.clamp(min=1)[:, None]  # (B, P); no row without an attended token
        outputs = self.bert(ids.gather(1, order), attended.long(), position_ids=order, return_dict=True, **kwargs)
        visible = self.projection(outputs.last_hidden_state)  # (B, P, E)
        length, width = ids.shape[1], visible.shape[-1]
        blank = self.decoder.embeddings.word_embeddings.weight[0].to(visible.dtype)  # (E,)
        target = order.masked_fill(place >= count[:, None], length)  # one place more for what is not visible
        whole = blank.expand(ids.shape[0], length + 1, width)
        whole = whole.scatter(1, target[..., None].expand_as(visible), visible)[:, :length]  # (B, L, E)
        outputs.last_hidden_state = self._decode(whole, attention_mask)
        if input_ids is not None and not input_ids.shape[1]:
            outputs.last_hidden_state = outputs.last_hidden_state[:, :0]
        return outputs

    def _decode(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Hidden states (B, L, E) of the decoder for those of visible and masked tokens (B, L, E)."""
        return self.decoder(inputs_embeds=hidden, attention_mask=attention_mask, return_dict=True).last_hidden_state

    def _predict(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._as_vocabulary(self.decoder_head(self.dropout(hidden)))


def pack_visible(ids: torch.Tensor, attention_mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions of the visible tokens of each row, in order and to the left, (B, P), and their number (B,).

    Visible are tokens that are neither [MASK] nor padding. Positions after those of a row are any others. In a
    compiled model, P is L.

    Args:
        ids: Token ids (B, L), with L of 1 or more.
        attention_mask: 1 for tokens, 0 for padding, (B, L); None: no padding.
    """
    visible = ids != MASK
    if attention_mask is not None:
        visible &= attention_mask != 0
    count = visible.sum(1)
    order = visible.int().argsort(dim=1, descending=True, stable=True)
    if torch.compiler.is_compiling():  # shapes cannot depend on values there
        return order, count
    return order[:, : max(int(count.max()), 1)], count


# `save_pretrained` and `push_to_hub` then copy this file and the files it imports.
BarcodeMaeForPreTraining.register_for_auto_class("AutoModelForPreTraining")
