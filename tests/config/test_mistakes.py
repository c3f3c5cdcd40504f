# ruff: noqa: E501
"""Broken configurations: every mistake is named at once, with its line, the value, what is allowed, and what is near."""

import textwrap

import pytest

from qexplore._functions import function_called
from qexplore.config import Config, calibrated, read_config
from qexplore.errors import ConfigError

RIGHT = """\
network: mine:network
calibration_loader: mine:calibration
search_loader: mine:search
activations: [ReLU]
"""


def said_of(text, **flags):
    with open("mine.yaml", "w", encoding="utf-8") as file:
        file.write(textwrap.dedent(text))
    with pytest.raises(ConfigError) as error:
        read_config("mine.yaml", flags)
    return str(error.value)


def test_every_mistake_of_a_file_and_of_flags_is_named_at_once(mine):
    text = """\
        network: mien:network
        min_acuracy: 0.9
        calibration_loader: mine:calibratoin
        seed: -1
        algorithm: nsga
        seed: one
        costs: [total_bit, bops]
        """
    said = said_of(text, max_seconds="0")
    assert said.startswith("'mine.yaml' has 10 mistakes:\n  line 1: `network` must name")
    for sentence in (
        "line 2: there is no field `min_acuracy`, got 0.9, did you mean 'min_accuracy'?",
        "line 3: `calibration_loader` must name something that can be imported, got 'mine:calibratoin': 'mine' has no",
        "line 5: `algorithm` must be one of",
        "line 6: `seed` stands there twice",
        "line 6: `seed` must be an int of at least 0, got 'one'",
        "line 7: `costs` must hold one of",
        "`activations` or `weights`, `inputs` or `functions` must be given: class names, names or globs of modules, such as",
        "`search_loader` is missing: package.module:factory that gives the batches that candidates are measured on",
        "--max-seconds: `max_seconds` must be a positive number, got 0",
    ):
        assert f"\n  {sentence}" in said


# HERE stands for the current folder.
BROKEN = {
    "a field that is none": (
        "pagee: x.html",
        "there is no field `pagee`, got 'x.html', did you mean 'page'?",
    ),
    "a network that is a class name": (
        "network: Tiny",
        "`network` must be package.module:factory, got 'Tiny'",
    ),
    "a module that is not there": (
        "network: mien:network",
        "`network` must name something that can be imported, got 'mien:network': there is no module 'mien', neither installed nor in HERE: name a factory as package.module:factory, did you mean 'mine'?",
    ),
    "a package that is not there": (
        "network: mine.inner:network",
        "`network` must name something that can be imported, got 'mine.inner:network': there is no module 'mine.inner', neither installed nor in HERE: name a factory as package.module:factory",
    ),
    "a function that is not there": (
        "network: mine:netwrok",
        "`network` must name something that can be imported, got 'mine:netwrok': 'mine' has no function 'netwrok', did you mean 'network'?",
    ),
    "a factory that fails": (
        "network: mine:failing",
        "`network` must name a factory that works, got 'mine:failing', which failed: RuntimeError: no weights here",
    ),
    "a factory that gives something else": (
        "network: mine:search",
        "`network` must give an nn.Module, got 'mine:search', which gives list",
    ),
    "a module that fails": (
        "network: broken:network",
        "`network` must name something that can be imported, got 'broken:network': importing 'broken' failed: ZeroDivisionError: division by zero",
    ),
    "data that can be passed over once": (
        "search_loader: mine:once",
        "`search_loader` must give a DataLoader or a list of batches, for it is passed over more than once, got 'mine:once', which gives list_iterator",
    ),
    "no number": (
        "min_accuracy: ninety",
        "`min_accuracy` must be a number, got 'ninety'",
    ),
    "percent": (
        "min_accuracy: 90",
        "`min_accuracy` must be in [0, 1], the range of accuracy, got 90",
    ),
    "a whole number with a point": (
        "max_evaluations: 12.5",
        "`max_evaluations` must be an int of at least 1, got 12.5",
    ),
    "a switch that is a number": (
        "racing: 1",
        "`racing` must be one of true, false, got 1",
    ),
    "a metric": (
        "metric: top1_acuracy",
        "`metric` must be one of 'negative_log_likelihood', 'perplexity', 'pixel_accuracy', 'squared_error', 'token_accuracy', 'top1_accuracy', 'top5_accuracy', or package.module:factory, got 'top1_acuracy', did you mean 'top1_accuracy'?",
    ),
    "a metric that is none": (
        "metric: mine:network",
        "`metric` must give a metric, got 'mine:network', which gives Tiny",
    ),
    "an algorithm": (
        "algorithm: NSGA-2",
        "`algorithm` must be one of 'nsga2', 'sms-emoa', 'nsga3', 'greedy', 'nsga2-plain', 'random', got 'NSGA-2', did you mean 'nsga2'?",
    ),
    "a cost": (
        "costs: [total_bits, model_byte]",
        "`costs` must hold one of 'activation_bytes', 'bops', 'mean_bits', 'model_bits', 'model_bytes', 'peak_activation_bytes', 'total_bits', 'weighted_bits', a CSV file of a cost table, or package.module:factory, got 'model_byte', did you mean 'model_bytes'?",
    ),
    "a limit": (
        "limits: {model_byte: 9}",
        "`limits` must name costs, activation_bytes, bops, mean_bits, model_bits, model_bytes, peak_activation_bytes, total_bits, weighted_bits, got 'model_byte', did you mean 'model_bytes'?",
    ),
    "a cost table": (
        "costs: latency.csv",
        "`costs` must name a cost table that can be read, got 'latency.csv': the cost table latency.csv cannot be read: [Errno 2] No such file or directory: 'latency.csv'",
    ),
    "a choice": (
        "choices: [2, 4, E4M4]",
        "`choices` must hold a width up to 16, 'off', or the name of a float format such as E4M3, got 'E4M4', did you mean 'E4M3'?",
    ),
    "a choice of a layer": (
        "choices: {everything: [3, 4, 6, 80], relu1: [4]}",
        "`choices` must hold a width up to 16, 'off', or the name of a float format such as E4M3, got 80 for 'everything'",
    ),
    "a pinned choice": (
        "pinned: {relu1: 80, relu2: 8}",
        "`pinned` must hold a width up to 16, 'off', or the name of a float format such as E4M3, got 80 for 'relu1'",
    ),
    "a limit that is no number": ("limits: {bops: lots}", "`limits` must hold numbers, got 'lots' for 'bops'"),
    "a target": (
        "target: npu.yaml",
        "`target` must name a file of a target, got 'npu.yaml': target file 'npu.yaml' cannot be read: [Errno 2] No such file or directory: 'npu.yaml'",
    ),
    "a tie": (
        "tied: [resdual]",
        "`tied` must be about points of the network: tied['resdual'] matches no point, did you mean 'residual'?",
    ),
    "choices by layer": (
        "choices: {activations: 4}",
        "`choices` must be a list of choices ([2, 4, 8, E4M3]), or such lists by layer ({weights: [4, 8]}), got {'activations': 4}",
    ),
    "an output": (
        "output: [1]",
        "`output` must be the place of an output or its name, got [1]",
    ),
    "limits of widths": (
        "num_bits_lower_limit: 9",
        "`num_bits_lower_limit` must be at most `num_bits_upper_limit`, 8, got 9",
    ),
    "no end": (
        "max_evaluations: null",
        "`max_evaluations` must not be none without `max_seconds` or `patience`: a search needs an end",
    ),
    "modules of a class in other letters": (
        "activations: [ReLu]",
        "`activations` must select modules, got 'ReLu', which selects none, did you mean 'ReLU'?",
    ),
    "modules that are not there": (
        "weights: Conv2d",
        "`weights` must select modules, got 'Conv2d', which selects none: there are Linear (3), ReLU (2), Tiny (1)",
    ),
    "modules by a wrong expression": (
        "activations: ['regex:(']",
        "`activations` must select modules, got 'regex:(': by_regex takes a regular expression, got '(': missing ), unterminated subpattern at position 0",
    ),
    "a predicate that is not there": (
        "activations: mine:chosn",
        "`activations` must name something that can be imported, got 'mine:chosn': 'mine' has no function 'chosn', did you mean 'chosen'?",
    ),
    "a function that is none": (
        "functions: [cat, operand of adds]",
        "`functions` must select calls of functions, got 'operand of adds', which is no function of torch, nor a name of a call, did you mean 'add'?",
    ),
    "calls by a wrong expression": (
        "functions: ['regex:(']",
        "`functions` must select calls of functions, got 'regex:(': by_regex takes a regular expression, got '(': missing ), unterminated subpattern at position 0",
    ),
    "inputs of modules that are not there": (
        "inputs: Linaer",
        "`inputs` must select modules, got 'Linaer', which selects none, did you mean 'Linear'?",
    ),
    "a method of a point": (
        "calibration_method: {relu1: msq}",
        "`calibration_method` must hold one of 'max', 'percentile', 'mse', 'entropy', 'auto', got 'msq' for 'relu1', did you mean 'mse'?",
    ),
    "a list where one is meant": (
        "seed: [1, 2]",
        "`seed` must be an int of at least 0, got [1, 2]",
    ),
}


@pytest.mark.parametrize(("line", "sentence"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_answered_in_a_sentence(mine, line, sentence):
    after = "\n  The names in `activations` are not checked before this is right" if line.startswith("network") else ""
    assert said_of(with_line(line)) == f"'mine.yaml': line 1: {sentence.replace('HERE', str(mine))}{after}"


def test_names_of_layers_are_checked_beside_other_mistakes_and_once_data_were_seen(mine):
    lines = "choices: {activations: [80]}\npinned: {rleu1: 8}\ntarget: npu.yaml\n"
    said = said_of(RIGHT + lines)
    assert said.startswith("'mine.yaml' has 3 mistakes:\n  line 5: `choices` must hold")
    assert "\n  line 6: `pinned` must be about points of the network: pinned['rleu1'] matches no point, did you" in said
    assert "The names in `choices`, `pinned` are not checked before" in said_of(
        RIGHT.replace("[ReLU]", "[ReLu]") + lines
    )
    both = {"pinned": "{fc1.inptu: 8}", "tied": "[residal]", "inputs": "Linear"}
    (mine / "mine.yaml").write_text(RIGHT)
    with pytest.raises(ConfigError) as error:
        calibrated(read_config("mine.yaml", both))
    assert [one.partition(" must")[0] for one in error.value.mistakes] == ["--pinned: `pinned`", "--tied: `tied`"]


def test_the_nearest_function_is_looked_for_among_those_that_the_network_calls(mine):
    assert "got 'lnear', which is no function of torch, nor a name of a call, did you mean 'linear'?" in said_of(
        RIGHT + "functions: [lnear]"
    )


def test_a_whole_number_may_be_written_as_a_float(mine):
    read = read_config("mine.yaml", {"max_evaluations": "1e3", "seed": "2.0"})
    assert (read.config.max_evaluations, read.config.seed) == (1000, 2) and type(read.config.seed) is int


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "scheme: tensort",
            "`scheme` must be one of 'all-int8', 'tensorrt', 'onnxruntime', 'xnnpack', or package.module:factory, got 'tensort', did you mean 'tensorrt'?",
        ),
        (
            "scheme: mine:network",
            "`scheme` must give a scheme, such as qx.scheme('tensorrt'), got 'mine:network', which gives Tiny",
        ),
        (
            "scheme: tensorrt\nweights: weighted\nfunctions: add",
            "`scheme` must not be given beside `functions` and `weights`: it says what is quantized",
        ),
    ],
)
def test_a_scheme_that_cannot_be_is_answered_in_a_sentence(mine, line, sentence):
    assert said_of(line + "\n" + "\n".join(RIGHT.splitlines()[:-1])) == f"'mine.yaml': line 1: {sentence}"


def with_line(line):
    """The right configuration with ``line`` in the place of the one about the same."""
    field = line.partition(":")[0]
    return "\n".join([line, *(one for one in RIGHT.splitlines() if one.partition(":")[0] != field)])


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("seed: 1\nseed: 2", "line 2: `seed` stands there twice: leave one of them"),
        ("limits: {bops: 1, bops: 2}", "line 1: `limits.bops` stands there twice: leave one of them"),
        (
            "min_accuracy: 0.9\nmax_drop: 0.1",
            "line 2: `max_drop` must not be given beside `min_accuracy`: it is the same, counted from the float network",
        ),
        (
            "network: null",
            "`network` is missing: package.module:factory that gives the float network, trained\n  The names in `activations` are not checked before this is right",
        ),
    ],
)
def test_what_stands_twice_and_what_contradicts_itself_is_said(mine, lines, sentence):
    kept = [one for one in RIGHT.splitlines() if one.partition(":")[0] != lines.partition(":")[0]]
    assert said_of("\n".join([lines, *kept])).endswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must hold fields, such as `network: package.module:factory`, got nothing"),
        ("mine:network", "must hold fields, such as `network: package.module:factory`, got 'mine:network'"),
        ("network: [", "is no YAML: "),
        ("network: !!python/object/apply:os.getcwd []", "is no YAML: could not determine a constructor for the tag"),
        ("\x00", "is no YAML: "),
    ],
)
def test_what_is_no_configuration_is_refused_without_being_run(mine, text, sentence):
    assert sentence in said_of(text)


def test_a_file_that_is_not_there_or_no_text_is_said(mine):
    (mine / "latin.yaml").write_bytes(b"\xff\xfe\x00")
    for name, sentence in (("none.yaml", "No such file or directory"), ("latin.yaml", "it is no text in UTF-8")):
        with pytest.raises(ConfigError, match=f"configuration '{name}' cannot be read: {sentence}. `qexplore init"):
            read_config(name)


def test_a_configuration_checks_itself_when_it_is_built():
    with pytest.raises(ConfigError) as error:
        Config(network="mine:network", search_loader="mine:search", weights="weighted", seed=-1, algorithm="best")
    assert len(error.value.mistakes) == 2
    assert "`seed` must be an int of at least 0, got -1" in error.value.mistakes


def test_a_field_that_takes_several_takes_one_and_flags_come_before_the_file(mine):
    read = read_config("mine.yaml", {"costs": "total_bits, bops", "min_accuracy": "1e-1", "activations": "relu1"})
    assert read.config.costs == ("total_bits", "bops")
    assert (read.config.min_accuracy, read.config.activations) == (0.1, ("relu1",))
    assert read_config("mine.yaml").config.activations == ("ReLU",)


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("[relu*]", ["relu1", "relu2"]),
        ("[leaves, ~Linear]", ["relu1", "relu2"]),
        ("['regex:.*2']", ["fc2", "relu2"]),
        ("['regex:fc2']", ["fc2"]),
        ("mine:chosen", ["relu1", "relu2"]),
        ("[Linear, ~fc1]", ["fc2", "fc3"]),
    ],
)
def test_modules_are_meant_by_class_name_glob_expression_or_predicate(mine, words, names):
    parts = read_config("mine.yaml", {"activations": words}).parts
    assert [name for name, module in parts.network.named_modules() if parts.activations(name, module)] == names


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("cat", ["body.cat"]),
        ("[torch.add, '~body.*']", ["add", "add_1"]),
        ("operand of bmm", ["matmul.input"]),
        ("[operand of add, relu]", ["add.input", "body.relu"]),
        ("[body.*, add_1]", ["body.cat", "body.relu", "add_1", "body.add"]),
        ("['regex:add(_1)?']", ["add", "add_1"]),
        ("[~cat, '~*add*']", ["matmul", "matmul.input", "body.relu"]),
        ("mine:summing", ["add", "add_1", "body.add"]),
    ],
)
def test_calls_are_meant_by_function_operand_glob_expression_or_predicate(mine, words, names):
    with (mine / "mine.py").open("a") as file:
        file.write("\nfrom qexplore import predicates\nsumming = predicates.by_function(torch.add)\n")
    calls = ["add", "add_1", "add.input", "matmul", "matmul.input", "body.cat", "body.relu", "body.add"]
    chosen = read_config("mine.yaml", {"functions": words}).parts.functions
    assert sorted(name for name in calls if chosen(name, function_called(name))) == sorted(names)
