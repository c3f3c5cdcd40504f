"""TensorRT engines of a quantized ONNX file and of the float network beside it: build times, sizes, latencies.

    python benchmarks/tensorrt_engine.py                                  # ResNet-20 at 8 bits, written here
    python benchmarks/tensorrt_engine.py --onnx model.onnx --float float.onnx --shape 32x3x224x224

Needs an NVIDIA GPU and the package ``tensorrt`` (10 or 11); ends with code 2 and a sentence where one is missing. Each
quantized file is checked against TensorRT's rules first. The engines run in turns, on the same random inputs; times are
those of the GPU, between two events, without copies to and from the host.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

import qexplore as qx
from qexplore import predicates

CANNOT_RUN = 2
INSTALL = "python -m pip install tensorrt"


def main() -> None:
    """Build both engines, run them in turns, print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--onnx", type=Path, help="quantized file; without it ResNet-20 is written at 8 bits")
    options.add_argument("--float", type=Path, help="file of the float network, to compare with")
    options.add_argument("--shape", default="128x1x28x28", help="of every input, such as 32x3x224x224")
    options.add_argument("--runs", type=int, default=200)
    options.add_argument("--warm-up", type=int, default=50)
    arguments = options.parse_args()
    trt = tensorrt_or_exit()
    shape = tuple(int(size) for size in arguments.shape.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        files = {"quantized": arguments.onnx, "float32": arguments.float}
        if arguments.onnx is None:
            files = written_files(Path(folder))
        check = qx.check_tensorrt(files["quantized"])
        print(check, end="\n\n")
        if not check.is_valid:
            sys.exit(f"'{files['quantized']}' breaks TensorRT's rules: write it with target='tensorrt'")
        engines = [Engine.of(trt, label, path, shape) for label, path in files.items() if path is not None]
    times = in_turns(engines, runs=arguments.runs, warm_up=arguments.warm_up)
    print(f"TensorRT {trt.__version__}, {torch.cuda.get_device_name()}, inputs of {arguments.shape}")
    print(f"{'engine':10s} {'build s':>8s} {'MiB':>8s} {'min ms':>8s} {'median ms':>10s} {'float32 / this':>15s}")
    base = median(times["float32"]) if "float32" in times else float("nan")
    for engine in engines:
        found = times[engine.label]
        print(
            f"{engine.label:10s} {engine.build_seconds:8.1f} {engine.num_bytes / 2**20:8.2f} {min(found):8.3f} "
            f"{median(found):10.3f} {base / median(found):15.2f}"
        )


def tensorrt_or_exit() -> Any:
    """The package, where it and a GPU are there; else say what is missing and end with code 2."""
    missing = []
    trt = None
    try:
        trt = importlib.import_module("tensorrt")
    except ModuleNotFoundError:
        missing.append(f"the package 'tensorrt' ({INSTALL})")
    if not torch.cuda.is_available():
        missing.append("an NVIDIA GPU that torch sees")
    if missing:
        print(f"TensorRT engines cannot be built here, for want of {' and of '.join(missing)}", file=sys.stderr)
        sys.exit(CANNOT_RUN)
    return trt


def written_files(folder: Path) -> dict[str, Path]:
    """ResNet-20 as a file at 8 bits, and as one in float."""
    from _workloads import Workload

    workload = Workload("resnet20")
    model = qx.QuantizedModel(workload.network, workload.predicate, predicates.weighted)
    model.calibrate(workload.calibration)
    files = {"quantized": folder / "quantized.onnx", "float32": folder / "float.onnx"}
    print(qx.export_onnx(model, files["quantized"], data=workload.search, target="tensorrt"), end="\n\n")
    with model.using([0] * len(model.points)):
        qx.export_onnx(model, files["float32"])
    return files


@dataclass
class Engine:
    """An engine that is ready to run, its tensors on the GPU."""

    label: str
    context: Any
    tensors: dict[str, torch.Tensor]
    build_seconds: float
    num_bytes: int

    @classmethod
    def of(cls, trt: Any, label: str, path: Path, shape: Sequence[int]) -> Engine:
        """Build the engine of the file at ``path`` for inputs of one shape."""
        logger = trt.Logger(trt.Logger.WARNING)
        start = time.perf_counter()
        plan = build_plan(trt, logger, path, shape)
        seconds = time.perf_counter() - start
        engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
        context = engine.create_execution_context()
        tensors: dict[str, torch.Tensor] = {}
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT for name in names}
        for name in sorted(names, key=lambda name: not is_input[name]):  # shapes of outputs follow from the inputs
            if is_input[name]:
                context.set_input_shape(name, tuple(shape))
            size, dtype = tuple(context.get_tensor_shape(name)), torch_dtype(trt, engine.get_tensor_dtype(name))
            tensors[name] = random_tensor(size, dtype) if is_input[name] else torch.empty(size, dtype=dtype).cuda()
            context.set_tensor_address(name, tensors[name].data_ptr())
        return cls(label, context, tensors, seconds, plan.nbytes)

    def milliseconds(self, stream: torch.cuda.Stream) -> float:
        """One run."""
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        before.record(stream)
        if not self.context.execute_async_v3(stream.cuda_stream):
            sys.exit(f"TensorRT could not run the {self.label} engine")
        after.record(stream)
        after.synchronize()
        return float(before.elapsed_time(after))


def build_plan(trt: Any, logger: Any, path: Path, shape: Sequence[int]) -> Any:
    """The serialized engine. Types are those of the file: strong typing, the only kind that TensorRT 11 has."""
    builder = trt.Builder(logger)
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        errors = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))
        sys.exit(f"TensorRT cannot read '{path}': {errors}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        profile.set_shape(network.get_input(index).name, *[tuple(shape)] * 3)  # least, usual, greatest
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        sys.exit(f"TensorRT cannot build an engine of '{path}'; its messages are above")
    return plan


def torch_dtype(trt: Any, dtype: Any) -> torch.dtype:
    """What torch calls a type of TensorRT."""
    names = {"float32": "float32", "float16": "float16", "bfloat16": "bfloat16", "int32": "int32", "int64": "int64"}
    known = {getattr(trt, name): getattr(torch, same) for name, same in names.items() if hasattr(trt, name)}
    return known[dtype]


def random_tensor(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """The same for every engine: normal, or 0 and 1 for integers."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator)
    return (values.to(dtype) if dtype.is_floating_point else (values > 0).to(dtype)).cuda()


def in_turns(engines: Sequence[Engine], *, runs: int, warm_up: int) -> dict[str, list[float]]:
    """Milliseconds of each engine's runs, one engine after the other."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())  # inputs are written there
    times: dict[str, list[float]] = {engine.label: [] for engine in engines}
    for run in range(warm_up + runs):
        for engine in engines:
            found = engine.milliseconds(stream)
            if run >= warm_up:
                times[engine.label].append(found)
    return times


if __name__ == "__main__":
    main()
