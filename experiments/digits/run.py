"""Explore a small convolutional network on scikit-learn's real handwritten digits: needs no download.

python experiments/digits/run.py
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Subset, TensorDataset

from qexplore import predicates

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import networks  # noqa: E402
import recipe  # noqa: E402


def main() -> None:
    options = recipe.parser(__doc__.splitlines()[0], evaluations=400, max_drop=0.1)
    recipe.training_options(options, FOLDER)
    arguments = recipe.finish_options(options.parse_args(), FOLDER)
    torch.set_num_threads(1)  # so small a network gains nothing from a second core, and waits for it on a busy machine

    digits = load_digits()  # 1797 images of 8x8 pixels with 17 shades of grey
    images = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(digits.target).long()
    everything = TensorDataset(images, labels)
    train, calibration, search, report = recipe.stratified_parts(labels, [769, 128, 450, 450], arguments.seed)

    network = recipe.trained(
        "digits",
        networks.digits_network,
        TensorDataset(images[train], labels[train]),
        arguments,
        epochs=arguments.epochs or (15 if arguments.smoke else 60),
        learning_rate=0.005,
        batch_size=64,
        shift=1,
    )
    splits = recipe.Splits(
        calibration=Subset(everything, calibration.tolist()),
        search=Subset(everything, search.tolist()),
        report=Subset(everything, report.tolist()),
    )
    recipe.explore(network, predicates.by_type(nn.ReLU, nn.Linear), splits, arguments)


if __name__ == "__main__":
    main()
