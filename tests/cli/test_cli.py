"""The command line: at a real terminal, in a pipe, and by flags."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading
from pathlib import Path

import pytest

import qexplore
from qexplore.cli import main

FACTORIES = Path(__file__).resolve().parents[1] / "pipeline"
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(FACTORIES.parent / "shared")}
QUICK = ["--epochs", "1", "--no-qat", "--no-explore"]


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.chdir(FACTORIES)


class Terminal:
    """stdin and stdout of this process at a pseudo-terminal for a while."""

    def __init__(self, typed):
        self.typed, self.shown, self.code = typed, "", None

    def run(self, arguments, monkeypatch):
        ours, theirs = pty.openpty()
        reader = threading.Thread(target=self._read, args=(ours,))
        reader.start()
        os.write(ours, self.typed.encode())
        with os.fdopen(theirs, "r+b", buffering=0) as raw:
            monkeypatch.setattr(sys, "stdin", os.fdopen(os.dup(raw.fileno()), "r"))
            monkeypatch.setattr(sys, "stdout", os.fdopen(os.dup(raw.fileno()), "w", buffering=1))
            assert sys.stdin.isatty()
            with pytest.raises(SystemExit) as stopped:
                main(["pipeline", *arguments], prog_name="qexplore")
            self.code = stopped.value.code or 0
            sys.stdin.close()
            sys.stdout.close()
            monkeypatch.undo()
        reader.join(timeout=10)
        os.close(ours)
        return self

    def _read(self, descriptor):
        while True:
            try:
                part = os.read(descriptor, 4096)
            except OSError:  # the other end is closed
                return
            self.shown += part.decode().replace("\r\n", "\n")


def at_terminal(typed, *arguments, monkeypatch):
    return Terminal(typed).run(arguments, monkeypatch)


def piped(text, *arguments, module=False):
    command = [sys.executable, "-m", "qexplore"] if module else [Path(sys.executable).parent / "qexplore"]
    return subprocess.run(
        [*command, *arguments], input=text, capture_output=True, text=True, check=False, timeout=300,
        env=ENVIRONMENT,
    )  # fmt: skip


def test_answers_at_a_terminal_are_yes_no_enter_and_nonsense_is_asked_again(monkeypatch):
    session = at_terminal("maybe\nYES\nno\n\nn\n", "own_factories:example", *QUICK, monkeypatch=monkeypatch)
    assert session.code == 0
    question = "Trace own_factories:example into a graph? [y] "
    assert session.shown.count(question) == 2
    assert "Please answer y or n, or press Enter for y: got 'maybe'." in session.shown
    assert session.shown.count("opcode") == 2  # traced, and folded by pressing Enter
    assert "conv (Conv2d) and norm (BatchNorm2d)" not in session.shown  # not analysed
    assert "Strategy" not in session.shown  # not quantized


@pytest.mark.parametrize(("typed", "last"), [("\x04", "Trace"), ("y\n\x04", "Analyse"), ("y\ny\nn\n\x04", "Quantize")])
def test_end_of_file_at_a_terminal_stops_at_any_question_with_a_sentence(typed, last, monkeypatch):
    session = at_terminal(typed, "own_factories:example", *QUICK, monkeypatch=monkeypatch)
    assert session.code == 1
    *_, question, sentence = session.shown.strip().splitlines()
    # What was typed ahead has been echoed at once, so that prompts follow each other in a line.
    assert question.split("? [y] ")[-2].startswith(last) and "Traceback" not in session.shown
    assert sentence == "Stopped at this question: the input has ended, and nothing more is done."


@pytest.mark.slow
def test_a_whole_session_in_a_process_of_its_own_at_a_terminal():
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))  # bars need a width
    process = subprocess.Popen(
        [sys.executable, "-m", "qexplore", "pipeline", "own_factories:example", *QUICK],
        stdin=theirs, stdout=theirs, stderr=theirs, env=ENVIRONMENT,
    )  # fmt: skip
    os.close(theirs)
    os.write(ours, b"y\ny\ny\ny\n")
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:
            break
        if not part:
            break
        shown += part
    assert process.wait(timeout=300) == 0
    text = shown.decode().replace("\r\n", "\n")
    assert "conv (Conv2d) and norm (BatchNorm2d)" in text and "int4 per channel, packed" in text
    assert "calibrating" in text and "Quantization error, post-training: " in text  # bars on stderr, at a terminal
    os.close(ours)


@pytest.mark.slow
def test_piped_answers_are_read_and_after_them_the_defaults_are_taken_and_said():
    done = piped("y\nwhat\nn\n", "pipeline", "own_factories:example", *QUICK)
    assert done.returncode == 0, done.stderr
    assert "Trace own_factories:example into a graph? [y] y\n" in done.stdout
    assert "got 'what'" in done.stdout and "? [y] n\n" in done.stdout
    assert done.stdout.count("(the input has ended: defaults from here on)") == 1
    assert "Quantize (int8, linear layers int4, after folding)? [y] y\n" in done.stdout
    assert "int4 per channel, packed" in done.stdout and done.stderr == ""


def test_flags_need_no_answers(capsys, tmp_path):
    arguments = ["own_factories:on_digits", "--yes", "--epochs", "2", "--evaluations", "6", "--output", str(tmp_path)]
    with pytest.raises(SystemExit) as stopped:
        main(["pipeline", *arguments, "--seed", "1", "--order", "before", "--no-progress"])
    said = capsys.readouterr()
    assert not stopped.value.code, said.err
    assert "[y]" not in said.out and said.out.count("(--yes)") == 6 and said.err == ""
    assert "Float accuracy on held-out data: 0.9" in said.out
    assert "  epoch 2: loss " in said.out and "Training made it better" in said.out
    assert said.out.index("before folding") < said.out.index("Fold BatchNorm")
    assert (tmp_path / "front.json").exists() and (tmp_path / "quantized.pt").exists()


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [
        (["--no-trace"], "opcode"),
        (["--no-analyze"], "conv1 (Conv2d) and bn1"),
        (["--no-fold"], "The graph after"),
        (["--no-quantize"], "Strategy of every layer"),
        (["--no-qat"], "epoch 1"),
        (["--threshold", "100"], "epoch 1"),
    ],
)
def test_each_flag_has_its_effect(arguments, absent, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["pipeline", "own_factories:on_digits", "--yes", "--no-explore", "--epochs", "1", *arguments])
    said = capsys.readouterr().out
    assert not stopped.value.code and absent not in said
    shown_otherwise = {"opcode", "conv1 (Conv2d) and bn1", "The graph after", "Strategy of every layer", "epoch 1"}
    # Without a trace there is no graph to analyse or fold, without quantizing nothing to train.
    implied = {"--no-trace": {"conv1 (Conv2d) and bn1", "The graph after"}, "--no-quantize": {"epoch 1"}}
    for text in shown_otherwise - {absent} - implied.get(arguments[0], set()):
        assert text in said, text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["vgg"], "there is no network 'vgg': choose one of simplecnn, resnet18, gpt2"),
        (["own_factories:untraceable", "--yes"], "torch.export cannot take the network apart either"),
        (["own_factories:failing"], "the factory 'own_factories:failing' failed: TypeError"),
        (["simplecnn", "--data", "/no/such/folder"], "there is no folder '/no/such/folder'"),
        (["own_factories:failing", "--seed", "-1"], "seed must be an int in [0, "),
        (["own_factories:example", "--epochs", "0"], "epochs must be an int of at least 1, got 0"),
        (["own_factories:example", "--linear-bits", "9"], "linear_num_bits must be an int in [2, 8], got 9"),
    ],
)
def test_errors_are_one_sentence_on_stderr_and_exit_code_1(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["pipeline", *arguments])
    said = capsys.readouterr()
    assert stopped.value.code == 1
    assert said.err.startswith("Error: ") and sentence in said.err and said.err.count("\n") == 1
    assert "Traceback" not in said.err + said.out


def test_text_too_short_and_a_missing_extra_are_errors_too(capsys, tmp_path, monkeypatch):
    (tmp_path / "short.txt").write_text("Hello")
    with pytest.raises(SystemExit) as stopped:
        main(["pipeline", "gpt2", "--text", str(tmp_path / "short.txt")])
    assert stopped.value.code == 1 and "is too short: it has 5 tokens, 2,049 are needed" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit) as stopped:
        main(["pipeline", "gpt2"])
    assert stopped.value.code == 1 and "pip install 'qexplore[text]'" in capsys.readouterr().err


def test_version_and_help_do_not_need_torch():
    code = "import sys; sys.argv = ['qexplore', 'pipeline', '--help']\nfrom qexplore.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit:\n    print('torch' in sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n") and "simplecnn, resnet18, gpt2" in done.stdout
    version = piped("", "--version", module=True)
    assert version.stdout.strip() == f"qexplore, version {qexplore.__version__}" and version.returncode == 0


def test_unknown_options_exit_with_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["pipeline", "simplecnn", "--order", "during"])
    assert stopped.value.code == 2 and "'during' is not one of 'before', 'after'" in capsys.readouterr().err
