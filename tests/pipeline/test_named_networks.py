"""The networks that the pipeline knows by name, from end to end on real data."""

import os
import re
import subprocess
import sys

import pytest
import torch

import qexplore as qx
from qexplore.pipeline import Options, Transcript, load_subject, run_pipeline
from qexplore.stacks.packed_linear import PackedLinear

pytestmark = pytest.mark.slow


def lead(name, **options):
    dialogue, chosen = Transcript(), Options(everything=True, **options)
    return run_pipeline(load_subject(name, dialogue, chosen), dialogue, chosen), dialogue.text


def test_simplecnn_with_all_its_defaults_on_the_command_line(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "qexplore", "pipeline", "simplecnn", "--output", str(tmp_path)], input="",
        capture_output=True, text=True, check=False, timeout=900, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = done.stdout
    assert "conv1 (Conv2d) and bn1 (BatchNorm2d)" in text and "conv2 (Conv2d) and bn2 (BatchNorm2d)" in text
    assert len(re.findall(r"^  epoch \d: loss", text, flags=re.MULTILINE)) == 2 + 5
    (accuracy,) = re.findall(r"Float accuracy on held-out data: (\d\.\d+)", text)
    assert float(accuracy) > 0.75
    assert "int4 per channel, packed" in text and "Going on with the " in text
    front = qx.Front.load(tmp_path / "front.json")
    assert front.verified and len(front) > 3


def test_resnet18_is_led_through():
    result, text = lead("resnet18", train_epochs=1, epochs=1, explore=False)
    assert len(result.optimization.pairs) == 20 and result.folded
    rows = {row.name: row for row in result.post_training.strategy}
    assert str(rows["layer4.1.conv2"].weights) == "int8 per channel"
    assert str(rows["fc"].weights) == "int4 per channel, packed"
    assert result.trained is not None and "Training " in text


def test_gpt2_is_packed_trained_and_scored_on_real_text():
    result, text = lead("gpt2", epochs=1, evaluations=4)
    assert "by torch.export" in text and "perplexity" in text
    packed = [module for module in result.post_training.model.modules() if isinstance(module, PackedLinear)]
    assert packed and all(module.num_bits == 4 and module.output_quantizer.is_on for module in packed)
    assert result.trained.error < result.post_training.error
    (score,) = re.findall(r"Float perplexity on held-out data: (\d+\.\d+)", text)
    assert 1 < float(score) < 25  # of 256 bytes; no better than chance is 256
    assert result.trained.accuracy < 2 * float(score)
    assert any(row.name.endswith("wte") and not row.is_quantized for row in result.trained.strategy)
    assert result.exploration.front.verified
    with torch.no_grad():
        assert torch.isfinite(result.trained.model(torch.zeros(1, 8, dtype=torch.int64))).all()
