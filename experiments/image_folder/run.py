"""Explore any torchvision classifier with your weights on a folder of your images.

python experiments/image_folder/run.py --model resnet18 --weights weights.pt --data DIR
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
import torchvision
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2 as transforms

from qexplore import predicates

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER.parent))

import recipe  # noqa: E402

# Modules that torchvision's attention never calls cannot be selected.
CALLED_LEAVES = predicates.leaves & ~predicates.by_name("*.out_proj")
PREDICATES = {
    "activations": predicates.by_type(
        nn.ReLU, nn.ReLU6, nn.GELU, nn.SiLU, nn.Hardswish, nn.Sigmoid, nn.Hardsigmoid, nn.Softmax
    ),
    "convolutions": predicates.by_type(nn.Conv2d),
    "leaves": CALLED_LEAVES & ~predicates.by_type(nn.Dropout, nn.Identity, nn.Flatten),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def image_folder(folder: Path, image_size: int) -> ImageFolder:
    """The images below `folder`, one subfolder a class, prepared as torchvision's classifiers expect."""
    preparation = transforms.Compose(
        [
            transforms.Resize(image_size),
            transforms.CenterCrop(image_size),
            transforms.ToImage(),
            transforms.ToDtype(torch.float32, scale=True),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    try:
        return ImageFolder(str(folder), preparation)
    except FileNotFoundError as error:
        recipe.stop(f"--data must name a folder with one subfolder of images a class: {error}")


def classifier(name: str, num_classes: int) -> nn.Module:
    """torchvision's classifier of that name, untrained."""
    try:
        return torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    except ValueError:
        known = ", ".join(torchvision.models.list_models(module=torchvision.models))
        recipe.stop(f"torchvision knows no classifier '{name}'; it knows: {known}")


def load_weights(network: nn.Module, file: Path) -> None:
    """Weights as `torch.save(network.state_dict(), file)` writes them."""
    if not file.exists():
        recipe.stop(
            f"No weights in {file}: --weights must name a file written by torch.save(network.state_dict(), FILE)."
        )
    try:
        network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (RuntimeError, KeyError) as error:
        recipe.stop(f"The weights in {file} do not fit this network and this number of classes: {error}")


def write_digits(folder: Path, image_size: int) -> None:
    """scikit-learn's handwritten digits as PNG files, a folder for each digit."""
    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images[:600], digits.target[:600], strict=True)):
        pixels = torch.from_numpy(image * 255 / 16).to(torch.uint8).expand(3, 8, 8)
        target = folder / str(label) / f"{index:04d}.png"
        target.parent.mkdir(exist_ok=True)
        torchvision.io.write_png(transforms.functional.resize(pixels, [image_size, image_size]), str(target))


def prepare_smoke(arguments: argparse.Namespace, folder: Path) -> None:
    """Images and trained weights in the forms that a user has them in, so that the ordinary path can run on them."""
    print("Smoke run: handwritten digits as image files, and weights trained on some of them for a minute at most")
    arguments.data, arguments.image_size = folder / "images", 32
    arguments.data.mkdir()
    write_digits(arguments.data, arguments.image_size)
    images = image_folder(arguments.data, arguments.image_size)
    order = recipe.stratified_order(torch.tensor(images.targets), arguments.seed)
    pixels, labels = zip(*(images[index] for index in order[:200].tolist()), strict=True)
    network = classifier(arguments.model, len(images.classes))
    data = TensorDataset(torch.stack(pixels), torch.tensor(labels))
    torch.manual_seed(arguments.seed)
    recipe.train(network, data, epochs=3, learning_rate=0.003, batch_size=50, flip=False, shift=0,
                 loss=nn.functional.cross_entropy, device=arguments.device)  # fmt: skip
    arguments.weights = folder / "weights.pt"
    recipe.save_weights(network, arguments.weights)


def run(arguments: argparse.Namespace) -> None:
    """Load, split, explore."""
    if arguments.data is None or arguments.weights is None:
        recipe.stop("Both --data DIR and --weights FILE are needed; --smoke runs without them.")
    images = image_folder(arguments.data, arguments.image_size)
    network = classifier(arguments.model, len(images.classes))
    load_weights(network, arguments.weights)
    network.to(arguments.device).eval()
    print(f"{len(images)} images of {len(images.classes)} classes from {arguments.data}")

    sizes = [arguments.calibration_size, arguments.search_size]
    if sum(sizes) >= len(images):
        recipe.stop(
            f"{len(images)} images in {arguments.data} cannot be split into {sizes[0]} to calibrate, {sizes[1]} to "
            "search and some to report: add images, or choose smaller sizes with --calibration-size and --search-size."
        )
    labels = torch.tensor(images.targets)
    calibration, search, report = (
        Subset(images, part.tolist())
        for part in recipe.stratified_parts(labels, [*sizes, len(images) - sum(sizes)], arguments.seed)
    )
    splits = recipe.Splits(calibration=calibration, search=search, report=report)
    recipe.explore(network, PREDICATES[arguments.predicate], splits, arguments)


def main() -> None:
    options = recipe.parser(__doc__.splitlines()[0], evaluations=450)
    options.add_argument("--model", default="resnet18", help="a classifier of torchvision, by name")
    options.add_argument("--weights", type=Path, metavar="FILE", help="its state dict, for as many classes as folders")
    options.add_argument("--data", type=Path, metavar="DIR", help="a folder with one subfolder of images a class")
    options.add_argument("--predicate", choices=PREDICATES, default="activations", help="where quantizers go")
    options.add_argument(
        "--image-size", type=int, metavar="N", default=224, help="images are resized and cropped to it"
    )
    options.add_argument("--calibration-size", type=int, metavar="N", help="images to calibrate on; 256")
    options.add_argument(
        "--search-size", type=int, metavar="N", help="images to search on; 2048. The rest is to report"
    )
    arguments = recipe.finish_options(options.parse_args(), FOLDER)
    arguments.calibration_size = arguments.calibration_size or (50 if arguments.smoke else 256)
    arguments.search_size = arguments.search_size or (100 if arguments.smoke else 2048)
    if not arguments.smoke:
        run(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        prepare_smoke(arguments, Path(folder))
        run(arguments)


if __name__ == "__main__":
    main()
