"""What the experiments share: options, splits, training with kept weights, and the four steps of an exploration."""

import argparse
import hashlib
import json
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import qexplore as qx

SMOKE_EVALUATIONS = 30
CALIBRATION_SIZE = 1024


# ---------------------------------------------------------------------------------------------------- options


def parser(description: str, *, evaluations: int, max_drop: float = 0.05) -> argparse.ArgumentParser:
    """The options that every experiment has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--smoke", action="store_true", help="a quick run of the whole path on very little data")
    options.add_argument(
        "--evaluations",
        type=int,
        metavar="N",
        help=f"budget of the search in passes over the search set; {evaluations}, with --smoke {SMOKE_EVALUATIONS}",
    )
    options.add_argument(
        "--max-drop",
        type=float,
        default=max_drop,
        help="how much accuracy, between 0 and 1, a solution may lose against the float network",
    )
    options.add_argument("--algorithm", default="nsga2", help="how to search, as `explore` names it")
    options.add_argument("--seed", type=int, default=1, help="seed of splits, training and search")
    options.add_argument("--output", type=Path, metavar="DIR", help="folder for the pictures and the front's files")
    options.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to train and to search"
    )
    options.set_defaults(full_evaluations=evaluations)
    return options


def training_options(options: argparse.ArgumentParser, folder: Path) -> None:
    """The options of the experiments that train their network."""
    options.add_argument("--epochs", type=int, metavar="N", help="passes over the training data")
    options.add_argument(
        "--weights-dir", type=Path, metavar="DIR", default=folder / "weights", help="where trained weights are kept"
    )


def finish_options(arguments: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """Fill in the defaults that depend on other options."""
    if arguments.evaluations is None:
        arguments.evaluations = SMOKE_EVALUATIONS if arguments.smoke else arguments.full_evaluations
    if arguments.output is None:
        # Results of another network, or of the real run, are not written over.
        arguments.output = folder / "results" / getattr(arguments, "network", "") / ("smoke" if arguments.smoke else "")
    return arguments


def stop(sentence: str) -> NoReturn:
    """End the program with exit code 2 and a sentence that says what to do."""
    print(sentence, file=sys.stderr)
    raise SystemExit(2)


def shown(path: Path) -> Path:
    """The path as one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


# ------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Splits:
    """Three disjoint data sets, none of which the network was trained on.

    The ranges of the quantizers come from `calibration`, the search compares candidates on `search`, and
    `report` is used once, on the finished front.
    """

    calibration: Dataset
    search: Dataset
    report: Dataset


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A shuffled order of the samples in which every stretch has the classes in their overall proportions."""
    random = np.random.default_rng(seed)
    position = np.empty(len(labels))
    for label in labels.unique().tolist():
        members = random.permutation(np.flatnonzero(labels.numpy() == label))
        position[members] = (np.arange(len(members)) + random.random()) / len(members)
    return torch.from_numpy(np.argsort(position, kind="stable"))


def stratified_parts(labels: Tensor, sizes: list[int], seed: int) -> list[Tensor]:
    """Indices of disjoint parts of these sizes, each with the classes in their overall proportions."""
    if min(sizes) < 1 or sum(sizes) > len(labels):
        stop(f"{len(labels)} samples cannot be split into disjoint sets of {', '.join(map(str, sizes))}.")
    order = stratified_order(labels, seed)
    return list(torch.split(order, [*sizes, len(order) - sum(sizes)])[: len(sizes)])


def loader(dataset: Dataset, batch_size: int = 128) -> DataLoader:
    return DataLoader(dataset, batch_size=batch_size)


@torch.no_grad()
def accuracy(network: nn.Module, dataset: Dataset, device: str) -> float:
    """Share of correctly classified samples."""
    network.eval()
    correct = 0
    for images, labels in loader(dataset):
        correct += int((network(images.to(device)).argmax(1).cpu() == labels).sum())
    return correct / len(dataset)


# --------------------------------------------------------------------------------------------------- training


def random_flip(images: Tensor) -> Tensor:
    """Mirror half of the images."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def random_shift(images: Tensor, pixels: int) -> Tensor:
    """Move every image by up to so many pixels in both directions; what is uncovered is black."""
    batch, channels, height, width = images.shape
    device = images.device
    padded = F.pad(images, (pixels, pixels, pixels, pixels))
    top, left = torch.randint(0, 2 * pixels + 1, (2, batch, 1), device=device)
    rows = (top + torch.arange(height, device=device))[:, None, :, None]
    columns = (left + torch.arange(width, device=device))[:, None, None, :]
    which = torch.arange(batch, device=device)[:, None, None, None]
    return padded[which, torch.arange(channels, device=device)[None, :, None, None], rows, columns]


def train(
    network: nn.Module,
    data: TensorDataset,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    flip: bool,
    shift: int,
    loss: Callable[[Tensor, Tensor], Tensor],
    device: str,
) -> None:
    """AdamW with a one-cycle learning rate; prints about ten lines."""
    network.train().to(device, memory_format=torch.channels_last)
    images, labels = (tensor.to(device) for tensor in data.tensors)
    steps = max(1, len(images) // batch_size)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, epochs=epochs, steps_per_epoch=steps)
    for epoch in range(epochs):
        started, total = time.perf_counter(), torch.zeros((), device=device)
        order = torch.randperm(len(images), device=device)
        for chosen in order[: steps * batch_size].tensor_split(steps):
            batch = random_shift(images[chosen], shift) if shift else images[chosen]
            batch = random_flip(batch) if flip else batch
            value = loss(network(batch.contiguous(memory_format=torch.channels_last)), labels[chosen])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            total += value.detach()
        if (epoch + 1) % max(1, epochs // 10) == 0:
            seconds = time.perf_counter() - started
            print(f"  epoch {epoch + 1}/{epochs}: loss {float(total) / steps:.3f}, {seconds:.1f} s", flush=True)


def trained(
    name: str,
    build: Callable[[], nn.Module],
    data: TensorDataset,
    arguments: argparse.Namespace,
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int = 128,
    flip: bool = False,
    shift: int = 0,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> nn.Module:
    """The trained network, ready to evaluate: from kept weights when it was trained before with the same settings.

    The name of the weights file carries a checksum of everything they depend on: network, data and settings.
    """
    torch.manual_seed(arguments.seed)
    network = build()
    settings = {
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "flip": flip,
        "shift": shift,
    }
    depends_on = {
        **settings,
        "network": str(network),
        "loss": loss.__name__,
        "data": [zlib.crc32(tensor.numpy().tobytes()) for tensor in data.tensors],
        "seed": arguments.seed,
    }
    checksum = hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()[:8]
    file = arguments.weights_dir / f"{name}-{epochs}-epochs-{checksum}.pt"
    if file.exists():
        print(f"Loading the weights kept in {shown(file)}")
    else:
        print(f"Training {name} on {len(data)} images, on {arguments.device}")
        train(network, data, loss=loss, device=arguments.device, **settings)
        save_weights(network, file)
        print(f"Weights kept in {shown(file)}")
    network = build()  # the first run goes on from the file, as every later one does
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    return network.to(arguments.device).eval()


def save_weights(network: nn.Module, file: Path) -> None:
    """Write the state dict under a temporary name first, so that an interrupted run leaves no half file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".unfinished")
    torch.save(network.state_dict(), unfinished)
    unfinished.replace(file)


def train_and_explore(
    chosen: dict, first: TensorDataset, second: TensorDataset, smoke_sizes: list[int], arguments: argparse.Namespace
) -> None:
    """Train on `first` but for a slice to calibrate on; search on a part of `second` and report on the rest of it.

    `smoke_sizes` are those of a smoke run: to calibrate, to train, to search, to report.
    """
    search_size = arguments.search_size
    sizes = [CALIBRATION_SIZE, len(first) - CALIBRATION_SIZE, search_size, len(second) - search_size]
    if arguments.smoke:
        sizes = smoke_sizes
    calibration, train_part = stratified_parts(first.tensors[1], sizes[:2], arguments.seed)
    search, report = stratified_parts(second.tensors[1], sizes[2:], arguments.seed)
    training = chosen["training"] | {
        "epochs": arguments.epochs or (2 if arguments.smoke else chosen["training"]["epochs"])
    }
    network = trained(arguments.network, chosen["build"], TensorDataset(*first[train_part]), arguments, **training)
    splits = Splits(
        calibration=TensorDataset(*first[calibration]),
        search=TensorDataset(*second[search]),
        report=TensorDataset(*second[report]),
    )
    explore(network, chosen["predicate"], splits, arguments)


# ------------------------------------------------------------------------------------------------- four steps


def explore(
    network: nn.Module, predicate: Callable[..., bool], splits: Splits, arguments: argparse.Namespace
) -> "qx.Exploration":
    """Calibrate, state the problem, explore, draw: everything that uses the package is in here."""
    calibration, search, report = loader(splits.calibration), loader(splits.search), loader(splits.report)
    float_accuracy = accuracy(network, splits.search, arguments.device)
    print(
        f"\n{len(splits.calibration)} samples to calibrate, {len(splits.search)} to search, "
        f"{len(splits.report)} to report; no sample is in two sets, and none was trained on"
    )
    print(
        f"Float accuracy: {float_accuracy:.4f} on the search set, "
        f"{accuracy(network, splits.report, arguments.device):.4f} on the report set"
    )

    # 1. A quantizer behind every selected module and one before the network; their ranges from data.
    model = qx.QuantizedActivationsModel(network, predicate)
    example_input = next(iter(calibration))[0][:1].to(arguments.device)
    print(f"\n{model.describe(example_input)}")
    print(f"\n{model.calibrate(calibration)}")

    # 2. What is searched: widths from 2 to 8 bits, for high accuracy and few bits.
    problem = qx.LayerwiseQuantizationProblem(
        model,
        search,
        qx.top1_accuracy,
        num_bits_lower_limit=2,
        num_bits_upper_limit=8,
        max_drop=arguments.max_drop,
    )
    table = qx.sensitivity(problem)
    print(f"\n{table}\nMost sensitive: {', '.join(table.rank()[:5])}")

    # 3. Search; the front's points are then evaluated once more, and on the report set.
    print(f"\nSearching {arguments.evaluations} evaluations for accuracies of at least {problem.min_accuracy:.4f} ...")
    arguments.output.mkdir(parents=True, exist_ok=True)
    exploration = qx.explore(
        problem,
        max_evaluations=arguments.evaluations,
        seed=arguments.seed,
        algorithm=arguments.algorithm,
        report_loader=report,
        study=arguments.output / "study.db",  # a run that was stopped goes on from it
        on_mismatch="new",
    )
    gap = 100 * (exploration.optimism_gap or 0.0)
    print(
        f"{exploration.num_evaluations} candidates for the price of {exploration.num_passes:.0f} in "
        f"{exploration.seconds:.1f} s\n{exploration.engine}; early stop {exploration.early_stop}\n"
        f"The front looks {gap:.2f} points better on the search set than on the report set\n"
    )
    print(exploration.front)

    # 4. Pictures, and the front as files.
    files = {
        name: arguments.output / name
        for name in ("front.png", "num_bits.png", "hypervolume.png", "sensitivity.png", "front.json", "front.csv")
    }
    qx.plot_pareto_front(exploration, path=files["front.png"])
    qx.plot_num_bits(exploration, path=files["num_bits.png"])
    qx.plot_hypervolume(exploration, path=files["hypervolume.png"])
    qx.plot_sensitivity(table, path=files["sensitivity.png"])
    exploration.front.save(files["front.json"])
    exploration.front.to_csv(files["front.csv"])

    # The user picks a point; the model then computes with its widths.
    point = exploration.front.knee()
    model.num_bits = point.num_bits
    print(
        f"\nThe front's knee, {point.total_bits:.0f} bits in total, has on the report set the accuracy "
        f"{accuracy(model, splits.report, arguments.device):.4f}"
    )
    print("\nWritten:", *map(shown, files.values()), sep="\n  ")
    return exploration
