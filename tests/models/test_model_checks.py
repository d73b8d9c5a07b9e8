"""The checks that transformers makes of its own models, for each of our classes: tiny, on the CPU, in float32.

transformers ships no test that could be imported (its mixins live in its repository, not in the package), so the
checks are stated here once and run over every class.
"""

import shutil

import pytest
import torch
import torch.distributed
from every_model import MODELS, inputs_of
from tiny import close

from bioscan_hf.losses.contrastive import contrastive_loss

ALL = pytest.mark.parametrize("name", MODELS)
TRANSFORMERS = [name for name in MODELS if name.startswith(("BarcodeBert", "Clibd"))]
LAYERED = [name for name in MODELS if name != "AlignedBarcodeModel"]


def loss_of(model, inputs):
    """The model's own loss; for encoders, a contrastive loss or the distance to fixed vectors."""
    output = model(**inputs)
    if "labels" in inputs:
        return output.loss
    if model.config.model_type == "clibd":
        embeddings = {"image": output.image_embeds, "dna": output.dna_embeds, "text": output.text_embeds}
        return contrastive_loss(embeddings, output.logit_scale)
    vectors = output.pooler_output
    goal = torch.linspace(-1, 1, vectors.numel()).view_as(vectors)
    return (vectors - goal).square().mean()


def tensors(output):
    """Every tensor of an output, sorted by name."""
    found = []
    for value in [output[name] for name in sorted(output.keys())]:
        found += tensors_of_tuple(value) if isinstance(value, tuple) else [value]
    return [value for value in found if isinstance(value, torch.Tensor)]


def tensors_of_tuple(values):
    return [value for value in values if isinstance(value, torch.Tensor)]


def same(one, other, tolerance):
    assert len(tensors(one)) == len(tensors(other)) > 0
    for a, b in zip(tensors(one), tensors(other), strict=True):
        close(a, b, tolerance)


@pytest.mark.slow
@ALL
def test_saved_and_loaded(name, tmp_path):
    """Bit-identical, in one file or in shards, with `low_cpu_mem_usage` and `device_map`; only safetensors."""
    model = MODELS[name]()
    inputs = inputs_of(model)
    expected = model(**inputs)
    for size in ("5GB", "4KB"):
        model.save_pretrained(tmp_path, max_shard_size=size)
        files = {path.suffix for path in tmp_path.iterdir()}
        assert ".safetensors" in files and not files & {".bin", ".pt", ".pth", ".pkl"}
        assert (tmp_path / "model.safetensors.index.json").exists() == (size == "4KB")
        for options in ({}, {"low_cpu_mem_usage": True}, {"device_map": "cpu"}):
            again, info = type(model).from_pretrained(tmp_path, output_loading_info=True, **options)
            assert not info["missing_keys"] and not info["unexpected_keys"]
            same(again.eval()(**inputs), expected, 0)
        shutil.rmtree(tmp_path)


@ALL
def test_evaluation_is_deterministic_and_training_restores(name):
    """Equal outputs in evaluation mode; one seed gives equal weights."""
    model, again = MODELS[name](), MODELS[name]()
    inputs = inputs_of(model)
    same(model(**inputs), model(**inputs), 0)
    for (key, one), (_, other) in zip(model.state_dict().items(), again.state_dict().items(), strict=True):
        assert torch.equal(one, other), key
    model.train().eval()
    same(model(**inputs), again(**inputs), 0)


@ALL
def test_training_lowers_the_loss_and_reaches_every_parameter(name):
    """Every trainable parameter gets a finite gradient, and 8 steps of AdamW lower the loss."""
    model = MODELS[name]().train()
    inputs = inputs_of(model)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    torch.manual_seed(1)
    losses = []
    for step in range(8):
        loss = loss_of(model, inputs)
        loss.backward()
        if step == 0:
            lacking = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
            lacking = [key for key in lacking if not key.startswith("taxon_head.")]  # the trainer's loss reads it
            assert not lacking, f"no gradient: {lacking}"
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0], losses


@pytest.mark.parametrize("name", LAYERED)
def test_gradient_checkpointing_gives_equal_gradients(name):
    """Also with the older, re-entrant kind; modules run a second time, or this would prove nothing."""
    found, runs = [], []
    for options in (None, {"use_reentrant": False}, {"use_reentrant": True}):
        model = MODELS[name]()
        for module in model.modules():  # no dropout, whose masks would differ
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model.train()
        if options is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)
            assert model.is_gradient_checkpointing
            model.enable_input_require_grads() if options["use_reentrant"] else None
        calls = []
        for module in model.modules():
            module.register_forward_hook(lambda *_, calls=calls: calls.append(1))
        loss_of(model, inputs_of(model)).backward()
        runs.append(len(calls))
        found.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    assert runs[0] < min(runs[1:])
    for other in found[1:]:
        assert other.keys() == found[0].keys() and any(grad.any() for grad in other.values())
        for key, grad in found[0].items():
            close(other[key], grad, 1e-6)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_attention_implementations_agree(name, monkeypatch):
    """eager and sdpa, set after loading."""
    model = MODELS[name]()
    inputs = inputs_of(model)
    outputs, runs, calls, fused = [], [], [], torch.nn.functional.scaled_dot_product_attention

    def counted(*args, **kwargs):
        calls.append(1)
        return fused(*args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counted)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        before = len(calls)
        outputs.append(model(**inputs))
        runs.append(len(calls) - before)
    assert runs[1] > runs[0], "the implementation is not changed: this would prove nothing"
    same(*outputs, 1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name.startswith("Barcode")])
def test_embeddings_are_resized(name, tmp_path):
    """New rows follow those of the vocabulary, whose outputs stay; a tied head grows too. Saved models have them."""
    model = MODELS[name]()
    inputs = {key: value for key, value in inputs_of(model).items() if key != "labels"}
    expected = tensors(model(**inputs))[0]
    before, extra = model.get_input_embeddings().num_embeddings, model.config.extra_tokens
    model.resize_token_embeddings(before + 3, mean_resizing=False)
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == before + 3
    found = tensors(model(**inputs))[0]
    if "tied" in name:
        assert found.shape[-1] == expected.shape[-1] + 3
        assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    close(found[..., : expected.shape[-1]], expected, 1e-6)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    assert (loaded.config.vocab_size, loaded.config.extra_tokens) == (before + 3, extra + 3)
    close(tensors(loaded(**inputs))[0], found, 0)
    size = before - extra
    with pytest.raises(ValueError, match=f"{size - 1} tokens are fewer than the {size} of the vocabulary"):
        model.resize_token_embeddings(size - 1)


@pytest.mark.slow
@ALL
def test_exported_program(name):
    """`torch.export` with a batch of any size gives the same output."""
    model = MODELS[name]()
    inputs = {key: value for key, value in inputs_of(model).items() if key != "labels"}
    rows = torch.export.Dim("rows", min=2, max=4096)
    shapes = {key: {0: rows} for key in inputs}
    program = torch.export.export(model, (), inputs, dynamic_shapes=shapes, strict=False)
    for count in (4, 3):
        part = {key: value[:count] for key, value in inputs.items()}
        same(program.module()(**part), model(**part), 1e-5)


@pytest.mark.slow
@ALL
def test_compiled(name):
    """One graph without breaks; it needs no C compiler."""
    torch._dynamo.reset()
    model = MODELS[name]()
    inputs = inputs_of(model)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    same(compiled(**inputs), model(**inputs), 1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile makes C++")
def test_compiled_to_machine_code():
    torch._dynamo.reset()
    model = MODELS["BarcodeBertModel"]()
    inputs = inputs_of(model)
    with torch.no_grad():
        same(torch.compile(model)(**inputs), model(**inputs), 1e-5)


@ALL
def test_loaded_in_bfloat16(name, tmp_path):
    """bfloat16 weights, unchanged integer buffers, and a finite output close to that of float32."""
    model = MODELS[name]()
    model.save_pretrained(tmp_path)
    half = type(model).from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    inputs = inputs_of(model)
    given = {key: value.bfloat16() if value.is_floating_point() else value for key, value in inputs.items()}
    for one, other in zip(tensors(half(**given)), tensors(model(**inputs)), strict=True):
        assert one.isfinite().all()
        close(one.float(), other.float(), 0.3)


@pytest.fixture(scope="module")
def process_group(tmp_path_factory):
    """One process, which is enough for torch to shard parameters and refuse those that it cannot shard."""
    from torch.distributed.device_mesh import init_device_mesh

    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@ALL
def test_fsdp_makes_the_same_step(name, process_group):
    """`fully_shard` of the layers and the model, as accelerate does: the same loss and weights after a step."""
    from torch.distributed.fsdp import fully_shard

    plain, sharded = MODELS[name](), MODELS[name]()
    for layer in sharded.modules():
        if type(layer).__name__ in ("BertLayer", "Mamba2Block", "Block"):
            fully_shard(layer, mesh=process_group)
    fully_shard(sharded, mesh=process_group)
    for model in (plain, sharded):
        optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], 0.1)
        loss_of(model, inputs_of(model)).backward()
        optimizer.step()
    start = MODELS[name]().state_dict()
    assert any(not torch.equal(weight, start[key]) for key, weight in plain.state_dict().items())
    for key, weight in sharded.state_dict().items():
        close(weight.full_tensor() if hasattr(weight, "full_tensor") else weight, plain.state_dict()[key], 1e-6)
