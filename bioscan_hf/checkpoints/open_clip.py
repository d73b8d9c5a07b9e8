"""Converts BioCLIP and other models of open_clip to `ClibdModel`, for evaluation and further training.

The encoders become CLIP encoders of transformers, so the package open_clip_torch is only needed for the conversion.
Sources: CLIP, https://arxiv.org/abs/2103.00020; BioCLIP, https://arxiv.org/abs/2311.18803
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image as PILImage
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from ..models.configuration_clibd import ClibdConfig
from ..models.modeling_barcodebert import BarcodeBertModel
from ..models.modeling_clibd import ClibdModel
from ..models.processing_clibd import ClibdProcessor
from .shapes import check_state

#: Part of a layer in open_clip's keys -> in transformers' keys, except the fused weights of attention.
LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}

PHOTOS = {
    "class_embedding": "embeddings.class_embedding",
    "positional_embedding": "embeddings.position_embedding.weight",
    "conv1.weight": "embeddings.patch_embedding.weight",
    "ln_pre.weight": "pre_layrnorm.weight",  # spelled so in transformers
    "ln_pre.bias": "pre_layrnorm.bias",
    "ln_post.weight": "post_layernorm.weight",
    "ln_post.bias": "post_layernorm.bias",
}

TEXT = {
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "positional_embedding": "embeddings.position_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}

#: Maximum number of tokens of a text, in all models of open_clip.
TEXT_LENGTH = 77


def load_open_clip(
    name: str,
    pretrained: str | None = None,
    *,
    dna: BarcodeBertModel | None = None,
    text_template: str = "taxonomic",
    text_prompt: str = "a photo of {}.",
) -> tuple[ClibdModel, ClibdProcessor]:
    """A model of open_clip as `ClibdModel`, and its processor.

    Args:
        name: Architecture, such as "ViT-B-16", or "hf-hub:imageomics/bioclip".
        pretrained: Name or file of the weights; None loads those of an "hf-hub:" and random ones otherwise.
        dna: Barcode encoder to add; its projection is new and is to be trained.
        text_template: Template of the text of a taxonomy, see `clibd_text`.
        text_prompt: Prompt with "{}" in place of the text; the default is that of BioCLIP's evaluation.

    Raises:
        ImportError: if open_clip is not installed.
        ValueError: if the encoders are not CLIP's own.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ImportError("Models of open_clip need the package open_clip_torch. Install it.") from error
    clip = open_clip.create_model(name, pretrained=pretrained)
    tokenizer = open_clip.get_tokenizer(name)
    if type(tokenizer).__name__ != "SimpleTokenizer":
        raise ValueError(f"{name} has a {type(tokenizer).__name__}, not the tokenizer of CLIP.")
    processor = ClibdProcessor(
        _image_processor(clip.visual),
        text_tokenizer=_text_tokenizer(tokenizer),
        text_template=text_template,
        text_prompt=text_prompt,
        text_max_length=TEXT_LENGTH,
    )
    return convert_open_clip(clip, dna=dna), processor


@torch.no_grad()
def convert_open_clip(clip: nn.Module, *, dna: BarcodeBertModel | None = None) -> ClibdModel:
    """An `open_clip.CLIP` as `ClibdModel`, with the same embeddings and temperature.

    Raises:
        ValueError: if the encoders are not CLIP's own (all weights that do not fit are named).
    """
    state = {key: value for key, value in clip.state_dict().items() if key != "attn_mask"}
    visual: Any = clip.visual
    if "visual.conv1.weight" not in state or "token_embedding.weight" not in state:
        raise ValueError(
            f"{type(clip).__name__} with {type(visual).__name__} is not supported: its encoders are not the "
            f"transformers of CLIP."
        )
    if (visual.pool_type, clip.text_pool_type) != ("tok", "argmax"):
        raise ValueError(
            f"Photos are pooled by {visual.pool_type!r} and text by {clip.text_pool_type!r}; supported are 'tok' and "
            f"'argmax', those of CLIP."
        )
    model = ClibdModel(_config(clip, state, dna))
    photos = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    text = {key: value for key, value in state.items() if not key.startswith(("visual.", "logit_"))}
    found = _tower("image", PHOTOS, photos) | _tower("text", TEXT, text)
    found["logit_scale.log_scale"] = state["logit_scale"].reshape(1)
    whole = model.state_dict()
    nested = {key.replace(".vision_model.", ".", 1).replace(".text_model.", ".", 1): key for key in whole}
    renamed = {nested.get(key, key): value for key, value in found.items()}  # keys depend on transformers' version
    expected = {key: value for key, value in whole.items() if not key.startswith(("dna_model.", "dna_projection."))}
    check_state("the model of open_clip", "ClibdModel", renamed, expected)
    model.load_state_dict(whole | renamed)
    if dna is not None:
        model.dna_model.load_state_dict(dna.state_dict())
    return model.eval()


def _config(clip: Any, state: dict[str, Tensor], dna: BarcodeBertModel | None) -> ClibdConfig:
    visual = clip.visual
    patches, words = state["visual.conv1.weight"], state["token_embedding.weight"]
    layer = visual.transformer.resblocks[0]
    activation = "quick_gelu" if type(layer.mlp.gelu).__name__ == "QuickGELU" else "gelu"
    photos = CLIPVisionConfig(
        hidden_size=len(patches),
        intermediate_size=len(state["visual.transformer.resblocks.0.mlp.c_fc.bias"]),
        num_hidden_layers=len(visual.transformer.resblocks),
        num_attention_heads=layer.attn.num_heads,
        image_size=visual.image_size[0],
        patch_size=patches.shape[-1],
        hidden_act=activation,
    )
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=words.shape[1],
        intermediate_size=len(state["transformer.resblocks.0.mlp.c_fc.bias"]),
        num_hidden_layers=len(clip.transformer.resblocks),
        num_attention_heads=clip.transformer.resblocks[0].attn.num_heads,
        max_position_embeddings=len(state["positional_embedding"]),
        hidden_act=activation,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,  # the largest id, where open_clip pools by argmax
    )
    return ClibdConfig(
        image_config=photos,
        dna_config=dna.config if dna is not None else None,
        text_config=text,
        text_pooling="pooler",
        projection_dim=state["visual.proj"].shape[1],
    )


def _tower(modality: str, names: dict[str, str], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of one encoder and its projection under our keys; unknown keys stay."""
    prefix, found = f"{modality}_model.", {}
    projection = "proj" if modality == "image" else "text_projection"
    for key, value in state.items():
        if key == projection:
            found[f"{modality}_projection.weight"] = value.T
            found[f"{modality}_projection.bias"] = torch.zeros(value.shape[1])  # CLIP has none
        elif key.startswith("transformer.resblocks."):
            number, _, rest = key.removeprefix("transformer.resblocks.").partition(".")
            layer = f"{prefix}encoder.layers.{number}."
            if rest.startswith("attn.in_proj_"):
                for name, part in zip("qkv", value.chunk(3), strict=True):
                    found[f"{layer}self_attn.{name}_proj.{rest.removeprefix('attn.in_proj_')}"] = part
            else:
                part_name, _, kind = rest.rpartition(".")
                found[f"{layer}{LAYER.get(part_name, part_name)}.{kind}"] = value
        else:
            found[prefix + names.get(key, key)] = value
    return found


def _image_processor(visual: Any) -> CLIPImageProcessor:
    """open_clip's default resize, crop and normalization."""
    side = visual.image_size[0]
    return CLIPImageProcessor(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        resample=PILImage.Resampling.BICUBIC,
        image_mean=list(visual.image_mean),
        image_std=list(visual.image_std),
    )


def _text_tokenizer(tokenizer: Any) -> CLIPTokenizer:
    """The tokenizer of transformers with the same tokens; the first and last have other names."""
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {special.get(token, token): number for token, number in tokenizer.encoder.items()}
    return CLIPTokenizer(vocab=vocabulary, merges=list(tokenizer.bpe_ranks))
