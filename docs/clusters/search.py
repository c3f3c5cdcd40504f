"""Explore a network on the workers of a Ray cluster; run again, it goes on where it was stopped.

    python search.py --workers 2

`RAY_ADDRESS` says where the cluster is; without it Ray is started on this machine. Ends with code 75 where it was told
to stop before it was done, so that whoever runs it can run it again.
"""

import argparse
import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import qexplore as qx
from qexplore import predicates

STOPPED = 75


def main() -> None:
    """Train or load the network, explore it, save the front."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--workers", type=int, help="all that the cluster has room for now, by default")
    options.add_argument("--threads", type=int, default=1, help="of each worker, and of this program")
    options.add_argument("--gpus", type=float, default=0, help="of each worker: 1, or a part where several share one")
    options.add_argument("--generation", type=int, help="candidates at once: see the page on clusters")
    options.add_argument("--evaluations", type=int, default=450)
    options.add_argument(
        "--folder", type=Path, default=Path("runs"), help="outlives this machine: study, weights, front"
    )
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    exploration = qx.explore(
        problem(arguments.folder / "network.pt", "cuda" if arguments.gpus else "cpu"),
        max_evaluations=arguments.evaluations,
        seed=1,
        generation_size=arguments.generation,
        workers=qx.RayWorkers(
            num_workers=arguments.workers, resources={"CPU": arguments.threads, "GPU": arguments.gpus}
        ),
        study=arguments.folder / "study.db",
    )
    print(exploration, exploration.workers, sep="\n")
    if exploration.stopped_by == "SIGTERM":
        sys.exit(STOPPED)
    exploration.front.save(arguments.folder / "front.json")


def problem(weights: Path, device: str) -> qx.LayerwiseQuantizationProblem:
    """Yours goes here; weights that were trained once are loaded, for the study is of these."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(digits.target)
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)),
    )
    if not weights.exists():
        train(network, images[:900], labels[:900])
        torch.save(network.state_dict(), weights)
    network.load_state_dict(torch.load(weights))
    model = qx.QuantizedActivationsModel(network.eval().to(device), predicates.by_type(nn.ReLU, nn.Linear))
    model.calibrate([images[900:1100].to(device)])
    search = list(zip(images[1100:].split(100), labels[1100:].split(100), strict=True))
    return qx.LayerwiseQuantizationProblem(model, search, max_drop=0.1)


def train(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> None:
    """A hundred steps over all images."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()


if __name__ == "__main__":
    main()
