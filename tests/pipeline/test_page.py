"""The page about the pipeline: its code runs, and its session asks what the program asks."""

import re
from pathlib import Path

import pytest
from networks import digits, trained

from qexplore.pipeline import Options, Subject, Transcript, run_pipeline

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pipeline.md").read_text(encoding="utf-8")
SESSION = PAGE.partition("## A session")[2].partition("## Limits")[0]


def test_code_of_the_page_runs(monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).resolve().parent)
    led, steps = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)

    exec(compile(led.replace("package.module:factory", "own_factories:on_digits"), "docs/pipeline.md", "exec"), {})
    said = capsys.readouterr().out
    assert "Trace own_factories:on_digits into a graph? yes" in said and "norm='bn1'" in said

    exec(
        compile(steps, "docs/pipeline.md", "exec"),
        {"network": trained("small_cnn"), "example_input": digits().report.x[:8]},
    )
    assert "Packed 2 linear layers: int4 in groups of 32" in capsys.readouterr().out


def test_session_of_the_page_asks_what_the_program_asks():
    few = [(digits().report.x[:100], digits().report.y[:100])]
    network = trained("small_cnn")
    dialogue = Transcript()
    run_pipeline(Subject("simplecnn", network, few, few, few), dialogue, Options(qat=False))
    asked = [question for question, _ in dialogue.questions]
    assert len(asked) == 4
    for question in asked:
        assert f"{question} [y]" in SESSION


@pytest.mark.parametrize("said", ["conv1 (Conv2d) and bn1 (BatchNorm2d)", "int4 per channel, packed", "epoch 5: loss"])
def test_session_of_the_page_shows_pairs_strategy_and_training(said):
    assert said in SESSION


def test_verdict_of_the_session_follows_from_its_two_errors():
    first, second = map(float, re.findall(r"Quantization error, [\w -]+: (\d\.\d+e-\d+)", SESSION))
    assert ("Training made it better" in SESSION) == (second < first)
