"""Presets of pretraining.

Sources: BarcodeBERT, https://arxiv.org/abs/2311.02401 (`main`: its public code for BIOSCAN-5M, and `workshop2023`: the
code of its first version); BarcodeMAE, https://github.com/bioscan-ml/BarcodeMAE (`masked-only`: its loss without its
decoder, and `barcodemae`), and its successor (`barcodemae-plus`)
"""

from __future__ import annotations

from typing import Any

import torch

_MAIN: dict[str, Any] = {
    "train_split": "pretrain+other_heldout",
    "validation_split": "train",  # only its barcodes are read
    "deduplicate": "upstream",
    "vocabulary": "barcodebert",
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "dropout": 0.1,
    "mlm_head": "kmers",
    "mask_ratio": 0.5,
    "loss_on": "valid",
    "mask_token_share": 1.0,
    "random_token_share": 0.0,
    "mask_token_id": 0,
    "random_offset": True,
    "attend_padding": False,
    "cut_padding": True,
    "learning_rate": 1e-4,
    "scale_learning_rate": True,
    "schedule": "onecycle",
    "weight_decay": 0.0,
    "decay_all_parameters": True,
    "per_device_train_batch_size": 16,
    "num_train_epochs": 35.0,
    "max_grad_norm": 0.0,  # no clipping
    "train_sampling_strategy": "random",
    "similar_lengths": False,
    "dataloader_drop_last": True,
    "bf16": False,
}

#: Its data were another release, split and deduplicated beforehand; the splits here are our choice.
_WORKSHOP_2023 = _MAIN | {
    "train_split": "pretrain",
    "validation_split": "val",
    "deduplicate": "split",
    "vocabulary": "barcodebert-2023",
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlm_head": "tied",
    "loss_on": "all",
    "mask_token_id": 1,
    "random_offset": False,
    "attend_padding": True,
    "cut_padding": False,
    "scale_learning_rate": False,
    "schedule": "epoch-warmup",
    "weight_decay": 1e-5,
    "num_train_epochs": 100.0,
    "train_sampling_strategy": "sequential",
    "dataloader_drop_last": False,
}

_ON_GPU = torch.cuda.is_available()

#: Ours: the published objective, computed as a GPU likes it. torch.compile also turns TF32 on.
_FAST = _MAIN | {
    "deduplicate": "split",
    "dropout": 0.0,
    "learning_rate": 5e-4,
    "scale_learning_rate": False,
    "per_device_train_batch_size": 1024,
    "max_grad_norm": 1.0,
    "optim": "adamw_torch_fused",
    "bf16": _ON_GPU and torch.cuda.is_bf16_supported(),
    "torch_compile": _ON_GPU,
}

_MASKED_ONLY = _MAIN | {"loss_on": "masked", "weight_decay": 1e-5, "num_train_epochs": 45.0}

_BARCODEMAE = _MASKED_ONLY | {
    "objective": "mae",
    "k": 6,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "decoder_num_hidden_layers": 6,
    "decoder_num_attention_heads": 6,
    "decoder_projection": "always",
}

#: The shape of the warm-up is not published; here the weight rises in equal steps.
_BARCODEMAE_PLUS = _BARCODEMAE | {
    "vocabulary": "barcodebert-cls",
    "decoder_projection": "auto",
    "loss_on": "weighted",
    "masked_loss_weight": 0.999,
    "taxon_objective": "classes",
    "taxon_rank": "genus",
    "taxon_loss_weight": 0.1,
    "taxon_warmup_epochs": 5.0,
    "taxa_per_batch": 16,
    "rows_per_taxon": 4,
    "learning_rate": 7e-5,
    "per_device_train_batch_size": 128,
    "num_train_epochs": 35.0,
    "max_grad_norm": 0.5,
    "bf16": _ON_GPU and torch.cuda.is_bf16_supported(),
}

#: Published recipes and "fast": preset -> option -> value.
PRESETS: dict[str, dict[str, Any]] = {
    "main": _MAIN,
    "workshop2023": _WORKSHOP_2023,
    "masked-only": _MASKED_ONLY,
    "barcodemae": _BARCODEMAE,
    "barcodemae-plus": _BARCODEMAE_PLUS,
    "fast": _FAST,
}
