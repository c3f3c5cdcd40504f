"""From a name to a network with data, and what is said where that cannot be."""

import gzip
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import digits
from torch import nn

from qexplore.errors import DataError, MissingPackageError, QExploreError, TraceError, WorkflowError
from qexplore.pipeline import Options, Subject, Transcript, load_subject, run_pipeline
from qexplore.pipeline.images import find_images, read_images
from qexplore.pipeline.networks import SimpleCNN, resnet18
from qexplore.pipeline.text import byte_tokens, read_text, split, windows

HERE = Path(__file__).resolve().parent


@pytest.fixture
def here(monkeypatch):
    monkeypatch.chdir(HERE)


def load(name, **options):
    dialogue = Transcript()
    return load_subject(name, dialogue, Options(**options)), dialogue


def write_records(folder, count):
    random = np.random.default_rng(0)
    for name in ("data_batch_1.bin", "test_batch.bin"):
        records = random.integers(0, 256, (count, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(folder / name)


def write_idx(path, values, zipped):
    head = bytes([0, 0, 8, values.ndim]) + b"".join(int(size).to_bytes(4, "big") for size in values.shape)
    content = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(content) if zipped else content)


def write_classes(folder, count=12):
    image_module = pytest.importorskip("PIL.Image")
    random = np.random.default_rng(0)
    for name in ("cats", "dogs"):
        (folder / name).mkdir()
        for number in range(count):
            pixels = random.integers(0, 256, (20 + number, 24, 3), dtype=np.uint8)
            image_module.fromarray(pixels).save(folder / name / f"{number}.png")


# ----------------------------------------------------------------------------------------------------- networks


def test_simplecnn_is_built_as_described_with_functional_relu_and_one_pool():
    from torch import fx

    network = SimpleCNN()
    targets = [str(getattr(node.target, "__name__", node.target)) for node in fx.symbolic_trace(network).graph.nodes]
    expected = "x conv1 bn1 relu pool conv2 bn2 relu pool flatten fc1 relu fc2 output"
    assert targets == expected.split()
    assert not any(isinstance(module, nn.ReLU) for module in network.modules())
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert SimpleCNN(1, 28, 7)(torch.zeros(2, 1, 28, 28)).shape == (2, 7)
    with pytest.raises(DataError, match="must be a multiple of 4, got 30"):
        SimpleCNN(1, 30)


def test_resnet18_takes_grey_images():
    assert resnet18(1, 28, 5).eval()(torch.zeros(2, 1, 28, 28)).shape == (2, 5)


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(
        WorkflowError, match="no network 'vgg': choose one of simplecnn, resnet18, gpt2, or name a func"
    ):
        load("vgg")


@pytest.mark.parametrize(
    ("package", "extra", "name"), [("transformers", "text", "gpt2"), ("torchvision", "demo", "simplecnn")]
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, package, extra, name):
    for loaded in [one for one in sys.modules if one.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        MissingPackageError, match=rf"'{package}', which is not installed: pip install 'qexplore\[{extra}]'"
    ):
        load(name, data=None if name == "gpt2" else tmp_path)


# ---------------------------------------------------------------------------------------------------- factories


def test_network_and_loaders_are_measured_on_the_second_and_calibrated_on_the_first(here):
    subject, _ = load("own_factories:on_digits")
    assert isinstance(subject, Subject) and len(list(subject.calibration)) == 8
    assert len(list(subject.train)) == 15 and len(list(subject.held_out)) == 6
    assert subject.metric.name == "accuracy" and torch.equal(subject.example, digits().train.x[:64])


def test_network_and_example_are_measured_on_the_example(here):
    subject, dialogue = load("own_factories:example")
    assert subject.metric is None and torch.equal(subject.example, digits().calibration.x[:16])
    assert "the example input alone" in dialogue.text
    result = run_pipeline(subject, dialogue, Options(epochs=1))
    assert result.post_training.error > 0 and [p.norm for p in result.optimization.pairs] == ["norm"]
    assert dict(result.optimization.dropped) == {"drop": "Dropout"}


def test_a_network_alone_takes_a_folder_of_images(here, tmp_path):
    with pytest.raises(WorkflowError, match="returns a network alone: name a folder of images with --data DIR"):
        load("own_factories:alone")
    write_classes(tmp_path)
    subject, dialogue = load("own_factories:for_photos", data=tmp_path)
    assert "2 classes" in dialogue.text and subject.network(subject.example).shape[1] == 2


def test_a_factory_draws_what_the_seed_says_and_leaves_random_state(here):
    state = torch.get_rng_state()
    weights = [load("own_factories:random_network", seed=seed)[0].network.weight for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:factory", "there is no module 'no_such_module', neither installed nor in "),
        ("own_factories.inner:factory", "there is no module 'own_factories.inner'"),
        ("own_factories:nothing", "'own_factories' has no function 'nothing'"),
        ("own_factories:not_callable", "'own_factories' has no function 'not_callable'"),
        ("own_factories:failing", "the factory 'own_factories:failing' failed: TypeError: "),
        ("own_factories:text", r"must return a network, \(network, example_input\), .*, got str"),
        ("own_factories:with_iterator", "must be DataLoaders or lists of batches, got list_iterator"),
        ("own_factories:without_batches", "must hold at least one batch, got none"),
    ],
)
def test_factories_that_cannot_be_used_are_refused_in_a_sentence(here, name, message):
    with pytest.raises(QExploreError, match=message):
        load(name)


@pytest.mark.parametrize(
    ("name", "unused"),
    [("whole_subject", {"data", "text", "weights"}), ("on_digits", {"data", "text"}), ("example", {"data", "text"})],
)
def test_options_that_a_factory_leaves_no_use_for_are_refused_by_name(here, name, unused):
    for option in unused:
        message = f"'own_factories:{name}' returns .*, got --{option} nowhere, which would not be used: leave it out"
        with pytest.raises(WorkflowError, match=message):
            load(f"own_factories:{name}", **{option: Path("nowhere")})


def test_an_untraceable_network_is_refused_with_the_reason(here, capfd):
    subject, _ = load("own_factories:untraceable")
    for answers in ([True], [False]):  # whether the graph is shown or not
        with pytest.raises(TraceError, match="Branching is not: .*torch.export cannot take the network apart either"):
            run_pipeline(subject, Transcript(answers), Options())
    assert capfd.readouterr() == ("", "")  # torch has much to say about it


def test_weights_are_loaded_and_those_of_another_network_refused(here, tmp_path):
    first, _ = load("own_factories:example", seed=1)
    torch.save(first.network.state_dict(), tmp_path / "weights.pt")
    second, dialogue = load("own_factories:example", seed=2, weights=tmp_path / "weights.pt")
    assert torch.equal(second.network.fc.weight, first.network.fc.weight) and "Weights: " in dialogue.text
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "other.pt")
    (tmp_path / "broken.pt").write_bytes(b"no weights")
    for name in ("other.pt", "broken.pt", "missing.pt"):
        with pytest.raises(WorkflowError, match=f"{name}' must hold a state dict of Tiny"):
            load("own_factories:example", weights=tmp_path / name)


# ------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("inner", ["", "cifar-10-batches-bin"])
def test_binary_cifar10_is_read(tmp_path, inner):
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    write_records(folder, 30)
    images = read_images(tmp_path)
    assert images.name == "CIFAR-10" and images.shape == (3, 32) and len(images.test[1]) == 30
    records = np.fromfile(folder / "test_batch.bin", dtype=np.uint8).reshape(-1, 3073)
    pixels = (images.test[0] + 1) * 127.5
    assert pixels.round().to(torch.uint8).numpy().tobytes() == records[:, 1:].tobytes()
    assert images.test[1].tolist() == records[:, 0].tolist()
    (folder / "test_batch.bin").write_bytes(b"123")
    with pytest.raises(DataError, match="must hold records of 3073 bytes"):
        read_images(tmp_path)


@pytest.mark.parametrize("zipped", [False, True])
def test_fashion_mnist_is_read(tmp_path, zipped):
    end = ".gz" if zipped else ""
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 40)
    for name, values in {
        "train-images-idx3-ubyte": random.integers(0, 256, (40, 28, 28)),
        "train-labels-idx1-ubyte": labels,
        "t10k-images-idx3-ubyte": random.integers(0, 256, (20, 28, 28)),
        "t10k-labels-idx1-ubyte": labels[:20],
    }.items():
        write_idx(tmp_path / f"{name}{end}", values, zipped)
    images = read_images(tmp_path)
    assert (images.name, images.shape, images.num_classes) == ("Fashion-MNIST", (1, 28), 10)
    assert images.train[1].tolist() == labels.tolist() and len(images.test[1]) == 20
    assert -1 <= float(images.train[0].min()) < float(images.train[0].max()) <= 1


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda whole: gzip.compress(whole)[:-3], "EOFError"),
        (lambda whole: b"no archive", "BadGzipFile"),
        (lambda whole: gzip.compress(whole[:-1]), "ValueError: cannot reshape"),
        (lambda whole: gzip.compress(whole[:6]), "ValueError: buffer is smaller"),
        (lambda whole: gzip.compress(b""), r"ValueError: it begins with the bytes \(\)"),
    ],
)
def test_torn_files_of_fashion_mnist_are_refused_by_name(tmp_path, make, what):
    for name in ("train-images-idx3-ubyte", "t10k-images-idx3-ubyte"):
        write_idx(tmp_path / name, np.zeros((4, 28, 28)), zipped=False)
    for name in ("train-labels-idx1-ubyte", "t10k-labels-idx1-ubyte"):
        write_idx(tmp_path / name, np.zeros(5), zipped=False)
    with pytest.raises(DataError, match="a label for each image, got 5 and 5 labels for 4 and 4 images"):
        read_images(tmp_path)
    torn = tmp_path / "t10k-labels-idx1-ubyte"
    (tmp_path / f"{torn.name}.gz").write_bytes(make(torn.read_bytes()))
    torn.unlink()
    with pytest.raises(DataError, match=rf"{torn.name}.gz' must be a whole idx file .*1 dimensions.*{what}"):
        read_images(tmp_path)


def test_an_image_that_cannot_be_read_is_named(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "dogs" / "3.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"dogs/3.png' must be an image, but UnidentifiedImageError: "):
        read_images(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="torchvision refuses the files in .*cifar-10-batches-py': RuntimeError: "):
        read_images(tmp_path)


def test_a_folder_of_classes_is_read_and_a_fifth_held_out(tmp_path):
    write_classes(tmp_path)
    images = read_images(tmp_path, seed=1)
    assert images.shape == (3, 32) and images.num_classes == 2
    assert (len(images.train[1]), len(images.test[1])) == (20, 4)
    again, other = read_images(tmp_path, seed=1), read_images(tmp_path, seed=2)
    assert torch.equal(images.test[0], again.test[0]) and not torch.equal(images.test[0], other.test[0])


def test_folders_without_images_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no folder '"):
        read_images(tmp_path / "missing")
    with pytest.raises(
        DataError, match="must hold CIFAR-10 .*, the four files of Fashion-MNIST, or one folder of images"
    ):
        read_images(tmp_path)
    write_classes(tmp_path, count=2)
    with pytest.raises(DataError, match="must hold at least 20 images, got 4"):
        read_images(tmp_path)


def test_cifar10_in_the_folder_data_is_found_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    write_records(tmp_path / "data", 20)
    said = []
    assert find_images(lambda: False, said.append).name == "CIFAR-10" and not said


def test_what_is_there_is_taken_and_said(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("qexplore.pipeline.images.DEBIAN", tmp_path / "nothing")
    said = []
    images = find_images(lambda: False, said.append)
    assert images.name == "handwritten digits" and images.shape == (1, 8)
    assert any("taking scikit-learn's handwritten digits" in line for line in said)


# --------------------------------------------------------------------------------------------------------- text


def test_text_that_ships_with_python_is_long_enough():
    text, name = read_text(None)
    tokens = byte_tokens(text)
    pieces = windows(tokens, 64, 32, name)
    assert len(pieces) > 1000 and bytes(tokens[:50].tolist()).decode() == text[:50]
    assert torch.equal(pieces[0, -1], pieces[1, 0])  # the last target is the next piece's first input
    learned, held_out = split(pieces)
    assert len(held_out) == len(pieces) // 10 and len(learned) + len(held_out) == len(pieces)


def test_text_too_short_or_missing_is_refused_with_what_is_needed(tmp_path):
    file = tmp_path / "short.txt"
    file.write_text("Too short to learn from. " * 10)
    with pytest.raises(DataError, match=r"short\.txt is too short: it has 250 tokens, 2,049 are needed"):
        load("gpt2", text=file)
    with pytest.raises(DataError, match="--text must name a file of UTF-8 text, but '.*missing' cannot be read"):
        load("gpt2", text=tmp_path / "missing")
