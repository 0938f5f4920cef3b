"""No sentence recommends what does not work: each way out is on a list, with the test that follows it to the end.

``ways_out.txt`` has a line for every sentence of the source, between tabs: the test that follows its way out, or ``=``
where it recommends nothing; the file that says it; its text, with ``{}`` for values.
"""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import click
import pytest
from sentences import LIST, ROOT, Sentence, sentences

import qkd_deploy
from qkd_deploy.cli.main import COMMANDS

_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
_CALL = re.compile(r"(?<![\w.])([a-z_]+)\(")
_PYTHON = re.compile(r"in Python\)|on the command line|\(--[a-z-]+\)|\([a-z_]+=")
"""What tells users of options and of arguments apart."""
_OTHERS = {"to", "exit", "int", "squeeze", "--nproc-per-node"}
"""Calls and options in sentences that are Python's, PyTorch's and torchrun's."""


def listed() -> dict[Sentence, str]:
    """The test of each sentence of the list."""
    lines = [line.split("\t", 2) for line in LIST.read_text(encoding="utf-8").splitlines()]
    return {Sentence(file, text): test for test, file, text in lines}


def options() -> set[str]:
    """Every option of every command."""
    found = {"--help"}
    for name in COMMANDS:
        command = import_module(f"qkd_deploy.cli.{name}").command
        assert isinstance(command, click.Command)
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
    return found


SENTENCES = sentences()


def test_every_sentence_is_on_the_list() -> None:
    known = listed()
    missing = [sentence for sentence in SENTENCES if sentence not in known]
    gone = [sentence for sentence in known if sentence not in set(SENTENCES)]
    advice = (
        "write a test that provokes the sentence and does what it says, as those of test_followed_ways_out.py do; "
        f"then give the sentence a line in {LIST.relative_to(ROOT)}: the test, the file and the text, between tabs"
    )
    new = "\n".join("\t".join(("tests/FILE.py::TEST", *sentence)) for sentence in missing)
    assert not missing, f"sentences that are new or changed: {advice}\n{new}"
    assert not gone, "sentences that nobody says any more: take their lines out\n" + "\n".join(map(str, gone))


def test_the_tests_that_follow_them_exist() -> None:
    wrong = []
    for sentence, test in listed().items():
        file, _, name = test.partition("::")
        if test != "=" and (not (ROOT / file).is_file() or name not in _functions(ROOT / file)):
            wrong.append(f"{test}: {sentence.text}")
    assert wrong == []


def _functions(path: Path) -> set[str]:
    return {n.name for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef)}


def test_the_options_that_sentences_recommend_exist() -> None:
    known = options()
    named = {option for sentence in SENTENCES for option in _OPTION.findall(sentence.text)}
    assert len(named) > 20
    assert sorted(named - known - _OTHERS) == []


def test_the_functions_that_sentences_recommend_exist() -> None:
    named = {call for sentence in SENTENCES for call in _CALL.findall(sentence.text)}
    assert named - _OTHERS and sorted(named - _OTHERS - set(qkd_deploy.__all__)) == []


def test_functions_do_not_recommend_options_alone() -> None:
    """Who calls ``load_dataset`` or ``export_onnx`` has arguments, and no options; only the command times a file."""
    folders = ("checkpoints", "calibration", "data", "gate", "graph", "models", "pixels", "quantizers", "verification")
    called = ("export/", *(f"qkd_deploy/{folder}/" for folder in folders))
    said = [s for s in SENTENCES if s.file.startswith(called) and _OPTION.search(s.text.partition("; ")[2])]
    assert len(said) > 15
    timed = "qkd_deploy/verification/report.py"
    assert [s for s in said if not _PYTHON.search(s.text) and s.file != timed] == []


@pytest.mark.parametrize("word", ["leaf_modules", "bits_for)"])
def test_words_that_only_one_side_knows_are_not_recommended(word: str) -> None:
    """Classes can be kept in float only from Python, and a table of TOML is no option of a command."""
    assert [sentence for sentence in SENTENCES if word in sentence.text] == []
