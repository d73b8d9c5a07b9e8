"""CLIBD models: embeddings of any modalities, poolings, freezing, adapters, saving, and code beside the weights."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CLIBD, CLIBD_INPUTS, CLIBD_SIZES, clibd_batch, tiny_clibd
from transformers import BertConfig, BertForMaskedLM, BertModel, CLIPTextConfig, CLIPVisionConfig, TimmWrapperConfig
from transformers import TimmWrapperModel as TimmModel

from bioscan_hf.models.configuration_barcodebert import BarcodeBertConfig
from bioscan_hf.models.configuration_clibd import ClibdConfig
from bioscan_hf.models.lora import add_lora, fused_layers, load_lora
from bioscan_hf.models.modeling_barcodebert import BarcodeBertForMaskedLM, BarcodeBertModel
from bioscan_hf.models.modeling_clibd import ClibdModel


def embeds(output):
    found = output.image_embeds, output.dna_embeds, output.text_embeds
    return [vectors for vectors in found if vectors is not None]


MODALITIES = [("image", "dna"), ("image", "text"), ("dna", "text"), ("image", "dna", "text"), ("image",)]


@pytest.mark.parametrize("modalities", MODALITIES, ids="+".join)
def test_any_modalities_and_a_folder(modalities, tmp_path):
    """Unit vectors of given modalities, None for others; a saved and loaded model is equal."""
    model = tiny_clibd(*modalities)
    assert model.config.modalities == modalities
    output = model(**clibd_batch(*modalities))
    for modality in CLIBD_INPUTS:
        vectors = getattr(output, f"{modality}_embeds")
        if modality in modalities:
            assert vectors.shape == (4, 24)
            torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
            assert len(vectors.unique(dim=0)) == 4
        else:
            assert vectors is None
            with pytest.raises(ValueError, match=f"has no '{modality}'; it embeds {', '.join(modalities)}"):
                model(**clibd_batch(modality))
    model.save_pretrained(tmp_path)
    again, report = ClibdModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert again.config.modalities == modalities
    for one, other in zip(embeds(output), embeds(again(**clibd_batch(*modalities))), strict=True):
        assert torch.equal(one, other)


def test_parts_of_a_batch_and_single_calls():
    """Embeddings of one modality do not depend on the others; a tuple has the same values."""
    model, whole = tiny_clibd(), clibd_batch()
    output = model(**whole)
    assert torch.equal(model.get_image_features(whole["pixel_values"]), output.image_embeds)
    dna = model.get_dna_features(whole["dna_input_ids"], whole["dna_attention_mask"])
    text = model.get_text_features(whole["text_input_ids"], whole["text_attention_mask"])
    assert torch.equal(dna, output.dna_embeds) and torch.equal(text, output.text_embeds)
    alone = model(**clibd_batch("dna"))
    assert torch.equal(alone.dna_embeds, output.dna_embeds) and alone.image_embeds is None
    assert len(model(**whole, return_dict=False)) == 4
    torch.testing.assert_close(output.logit_scale, torch.tensor(1 / 0.07))
    one_row = model(**{key: value[:1] for key, value in whole.items()})
    torch.testing.assert_close(one_row.dna_embeds, output.dna_embeds[:1], atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="Nothing to embed"):
        model()
    with pytest.raises(ValueError, match="are torch.uint8; give normalized floats"):
        model((whole["pixel_values"] * 255).to(torch.uint8))


def test_a_tuple_has_the_order_of_the_fields():
    """Embeddings come first, for any modalities, before the temperature."""
    model = tiny_clibd().eval()
    ids = torch.tensor([[3, 4, 5]])
    output = model(dna_input_ids=ids, text_input_ids=ids)
    assert list(output) == ["dna_embeds", "text_embeds", "logit_scale"]
    first, second, scale = model(dna_input_ids=ids, text_input_ids=ids, return_dict=False)
    assert torch.equal(first, output.dna_embeds) and torch.equal(second, output.text_embeds) and scale.ndim == 0


def test_default_is_the_published_size():
    """203,117,572 published parameters, less 147,456 of adapters that conversion merges, 262,656 of BERT's unused
    pooler and 1,027 of an unused bias."""
    with torch.device("meta"):
        model = ClibdModel(ClibdConfig(dna_pooling="softmax_mean"))
        linear = ClibdModel(ClibdConfig(text_config={}, dna_config={}))
    assert sum(weight.numel() for weight in model.parameters()) == 203_117_572 - 147_456 - 262_656 - 1_027
    assert linear.config.modalities == ("dna", "text")
    assert linear.config.dna_config.max_tokens == 133
    unused = [name for name in linear.state_dict() if "pooler" in name or "cls." in name]
    assert not unused


def test_poolings_of_barcodes():
    """Effect of padding on each pooling, and the definition of the published one."""
    ids, mask = clibd_batch("dna")["dna_input_ids"], clibd_batch("dna")["dna_attention_mask"]
    changed = ids.masked_fill(mask == 0, 3)
    assert not torch.equal(ids, changed)

    model = tiny_clibd("dna")
    torch.testing.assert_close(model.get_dna_features(ids, mask), model.get_dna_features(changed, mask))
    hidden = model.dna_model(ids, mask).last_hidden_state
    mean = torch.stack([row[:n].mean(0) for row, n in zip(hidden, mask.sum(1).tolist(), strict=True)])
    expected = torch.nn.functional.normalize(model.dna_projection(mean), dim=1)
    torch.testing.assert_close(model.get_dna_features(ids, mask), expected)

    model = tiny_clibd("dna", dna_pooling="mean")
    hidden = model.dna_model(ids, mask).last_hidden_state.mean(1)
    expected = torch.nn.functional.normalize(model.dna_projection(hidden), dim=1)
    torch.testing.assert_close(model.get_dna_features(ids, mask), expected)

    model = tiny_clibd("dna", dna_pooling="softmax_mean", dna_attend_to_padding=True)
    assert torch.equal(model.get_dna_features(ids, mask), model.get_dna_features(ids))
    raw = model.dna_projection(model.dna_model(ids).last_hidden_state)
    torch.testing.assert_close(raw.sum(1), torch.ones(4))  # a distribution over the dimensions
    assert (raw > 0).all()
    torch.testing.assert_close(model.get_dna_features(ids), torch.nn.functional.normalize(raw, dim=1))


def test_poolings_of_text():
    ids, mask = clibd_batch("text").values()
    changed = ids.masked_fill(mask == 0, 3)
    model = tiny_clibd("text")
    torch.testing.assert_close(model.get_text_features(ids, mask), model.get_text_features(changed, mask))
    model = tiny_clibd("text", text_pooling="mean")
    assert not torch.allclose(model.get_text_features(ids, mask), model.get_text_features(changed, mask), atol=1e-4)
    expected = model.text_projection(model.text_model(ids, mask).last_hidden_state.mean(1))
    torch.testing.assert_close(model.get_text_features(ids, mask), torch.nn.functional.normalize(expected, dim=1))
    model = tiny_clibd("text", text_pooling="pooler")
    expected = model.text_projection(model.text_model(ids, mask).pooler_output)
    torch.testing.assert_close(model.get_text_features(ids, mask), torch.nn.functional.normalize(expected, dim=1))
    segments = torch.ones_like(ids)
    assert not torch.allclose(model.get_text_features(ids, mask, segments), model.get_text_features(ids, mask))


@pytest.mark.parametrize("architecture", ["test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
def test_any_architecture_of_timm(architecture, tmp_path):
    """Encoders with other widths and buffers are equal after saving and loading."""
    torch.manual_seed(0)
    config = ClibdConfig(image_config={"architecture": architecture}, projection_dim=8)
    model, photos = ClibdModel(config).eval(), torch.rand(2, 3, 160, 160)
    before = model.get_image_features(photos)
    model.save_pretrained(tmp_path)
    again = ClibdModel.from_pretrained(tmp_path).get_image_features(photos)
    torch.testing.assert_close(again, before, atol=1e-6, rtol=0)  # convolutions round by where the weights lie
    assert not torch.allclose(before[0], before[1])


def test_encoders_of_clip(tmp_path):
    """Any photo and text encoder of transformers fits, here CLIP's, which pools text at its last token."""
    vision = CLIPVisionConfig(**CLIBD_SIZES, image_size=32, patch_size=8)
    text = CLIPTextConfig(**CLIBD_SIZES, vocab_size=64, max_position_embeddings=32, eos_token_id=63)
    configs = {"image_config": vision.to_dict(), "text_config": text.to_dict(), "text_pooling": "pooler"}
    model = ClibdModel(ClibdConfig(**configs, projection_dim=24)).eval()
    inputs = clibd_batch("image", "text")
    inputs["text_input_ids"][:, 4] = 63
    output = model(**inputs)
    changed = inputs["text_input_ids"].clone()
    changed[:, 5:] = 1
    torch.testing.assert_close(
        model.get_text_features(changed, inputs["text_attention_mask"]), output.text_embeds, atol=1e-5, rtol=0
    )
    model.save_pretrained(tmp_path)
    again = ClibdModel.from_pretrained(tmp_path)(**inputs)
    assert torch.equal(again.image_embeds, output.image_embeds)
    assert torch.equal(again.text_embeds, output.text_embeds)


def test_contradictory_configs_raise():
    with pytest.raises(ValueError, match="Unknown dna_pooling 'max'. Choose one of masked_mean, mean, softmax_mean"):
        ClibdConfig(dna_pooling="max")
    with pytest.raises(ValueError, match="Unknown text_pooling 'cls'"):
        ClibdConfig(text_pooling="cls")
    with pytest.raises(ValueError, match="dna_config has the model_type 'bert'"):
        ClibdConfig(dna_config={"model_type": "bert"})
    with pytest.raises(ValueError, match="must be a BarcodeBertConfig"):
        ClibdConfig(dna_config=BertConfig())
    with pytest.raises(ValueError, match="projection_dim is 0"):
        ClibdConfig(projection_dim=0)
    with pytest.raises(ValueError, match="logit_scale_max is 10, but training starts at .* 14.2857"):
        ClibdConfig(logit_scale_max=10.0)
    given = {"k": 3}
    ClibdConfig(dna_config=given)
    assert given == {"k": 3}, "what the caller holds stays as it was"


def test_inverse_temperature_has_a_maximum_and_a_gradient():
    """Above the maximum it is the maximum, with a gradient; without a maximum it grows."""
    scale = tiny_clibd("dna", logit_scale_max=20.0).logit_scale
    with torch.no_grad():
        scale.log_scale.fill_(math.log(50))
    torch.testing.assert_close(scale.eval()(), torch.tensor(20.0))
    torch.testing.assert_close(scale.log_scale.exp(), torch.tensor([50.0]))
    value = scale.train()()
    torch.testing.assert_close(value, torch.tensor(20.0))
    value.backward()
    torch.testing.assert_close(scale.log_scale.grad, torch.tensor([20.0]))
    free = tiny_clibd("dna", logit_scale_max=None).logit_scale.train()
    with torch.no_grad():
        free.log_scale.fill_(math.log(500))
    torch.testing.assert_close(free(), torch.tensor(500.0))


def test_half_precision():
    """With autocast or bfloat16 weights, embeddings are float32 unit vectors near the exact ones."""
    model, exact = tiny_clibd(), embeds(tiny_clibd()(**clibd_batch()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        automatic = embeds(model(**clibd_batch()))
    for vectors in (automatic, embeds(model.to(torch.bfloat16)(**clibd_batch()))):
        for one, other in zip(vectors, exact, strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one.norm(dim=1), torch.ones(4))
            assert torch.nn.functional.cosine_similarity(one, other).min() > 0.98
    assert model.double().get_image_features(clibd_batch()["pixel_values"].double()).dtype == torch.float64


def loss(output):
    image, dna, text = embeds(output)
    return output.logit_scale * (image @ dna.T + dna @ text.T + text @ image.T).diagonal().sum()


def test_every_parameter_gets_a_gradient():
    """Distributed training would wait for the gradient of an unused parameter."""
    for options in ({}, {"dna_pooling": "softmax_mean"}):
        model = tiny_clibd(**options).train()
        loss(model(**clibd_batch())).backward()
        unused = [name for name, weight in model.named_parameters() if weight.grad is None]
        assert not unused


def test_frozen_encoders():
    model = tiny_clibd().train()
    model.freeze("image", "text")
    model.freeze("dna", projections=True)
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    heads = {f"{modality}_projection.{part}" for modality in ("image", "text") for part in ("weight", "bias")}
    assert trained == heads | {"logit_scale.log_scale"}
    assert model.train().training and not model.text_model.training, "their dropout stays off"
    assert torch.equal(model(**clibd_batch()).text_embeds, model(**clibd_batch()).text_embeds)
    with pytest.raises(ValueError, match="has no 'text'"):
        tiny_clibd("image", "dna").freeze("text")


def test_gradient_checkpointing_reaches_every_encoder():
    """Each layer runs twice, and the gradients are the same."""

    def gradients(checkpointing):
        model = tiny_clibd().train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        if checkpointing:
            enable = getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)
            enable()
        layers = [model.image_model.timm_model.blocks[0].attn.qkv, model.dna_model.encoder.layer[0].intermediate]
        layers.append(model.text_model.encoder.layer[0].intermediate)
        calls = []
        for layer in layers:
            layer.register_forward_hook(lambda module, *_: calls.append(module))
        loss(model(**clibd_batch())).backward()
        return [calls.count(layer) for layer in layers], [weight.grad for weight in model.parameters()]

    plain, expected = gradients(False)
    twice, found = gradients(True)
    assert (plain, twice) == ([1, 1, 1], [2, 2, 2])
    torch.testing.assert_close(found, expected)


def test_pretrained_encoders(tmp_path):
    """From folders or objects, without BERT's pooler and the masked-LM head."""
    torch.manual_seed(0)
    image = TimmModel(TimmWrapperConfig(**CLIBD["image_config"]))
    dna = BarcodeBertForMaskedLM(BarcodeBertConfig(**CLIBD["dna_config"]))
    text = BertForMaskedLM(BertConfig(**CLIBD["text_config"]))
    for name, encoder in (("image", image), ("dna", dna), ("text", text)):
        encoder.half().save_pretrained(tmp_path / name)
    folders = {name: tmp_path / name for name in ("image", "dna", "text")}
    model = ClibdModel.from_pretrained_towers(**folders, projection_dim=24)
    assert not model.training and {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert torch.equal(model.image_model.timm_model.pos_embed, image.timm_model.pos_embed.float())
    words = "embeddings.word_embeddings.weight"
    assert torch.equal(model.dna_model.state_dict()[words], dna.bert.state_dict()[words].float())
    assert torch.equal(model.text_model.state_dict()[words], text.bert.state_dict()[words].float())
    assert not [name for name in model.state_dict() if "pooler" in name or "cls." in name]
    model.save_pretrained(tmp_path / "all")
    assert str(tmp_path) not in (tmp_path / "all" / "config.json").read_text(), "no path of this machine is published"
    again = ClibdModel.from_pretrained(tmp_path / "all")
    assert torch.equal(again(**clibd_batch()).text_embeds, model(**clibd_batch()).text_embeds)
    objects = ClibdModel.from_pretrained_towers(
        dna=BarcodeBertModel.from_pretrained(tmp_path / "dna"), text=BertModel(BertConfig(**CLIBD["text_config"]))
    )
    assert objects.config.modalities == ("dna", "text")
    with pytest.raises(ValueError, match="No encoder is given"):
        ClibdModel.from_pretrained_towers()


# ---- adapters -------------------------------------------------------------------------------------------------------


def train(model, steps):
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(**clibd_batch())).backward()
        optimizer.step()


def test_adapters_train_only_queries_and_values(tmp_path):
    """Adapters have no effect at first; training changes only adapters, heads and temperature, and no keys in fused
    layers. Merged, saved and loaded adapters give the same embeddings, and can be trained further."""
    pytest.importorskip("peft")
    model = tiny_clibd()
    frozen = {name: weight.clone() for name, weight in model.state_dict().items()}
    before = embeds(model(**clibd_batch()))
    adapted = add_lora(model)
    for one, other in zip(before, embeds(adapted(**clibd_batch())), strict=True):
        assert torch.equal(one, other)
    train(adapted, 3)
    for name, weight in adapted.get_base_model().state_dict().items():
        plain = name.replace(".base_layer.", ".")
        if plain in frozen and "original_module" not in name:
            assert torch.equal(weight, frozen[plain]), name

    changed = {"qkv": (1, 0, 1), "query": 1, "value": 1}
    fused = list(fused_layers(adapted))
    assert len(fused) == 2
    for _, layer in fused:
        parts = layer.get_delta_weight("default").view(3, 32, 32).detach()
        assert tuple(int(part.abs().max() > 0) for part in parts) == changed["qkv"]
        assert [torch.linalg.matrix_rank(parts[i], atol=1e-7) for i in (0, 2)] == [4, 4]
    separate = [name for name in adapted.state_dict() if "lora_A" in name and "qkv" not in name]
    assert len(separate) == 2 * 2 * 2 and all(".query." in name or ".value." in name for name in separate)
    assert adapted.logit_scale().item() != pytest.approx(1 / 0.07, abs=1e-3)

    trained = embeds(adapted.eval()(**clibd_batch()))
    adapted.save_pretrained(tmp_path / "adapter")
    model = tiny_clibd()
    loaded = load_lora(model, tmp_path / "adapter")
    for one, other in zip(trained, embeds(loaded.eval()(**clibd_batch())), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(loaded.logit_scale(), adapted.logit_scale())
    train(loaded, 2)
    for _, layer in fused_layers(loaded):
        assert not layer.get_delta_weight("default")[32:64].any(), "keys are also kept after loading"
    with torch.no_grad():
        expected = embeds(loaded.eval()(**clibd_batch()))
        merged = loaded.merge_and_unload()
        merged.save_pretrained(tmp_path / "merged")
        found = embeds(ClibdModel.from_pretrained(tmp_path / "merged")(**clibd_batch()))
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_adapters_of_some_modalities_and_errors():
    pytest.importorskip("peft")
    adapted = add_lora(tiny_clibd(dna_pooling="softmax_mean"), r=2, modalities=["dna"])
    trained = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert not any("image_model" in name or "text_model" in name for name in trained)
    heads = {name.split("base_model.model.")[1].split(".modules_to_save")[0] for name in trained if "lora" not in name}
    assert heads == {"image_projection", "dna_projection.decoder", "text_projection", "logit_scale"}
    adapted = add_lora(tiny_clibd())
    free = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    assert free == 6_473, "3 x 2 x (4 x 32 x 4) of adapters, 1,024 of zero blocks, 3 x 792 of heads, 1"
    with pytest.raises(ValueError, match="has no sound; it embeds image, dna, text"):
        add_lora(tiny_clibd(), modalities=["sound"])
    with pytest.raises(ValueError, match="r is 0"):
        add_lora(tiny_clibd(), r=0)
    with pytest.raises(ValueError, match="There are no modalities to adapt"):
        add_lora(tiny_clibd(), modalities=[])
    convolutional = ClibdModel(
        ClibdConfig(image_config={"architecture": "test_resnet"}, dna_config=CLIBD_SIZES | {"k": 2})
    )
    with pytest.raises(ValueError, match="has no attention layers named"):
        add_lora(convolutional)


def test_published_training_by_low_rank(reference, tmp_path):
    """Eight steps of the published training of adapters, with three modalities, give the published losses.

    So the fused adapters of queries and values train like two separate ones.
    """
    pytest.importorskip("peft")
    import numpy as np

    from bioscan_hf.checkpoints.barcodebert import convert_checkpoint

    folder = reference / "clibd"
    numbers, told = np.load(folder / "train.npz"), json.loads((folder / "train.json").read_text())["lora_learned_temp"]
    output = convert_checkpoint(folder / "best_lora.pth", tmp_path / "out", num_attention_heads=4, adapters="keep")
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = ClibdConfig.from_pretrained(output)
    for part in (config.dna_config, config.text_config):
        part.update(still)
    model = load_lora(ClibdModel.from_pretrained(output, config=config), output / "adapter").train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-6, weight_decay=told["weight_decay"])
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, told["max_lr"], total_steps=told["total_steps"], cycle_momentum=False
    )
    losses = []
    for step in range(8):
        prefix = f"batch{step % 4}/"
        inputs = {key: torch.from_numpy(numbers[prefix + key]) for key in ("image", "dna", "input_ids")}
        mask = torch.from_numpy(numbers[f"{prefix}attention_mask"])
        output = model(inputs["image"], inputs["dna"], None, inputs["input_ids"], mask)
        vectors, rows = embeds(output), torch.arange(len(mask))
        total = sum(
            torch.nn.functional.cross_entropy(output.logit_scale * one @ other.T, rows) / 6
            for one in vectors
            for other in vectors
            if one is not other
        )
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        losses.append(total.item())
    assert losses == pytest.approx(told["losses"], abs=1e-5)
    assert model.logit_scale().log().item() == pytest.approx(told["final_logit_scale_param"], abs=1e-5)


def test_new_photo_encoder_is_initialized_as_in_timm():
    """transformers initializes convolutions with deviation 0.02; the He initialization of the first has 0.09."""
    config = ClibdConfig(
        image_config={"architecture": "resnet10t", "model_args": {"channels": [8, 8, 8, 8]}},
        dna_config={
            "k": 2,
            "hidden_size": 8,
            "num_attention_heads": 1,
            "num_hidden_layers": 1,
            "intermediate_size": 8,
        },
        projection_dim=4,
    )
    model = ClibdModel(config)
    convolutions = [module for module in model.image_model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert min(module.weight.std().item() for module in convolutions) > 0.05


def test_temperatures_without_a_dimension_load(tmp_path):
    """Version 0.1 saved the temperature and the bias as scalars, in models, training states and adapters."""
    pytest.importorskip("peft")
    model = tiny_clibd("dna", logit_bias_init_value=-10.0)
    with torch.no_grad():
        model.logit_scale.log_scale.fill_(1.5)
        model.logit_bias.bias.fill_(-8.0)
    model.save_pretrained(tmp_path / "model")
    add_lora(tiny_clibd("dna", logit_bias_init_value=-10.0)).save_pretrained(tmp_path / "adapter")
    for file in (tmp_path / "model" / "model.safetensors", tmp_path / "adapter" / "adapter_model.safetensors"):
        state = load_file(file)
        scalars = {key: weight.squeeze() for key, weight in state.items() if weight.shape == (1,)}
        assert len(scalars) == 2
        save_file(state | scalars, file, {"format": "pt"})
    old = load_file(tmp_path / "model" / "model.safetensors")
    loaded, info = ClibdModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(info.values())
    resumed = tiny_clibd("dna", logit_bias_init_value=-10.0)
    resumed.load_state_dict(old)
    for one in (loaded, resumed):
        assert one.logit_scale().item() == pytest.approx(math.exp(1.5)) and one.logit_bias() == -8
        assert all(weight.ndim for weight in one.parameters())
    adapted = load_lora(loaded, tmp_path / "adapter")
    assert adapted.logit_scale().item() == pytest.approx(1 / 0.07) and adapted.logit_bias() == -10
