"""The part of weights_front.py that runs in ModelOpt's own environment: `auto_quantize` on a saved network.

    python -m venv modelopt
    modelopt/bin/pip install nvidia-modelopt requests huggingface_hub torchvision
    modelopt/bin/python benchmarks/_modelopt.py FOLDER

FOLDER holds `task.pt`, written by weights_front.py: the network's name and weights, batches, widths, targets. The
answer is `FOLDER/answer.json`: for every calibration the seconds from the float network to the last assignment, and for
every target the width of each layer. Imports are not in the seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "experiments"))

import modelopt
import modelopt.torch.quantization as mtq
import networks
from modelopt.torch.quantization.algorithms import get_auto_quantize_config

LOSS_SCALE = 1e4
"""Sensitivities grow with its square and keep their order. Those of a mean loss are so small, 1e-8 and less, that the
integer program's absolute tolerance takes any assignment for the best and leaves most of the bits unused."""
BUILDS = {"resnet20": networks.ResNet20, "mobilenet": networks.SmallMobileNetV2}


def main() -> None:
    """Read the task, answer it once for every calibration."""
    folder = Path(sys.argv[1])
    task = torch.load(folder / "task.pt", weights_only=True)
    torch.set_num_threads(task["threads"])
    warnings.simplefilter("ignore")
    runs = {}
    for calibration in task["calibrations"]:
        network = BUILDS[task["network"]]().eval()
        network.load_state_dict(task["state"])
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            runs[calibration] = assigned(network, task, calibration)
    answer = {"version": modelopt.__version__, "torch": torch.__version__, "runs": runs}
    (folder / "answer.json").write_text(json.dumps(answer))


def assigned(network: nn.Module, task: dict[str, Any], calibration: str) -> dict[str, Any]:
    """The widths of every layer at every target, and the seconds it took."""
    formats = [weights_only(width, calibration) for width in task["widths"]]
    start, busy = time.perf_counter(), time.process_time()
    _, state = mtq.auto_quantize(
        network,
        constraints={"effective_bits": max(task["targets"])},
        quantization_formats=formats,
        # "Not quantized" is always among the formats unless a search space says that it is not.
        module_search_spaces=[
            {"module_name_patterns": "*", "quantization_formats": formats, "allow_no_quant": False},
        ],
        data_loader=task["batches"],
        forward_step=lambda model, batch: model(batch[0]),
        loss_func=lambda output, batch: LOSS_SCALE * F.cross_entropy(output, batch[1], reduction="sum"),
        num_calib_steps=0,  # ranges of weights need no data, and these passes would only cost it time
        num_score_steps=len(task["batches"]),
        method="gradient",
        verbose=False,
    )
    scored = time.perf_counter()
    assignments = {}
    for target in task["targets"]:  # the sensitivities serve every target; only the integer program runs anew
        config = get_auto_quantize_config(state, constraints={"effective_bits": target})
        assignments[str(target)] = {
            entry["quantizer_name"].removesuffix(".weight_quantizer"): entry["cfg"]["num_bits"]
            for entry in config["quant_cfg"]
            if entry["quantizer_name"].endswith(".weight_quantizer") and entry.get("cfg")
        }
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - busy,
        "score_seconds": scored - start,
        "assignments": assignments,
    }


def weights_only(width: int, calibration: str) -> dict[str, Any]:
    """A format of ModelOpt: weights of ``width`` bits, one scale per output channel, nothing else quantized."""
    return {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"num_bits": width, "axis": 0}, "enable": True},
        ],
        "algorithm": calibration,
    }


if __name__ == "__main__":
    main()
