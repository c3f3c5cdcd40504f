"""Every step of the pipeline, every question's effect, and what it says."""

import copy
import re
from pathlib import Path

import pytest
import torch
from networks import batches, digits, trained
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import qexplore as qx
from qexplore.errors import DataError, WorkflowError
from qexplore.pipeline import Options, Subject, Transcript, load_subject, run_pipeline
from qexplore.pipeline.quantizing import measure_error
from qexplore.pipeline.trained import with_weights_of
from qexplore.stacks.packed_linear import PackedLinear

QUICK = {"epochs": 1, "evaluations": 8, "explore": False, "qat": False}


def subject(**changes):
    given = {
        "name": "small_cnn",
        "network": trained("small_cnn"),
        "calibration": batches(digits().calibration),
        "held_out": batches(digits().report),
        "train": batches(digits().train, 64),
        "metric": qx.top1_accuracy,
        "task_loss": F.cross_entropy,
    }
    return Subject(**(given | changes))


def run(one=None, answers=(), **options):
    dialogue = Transcript(answers)
    result = run_pipeline(one or subject(), dialogue, Options(**(QUICK | options)))
    return result, dialogue


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "made" / "here"
    one = subject()
    before = copy.deepcopy(one.network.state_dict())
    result, dialogue = run(one, epochs=5, explore=None, qat=None, output=folder)
    after = one.network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    return one, result, dialogue, folder


def test_defaults_are_yes_and_every_question_is_asked_once(everything):
    *_, dialogue, _ = everything
    firsts = [question.split()[0] for question, _ in dialogue.questions]
    assert firsts == ["Trace", "Analyse", "Fold", "Quantize", "Above", "Search"]
    assert all(answer for _, answer in dialogue.questions)


def test_loss_lines_are_shown_while_training_goes_on():
    dialogue, shown = Transcript(), []

    def loss(output, target):
        shown.append(len(re.findall(r"^  epoch", dialogue.text, flags=re.MULTILINE)))
        return F.cross_entropy(output, target)

    one = subject(train=batches(digits().train)[:2], task_loss=loss)
    options = Options(**(QUICK | {"qat": True, "qat_loss": "task", "epochs": 3, "threshold": 0.0}))
    run_pipeline(one, dialogue, options)
    assert shown == [0, 0, 1, 1, 2, 2]


def test_graph_is_shown_before_and_after(everything):
    _, result, dialogue, _ = everything
    assert dialogue.text.count("opcode       name     target   args      kwargs") == 2
    assert str(result.graph) in dialogue.text and str(result.optimization.after) in dialogue.text
    assert len(result.optimization.after) == len(result.graph) - 2


def test_every_pair_is_named(everything):
    *_, dialogue, _ = everything
    assert "conv1 (Conv2d) and bn1 (BatchNorm2d)\n  conv2 (Conv2d) and bn2 (BatchNorm2d)" in dialogue.text


def test_strategy_says_what_the_modules_are(everything):
    _, result, dialogue, _ = everything
    rows = {row.name: row for row in result.post_training.strategy}
    for name in ("conv1", "conv2"):
        weight = result.post_training.model.get_submodule(name).weight()
        assert weight.dtype == torch.qint8 and weight.qscheme() == torch.per_channel_affine
        assert (str(rows[name].weights), str(rows[name].activations)) == (
            "int8 per channel",
            "uint8 per tensor, affine",
        )
    assert (rows["pool"].weights, str(rows["pool"].activations)) == (None, "uint8 per tensor, affine")
    for name in ("fc1", "fc2"):
        module = result.post_training.model.get_submodule(name)
        assert isinstance(module, PackedLinear) and module.num_bits == 4
        assert str(rows[name].weights) == "int4 per channel, packed"
    assert all(row.reason for row in rows.values())
    assert result.post_training.table in dialogue.text and "Left float: " in dialogue.text
    assert "engine" in result.post_training.backend


def test_error_is_the_mean_squared_difference_on_held_out_data(everything):
    one, result, dialogue, _ = everything
    with torch.no_grad():
        difference = one.network(digits().report.x) - result.post_training.model(digits().report.x)
    assert result.post_training.error == pytest.approx(float(difference.square().mean()), rel=1e-4)
    assert f"Quantization error, post-training: {result.post_training.error:.3e}" in dialogue.text


def test_training_helps_four_bit_layers_and_is_said_to(everything):
    _, result, dialogue, _ = everything
    assert result.trained.error < 0.5 * result.post_training.error
    assert result.quantized is result.trained
    assert len(re.findall(r"^  epoch \d: loss \d\.\d+", dialogue.text, flags=re.MULTILINE)) == 5
    verdict = f"the error falls from {result.post_training.error:.3e} to {result.trained.error:.3e}"
    assert f"Training made it better: {verdict}" in dialogue.text
    assert result.trained.accuracy > 0.9


def test_front_is_printed(everything):
    _, result, dialogue, _ = everything
    assert result.exploration.front.verified and str(result.exploration.front) in dialogue.text


def test_what_was_made_is_written(everything):
    _, result, dialogue, folder = everything
    names = ["graph_before.txt", "graph_after.txt", "strategy.txt", "quantized.pt"]
    names += ["front.json", "front.png", "explored.pt"]
    assert sorted(file.name for file in folder.iterdir()) == sorted(names)
    assert f"Written to {folder}: {', '.join(names)}" in dialogue.text
    loaded = qx.load_quantized(folder / "quantized.pt", result.optimization.network)
    with torch.no_grad():
        assert torch.equal(loaded(digits().report.x), result.quantized.model(digits().report.x))
    assert (folder / "strategy.txt").read_text().strip() == result.quantized.table


def test_widths_are_searched_of_the_network_that_training_made(everything):
    _, result, dialogue, _ = everything
    searched = result.explored.model
    with torch.no_grad(), searched.using([0] * len(searched.points)):
        outputs = searched(digits().report.x)
        conv = searched.model.get_submodule("conv2").weight
    assert torch.equal(conv, result.trained.model.get_submodule("conv2").weight().dequantize())
    assert not torch.equal(conv, result.optimization.network.get_submodule("conv2").weight)
    right = float((outputs.argmax(1) == digits().report.y).float().mean())
    assert f"The search begins with the trained weights, in float: accuracy {right:.4f}" in dialogue.text
    assert abs(right - result.trained.accuracy) < 0.02


def test_the_searched_model_is_written_at_the_cheapest_point(everything):
    _, result, _, folder = everything
    loaded = torch.load(folder / "explored.pt", weights_only=False)
    assert loaded.num_bits.tolist() == list(result.exploration.front.cheapest().num_bits)
    assert torch.equal(loaded(digits().report.x), result.explored.model(digits().report.x))


def test_where_batchnorm_stays_the_search_says_that_it_begins_with_the_float_network():
    result, dialogue = run(fold=False, qat=True, epochs=2, explore=True)
    assert result.quantized is result.trained
    assert "The search begins with the float network: the trained one has other layers" in dialogue.text
    assert torch.equal(result.explored.model.weight_points[0].parameter, trained("small_cnn").conv1.weight)


@pytest.mark.parametrize("tied", [False, True])
def test_packed_layers_give_their_trained_weights_back(tied):
    network = nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 6, bias=False)).eval()
    if tied:
        network[1].weight = network[0].weight
    packed = nn.Sequential(copy.deepcopy(network[0]), PackedLinear.from_float(network[1], 3))
    made = with_weights_of(network, packed)
    if tied:
        assert made is None
    else:
        assert torch.equal(made[1].weight, packed[1].weight) and torch.equal(made[0].weight, network[0].weight)
        assert not torch.equal(made[1].weight, network[1].weight)


def test_where_no_widths_meet_the_floor_the_search_has_none_and_says_so():
    network = trained("small_cnn")
    with torch.no_grad():
        data = [(x, network(x)) for x, _ in batches(digits().report)]
    same = qx.Metric(lambda output, target: (output - target).abs().amax(1).lt(1e-4).float(), "sameness", range=(0, 1))
    result, dialogue = run(subject(held_out=data, metric=same, task_loss=None), explore=True, quantize=False)
    assert "No widths lose as little as was to be lost at most: min_accuracy (0.95) is above what" in dialogue.text
    assert "The search goes on without a minimum." in dialogue.text
    assert len(result.exploration.front) and result.exploration.front.min_accuracy is None


def test_what_was_made_is_written_also_where_a_later_step_cannot_be_done(tmp_path):
    one = subject(held_out=batches(digits().report, 1)[:1])
    with pytest.raises(WorkflowError, match=r"must hold two samples or more.*two batches or more"):
        run(one, explore=True, output=tmp_path)
    made = {"graph_after.txt", "graph_before.txt", "quantized.pt", "strategy.txt"}
    assert {file.name for file in tmp_path.iterdir()} == made


def test_a_seed_covers_loaders_that_shuffle(monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    options = Options(**(QUICK | {"explore": True, "qat": True, "seed": 5, "evaluations": 5, "everything": True}))
    shown = []
    for state in (1, 2):
        torch.manual_seed(state)
        dialogue = Transcript()
        run_pipeline(load_subject("own_factories:shuffled", dialogue, options), dialogue, options)
        shown.append(re.sub(r"[\d.]+ s\b", "", dialogue.text))
    assert shown[0] == shown[1]


def test_training_that_does_not_help_is_said_not_to():
    # Wide enough to begin with; training on the task leads away from the float network.
    result, dialogue = run(qat=True, qat_loss="task", linear_num_bits=8, epochs=2)
    assert result.trained.error > result.post_training.error
    assert result.quantized is result.post_training
    assert "Training did not make it better" in dialogue.text
    assert "Going on with the network quantized post-training." in dialogue.text


def test_without_a_trace_there_is_nothing_to_fold_but_quantizing_goes_on():
    result, dialogue = run(answers=[False])
    assert result.graph is None and result.optimization is None and not result.folded
    assert "opcode" not in dialogue.text and "Not traced" in dialogue.text
    assert [question.split()[0] for question, _ in dialogue.questions] == ["Trace", "Quantize"]
    assert result.post_training is not None


def test_without_an_analysis_no_pair_is_named_but_folding_is_offered():
    result, dialogue = run(answers=[True, False, True, False])
    assert "BatchNorm2d" not in dialogue.text and result.folded
    assert not any("bn" in row.target for row in result.optimization.after.rows)


def test_declined_folding_keeps_the_network_and_its_batchnorms():
    result, dialogue = run(answers=[True, True, False, True])
    assert not result.folded and dialogue.text.count("opcode") == 1
    assert {"bn1", "bn2"} <= {row.name for row in result.post_training.strategy}
    assert "Fold BatchNorm" in dialogue.text


def test_only_what_stays_float_is_listed_as_float():
    class Ending(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.softmax = trained("small_cnn"), nn.Softmax(dim=1)

        def forward(self, x):
            return self.softmax(self.body(x))

    result, dialogue = run(subject(network=Ending().eval()), trace=False)
    rows = {row.name: row for row in result.post_training.strategy}
    assert "body.relu1" in rows and not rows["body.relu1"].is_quantized  # fused
    (listed,) = re.findall("^Left float: (.*)$", dialogue.text, flags=re.MULTILINE)
    assert "relu1" not in listed and "bn1" not in listed
    assert ("softmax (Softmax)" in listed) == (not rows["softmax"].is_quantized)


def test_declined_quantizing_ends_before_the_strategy():
    result, dialogue = run(answers=[True, True, True, False])
    assert result.post_training is None and result.quantized is None and result.folded
    assert "Strategy" not in dialogue.text and "error" not in dialogue.text


def test_declined_training_keeps_the_first_network():
    result, dialogue = run(answers=[True, True, True, True, False], qat=None)
    assert result.trained is None and result.quantized is result.post_training
    assert dialogue.questions[-1] == ("Above the threshold of 1e-07. Train it for 1 epoch?", False)


def test_an_error_below_the_threshold_needs_no_training():
    result, dialogue = run(qat=None, threshold=10.0)
    assert result.trained is None and "Not above the threshold of 10: no training is needed." in dialogue.text
    assert not any("Above" in question for question, _ in dialogue.questions)


def test_quantizing_before_folding_takes_the_network_with_its_batchnorms():
    result, dialogue = run(order="before")
    text = dialogue.text
    assert text.index("Quantize (int8, linear layers int4, before folding)?") < text.index("Fold BatchNorm")
    rows = {row.name: row for row in result.post_training.strategy}
    assert "folded into 'conv1'" in rows["bn1"].reason
    assert result.folded


def test_flags_answer_instead_of_the_dialogue_and_are_shown():
    result, dialogue = run(trace=True, analyze=False, fold=False, quantize=False)
    assert dialogue.questions == []
    assert "Trace small_cnn into a graph? yes (--trace)" in dialogue.text
    assert "Fold BatchNorm into the layers before it, and drop what is idle? no (--no-fold)" in dialogue.text
    assert result.optimization is None and result.post_training is None


def test_yes_to_everything_leaves_single_flags_their_say():
    result, dialogue = run(everything=True, fold=False, quantize=False)
    assert dialogue.questions == [] and not result.folded
    assert "Analyse the graph for what can be optimized? yes (--yes)" in dialogue.text


@pytest.mark.parametrize("num_bits", [3, 8])
def test_width_of_linear_layers_follows_the_option(num_bits):
    result, _ = run(trace=False, linear_num_bits=num_bits)
    rows = {row.name: str(row.weights) for row in result.post_training.strategy}
    assert rows["fc1"] == (f"int{num_bits} per channel" + (", packed" if num_bits < 8 else ""))


def test_without_targets_nothing_is_scored_and_the_search_is_not_offered():
    result, dialogue = run(subject(metric=None, task_loss=None), explore=True)
    assert result.exploration is None and result.post_training.accuracy is None
    assert "No search over widths: there are no targets" in dialogue.text
    with pytest.raises(WorkflowError, match="'small_cnn' has no targets that it could be trained on"):
        run(subject(metric=None, task_loss=None), qat=True, qat_loss="task")


def test_a_network_with_nothing_to_fold_is_not_asked_about_it():
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()
    _, dialogue = run(subject(network=network))
    assert "Nothing to fold." in dialogue.text
    assert [question.split()[0] for question, _ in dialogue.questions] == ["Trace", "Analyse", "Quantize"]


class Opaque(nn.Module):
    """Iterates over its input: torch.fx cannot see inside, torch.export can."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(64, 32), nn.Linear(32, 32)

    def forward(self, x):
        return F.relu(torch.stack([self.second(F.relu(self.first(row))) for row in x.flatten(1)]))


class Holder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = Opaque(), nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.body(x))


def test_a_network_that_only_export_takes_apart_gets_packed_layers_and_can_be_trained():
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = Holder().eval()
    few = batches(digits().report, 50)[:2]
    result, dialogue = run(
        subject(network=network, calibration=few, held_out=few, train=few), qat=True, epochs=4, linear_num_bits=2
    )
    assert "by torch.export" in dialogue.text and "torch.fx cannot look into this network" in dialogue.text
    rows = {row.name: row for row in result.post_training.strategy}
    assert str(rows["body.first"].weights) == str(rows["head"].weights) == "int2 per channel, packed"
    assert str(rows["body.second"].activations) == "uint8 per tensor, affine"
    assert result.trained.error < result.post_training.error
    assert isinstance(result.trained.model.body.first, PackedLinear)


def test_an_output_folder_that_cannot_be_made_is_refused_before_anything_runs(tmp_path):
    (tmp_path / "file").write_text("")
    dialogue = Transcript()
    with pytest.raises(WorkflowError, match=r"the output folder '.*/file/results' cannot be made: "):
        run_pipeline(subject(), dialogue, Options(output=tmp_path / "file" / "results"))
    assert dialogue.text == ""


def test_the_users_random_state_is_left_alone():
    shuffled = DataLoader(TensorDataset(*digits().train), batch_size=64, shuffle=True)
    state = torch.get_rng_state()
    run(subject(train=shuffled), qat=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_measured_errors_need_data_and_something_to_compare():
    with pytest.raises(DataError, match="the held-out data must hold at least one batch"):
        measure_error(trained("small_cnn"), trained("small_cnn"), [])
    with pytest.raises(DataError, match="the held_out data of 'small_cnn' must hold at least one batch"):
        subject(held_out=[])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "during"}, "order must be one of 'before', 'after', got 'during'"),
        ({"qat_loss": "none"}, "qat_loss must be one of 'float', 'task', got 'none'"),
        ({"threshold": -1.0}, "threshold must be a number of at least 0, got -1.0"),
        ({"threshold": float("nan")}, "threshold must be a number of at least 0, got nan"),
        ({"seed": -1}, r"seed must be an int in \[0, .*got -1"),
        ({"seed": 2**32}, r"seed must be an int in \[0, "),
        ({"epochs": 0}, "epochs must be an int of at least 1, got 0"),
        ({"linear_num_bits": 1}, r"linear_num_bits must be an int in \[2, 8\], got 1"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(WorkflowError, match=message):
        Options(**options)
