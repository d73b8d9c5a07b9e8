"""The presets of pretraining: `fast` learns the published objective, and asks a GPU alone for what a GPU has."""

import importlib

import pytest
import torch

from bioscan_hf.training import presets

#: What decides which loss is minimised, over which tokens.
OBJECTIVE = ("vocabulary", "mlm_head", "mask_ratio", "loss_on", "mask_token_share", "random_token_share")
OBJECTIVE += ("mask_token_id", "random_offset", "attend_padding")


def test_the_fast_preset_has_the_published_objective():
    main, fast = presets.PRESETS["main"], presets.PRESETS["fast"]
    assert {name: fast[name] for name in OBJECTIVE} == {name: main[name] for name in OBJECTIVE}
    assert set(main) <= set(fast) and fast["per_device_train_batch_size"] >= 1024
    single = [preset for name, preset in presets.PRESETS.items() if name not in ("fast", "barcodemae-plus")]
    assert [preset["bf16"] for preset in single] == [False] * 4 and "torch_compile" not in main


@pytest.mark.parametrize("on_gpu", [False, True])
def test_bf16_and_compilation_are_for_a_gpu(monkeypatch, on_gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    try:
        fast = importlib.reload(presets).PRESETS["fast"]
        assert (fast["bf16"], fast["torch_compile"], fast["optim"]) == (on_gpu, on_gpu, "adamw_torch_fused")
    finally:
        monkeypatch.undo()
        importlib.reload(presets)
