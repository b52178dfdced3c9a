"""`forgather tokenizer train`, including a model that is constructed and trained with the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from .conftest import Cli

TRAIN = ("tokenizer", "train", "--dataset-project", "project", "--vocab-size", "320", "-o", "made")
TEXTS = [
    f"The {word} fox jumps over the {word} dog, and {number} times more.\n" for number, word in enumerate("abcde" * 40)
]
SHIPPED = Path(__file__).parents[2] / "forgather_core/tokenizers/shipped/bpe-2k"


@pytest.fixture(autouse=True)
def _project() -> None:
    Path("project").mkdir()
    for number, text in enumerate(TEXTS):
        Path(f"project/{number:03}.txt").write_text(text)
    Path("project/default.yaml").write_text("source: text\nfiles: '*.txt'\n")
    Path("project/small.yaml").write_text("source: text\nfiles: 000.txt\n")
    Path("project/wrong.yaml").write_text("source: text\nfiles: 000.txt\ntext_column: txt\n")


def test_a_tokenizer_is_trained_and_used_by_a_model(cli: Cli) -> None:
    ran = cli(*TRAIN, "--model-max-length", "64")
    assert (ran.code, ran.err) == (0, "")
    assert "project/default: 200 documents" in ran.out
    assert ran.out.endswith("Use it with: forgather -t llama/4M model --tokenizer made construct\n")
    tokenizer = AutoTokenizer.from_pretrained("made")
    assert (len(tokenizer), tokenizer.model_max_length) == (320, 64)
    assert tokenizer.decode(tokenizer(TEXTS[0])["input_ids"]) == "<|BOS|>" + TEXTS[0]
    assert sorted(path.name for path in Path("made").iterdir()) == sorted(path.name for path in SHIPPED.iterdir())
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        made, shipped = (json.loads((place / file).read_text()) for place in (Path("made"), SHIPPED))
        assert made | {"model_max_length": 0} == shipped | {"model_max_length": 0}
    model = ("-t", "llama/4M", "model", "--tokenizer", "made", "--device", "cpu", "--num-hidden-layers", "1")
    command = ("test", "--dataset-project", "project", "--sequence-length", "32", "--steps", "2", "--packed")
    assert cli(*model, *command).code == 0
    config = json.loads(Path("output_models/llama_4m/config.json").read_text())
    assert (config["vocab_size"], config["max_position_embeddings"]) == (320, 64)


def test_the_report(cli: Cli) -> None:
    report = cli(*TRAIN, "--json").json
    assert report.pop("bytes_per_token") > 2
    assert report.pop("seconds") >= 0
    assert report == {
        "directory": "made",
        "dataset": "project/default",
        "vocab_size": 320,
        "special_tokens": {"<|BOS|>": 0, "<|PAD|>": 1, "<|EOS|>": 2, "<|UNK|>": 3, "<|im_start|>": 4, "<|im_end|>": 5},
        "model_max_length": 2048,
        "documents": 200,
        "characters": sum(map(len, TEXTS)),
        "measured_on": 200,
    }


def test_an_existing_directory_is_kept(cli: Cli) -> None:
    Path("made").mkdir()
    assert cli(*TRAIN).code == 0  # an empty directory is accepted
    before = {path: path.read_bytes() for path in Path("made").iterdir()}
    error = cli(*TRAIN).error
    assert "made already exists and is not an empty directory: choose another --output-dir, or remove it" in error
    assert {path: path.read_bytes() for path in Path("made").iterdir()} == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--vocab-size many", "--vocab-size: expected an integer, got 'many'"),
        ("--vocab-size 200", "--vocab-size must be at least 262 (256 bytes and the special tokens), got 200"),
        ("--vocab-size 5000", ": use a larger corpus or a smaller --vocab-size"),
        ("--dataset-config small", ": use a larger corpus or a smaller --vocab-size"),
        ("--dataset-config wrong", "no column 'txt' (columns: text). Did you mean 'text'"),
        ("--dataset-config nope", "has no configuration 'nope'"),
        ("--dataset-project stdlb", "Did you mean 'stdlib'"),
        ("--model-max-length 0", "--model-max-length must be at least 1, got 0"),
        ("-o project/000.txt", "project/000.txt already exists"),
        ("-o project/000.txt/x", "project/000.txt/x cannot be written"),
        ("--vocab-sze 3", "--vocab-sze does not exist. Did you mean --vocab-size?"),
    ],
)
def test_every_mistake_is_one_line_and_leaves_nothing(cli: Cli, words: str, message: str) -> None:
    before = sorted(Path().rglob("*"))
    assert message in cli(*TRAIN, *words.split()).error
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("flag", ["--dataset-project", "--vocab-size", "-o"])
def test_required_options(cli: Cli, flag: str) -> None:
    at = TRAIN.index(flag)
    name = "--output-dir" if flag == "-o" else flag
    assert cli(*TRAIN[:at], *TRAIN[at + 2 :]).error.startswith(f"{name} is missing: add {name} ")
