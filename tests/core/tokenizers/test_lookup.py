"""Find tokenizers, read their facts without loading them, and write their files."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from forgather_core.errors import DirectoryError, TokenizerError
from forgather_core.export.directory import prepare_directory
from forgather_core.tokenizers.lookup import load_tokenizer, quick_facts, resolve_chat_template, write_tokenizer
from tests.support.settings import Resolve

SIZES = {"bpe-2k": 2000, "bpe-8k": 8000, "bytes": 262}
SPECIAL = ["BOS", "PAD", "EOS", "UNK"]
LOADED = {name: load_tokenizer(name).tokenizer for name in SIZES}


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_shipped_tokenizers_have_their_sizes_and_ids(name: str, size: int) -> None:
    tokenizer = LOADED[name]
    assert len(tokenizer) == tokenizer.vocab_size == size
    ids = [getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "pad", "eos", "unk")]
    assert ids == [0, 1, 2, 3]
    assert tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"]) == [4, 5]
    assert tokenizer("a")["input_ids"][0] == 0


@pytest.mark.parametrize("name", SIZES)
def test_facts_are_the_same_with_and_without_loading(name: str) -> None:
    assert quick_facts(name) == load_tokenizer(name).facts


@pytest.mark.parametrize("name", SIZES)
@given(st.text(max_size=80))
@settings(max_examples=60)
def test_any_text_round_trips_after_nfc(name: str, text: str) -> None:
    ids = LOADED[name](text, add_special_tokens=False)["input_ids"]
    special = any(token in text for token in LOADED[name].all_special_tokens)
    assert special or LOADED[name].decode(ids) == unicodedata.normalize("NFC", text)


def test_writes_all_files_without_paths_of_this_machine(tmp_path: Path) -> None:
    loaded = load_tokenizer("bpe-2k")
    written = write_tokenizer(loaded, tmp_path, chat_template=resolve_chat_template("chatml"))
    assert (
        set(written)
        == {p.name for p in tmp_path.iterdir()}
        == {
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
            "chat_template.jinja",
        }
    )
    special = json.loads((tmp_path / "special_tokens_map.json").read_text())
    assert special["bos_token"] == loaded.tokenizer.bos_token
    assert set(special["additional_special_tokens"]) == {"<|im_start|>", "<|im_end|>"}
    assert str(Path.cwd()) not in (tmp_path / "tokenizer_config.json").read_text()
    assert loaded.tokenizer.chat_template is None
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    chat = reloaded.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_finds_a_directory(tmp_path: Path) -> None:
    write_tokenizer(load_tokenizer("bytes"), tmp_path)
    found = quick_facts(tmp_path.name, base=tmp_path.parent)
    assert found is not None
    assert (found.vocab_size, found.source) == (262, tmp_path)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bpe-2", "Did you mean 'bpe-2k'"),
        ("nothing", "bpe-2k, bpe-8k, bytes"),
        ("{tmp}/file", "is a file"),
        ("{tmp}/empty", "contains no tokenizer files"),
        ("{tmp}/broken", "cannot be read"),
        ("org/name", r"cannot be loaded from the Hub .*bpe-2k, bpe-8k, bytes"),
        ("~unknown-user", "does not exist"),
    ],
)
def test_a_missing_tokenizer_is_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=message) as error:
        load_tokenizer(spec.format(tmp=tmp_path))
    assert "\n" not in str(error.value)


def test_names_the_line_of_an_invalid_chat_template(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text("{% for m in messages %}\n{{ m.content }\n")
    with pytest.raises(TokenizerError, match=r"mine\.jinja:2: "):
        resolve_chat_template("mine.jinja", tmp_path)
    with pytest.raises(TokenizerError, match="Did you mean 'chatml'"):
        resolve_chat_template("chatlm")


@pytest.mark.regression("tokenizer-config")
@pytest.mark.few(1)
@pytest.mark.parametrize(
    "name",
    ["tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "additional_chat_templates/rag.jinja"],
)
def test_detects_a_changed_file_of_a_tokenizer(small: Resolve, tmp_path: Path, name: str) -> None:
    place, target = tmp_path / "tokenizer", tmp_path / "model"
    place.mkdir()
    write_tokenizer(load_tokenizer("bytes"), place, chat_template="{{ messages }}")
    settings = small(tokenizer=str(place))
    assert prepare_directory(settings, target).state == "created"
    assert prepare_directory(settings, target).state == "reused"
    file = place / name
    file.parent.mkdir(exist_ok=True)
    if file.suffix == ".json":
        file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": "right"}))
    else:
        file.write_text("{{ messages }} changed")
    with pytest.raises(DirectoryError, match=rf"tokenizer .*changed: {re.escape(name)}"):
        prepare_directory(settings, target)
    assert prepare_directory(settings, target, refresh=True).state == "rebuilt"
    assert prepare_directory(settings, target).state == "reused"


def test_a_rebuild_keeps_the_users_files_among_the_templates(small: Resolve, tmp_path: Path) -> None:
    place, target = tmp_path / "tokenizer", tmp_path / "model"
    place.mkdir()
    write_tokenizer(load_tokenizer("bytes"), place, chat_template="{{ messages }}")
    templates = place / "additional_chat_templates"
    templates.mkdir()
    (templates / "rag.jinja").write_text("{{ messages }} rag")
    settings = small(tokenizer=str(place))
    prepare_directory(settings, target)
    written = target / "additional_chat_templates"
    assert (written / "rag.jinja").read_text() == "{{ messages }} rag"
    (written / "mine.jinja").write_text("mine")
    (written / "rag.jinja").write_text("edited")
    prepare_directory(settings, target, refresh=True)
    kept = {path.name: path.read_text() for path in written.iterdir()}
    assert kept == {"mine.jinja": "mine", "rag.jinja": "{{ messages }} rag", "rag.jinja.edited": "edited"}
    (templates / "rag.jinja").unlink()
    assert "rag" not in str(load_tokenizer(str(place)).tokenizer.chat_template)
    prepare_directory(settings, target, refresh=True)
    kept.pop("rag.jinja")
    assert {path.name: path.read_text() for path in written.iterdir()} == kept


@pytest.mark.few(2)
@pytest.mark.parametrize("name", ["runs/log", "/etc/x", "../x", "additional_chat_templates/../config.json", "a/b/c"])
def test_refuses_a_manifest_with_a_path_outside_the_directory(small: Resolve, tmp_path: Path, name: str) -> None:
    prepare_directory(small(), tmp_path / "model")
    manifest = tmp_path / "model" / "forgather.json"
    content = json.loads(manifest.read_text())
    content["files"][name] = content["files"]["config.json"]
    manifest.write_text(json.dumps(content))
    with pytest.raises(DirectoryError, match="is not the name of a file in the directory"):
        prepare_directory(small(), tmp_path / "model", refresh=True)


def test_reuses_a_directory_without_digests_of_tokenizer_files(small: Resolve, tmp_path: Path) -> None:
    prepare_directory(small(), tmp_path / "model")
    manifest = tmp_path / "model" / "forgather.json"
    content = json.loads(manifest.read_text())
    del content["tokenizer"]["files"]
    manifest.write_text(json.dumps(content))
    assert prepare_directory(small(), tmp_path / "model").state == "reused"


@pytest.mark.regression("P18")
def test_a_byte_order_mark_has_no_effect(tmp_path: Path) -> None:
    plain, marked = tmp_path / "plain", tmp_path / "marked"
    write_tokenizer(load_tokenizer("bytes"), _made(plain), chat_template=resolve_chat_template("chatml"))
    for file in plain.iterdir():
        (_made(marked) / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8-sig")
    loaded, unmarked = load_tokenizer(str(marked)), load_tokenizer(str(plain))
    assert loaded.tokenizer.chat_template == unmarked.tokenizer.chat_template
    assert loaded.tokenizer("a b")["input_ids"] == unmarked.tokenizer("a b")["input_ids"]
    assert loaded.facts.vocab_size == unmarked.facts.vocab_size
    assert quick_facts(str(marked)) == loaded.facts
    assert resolve_chat_template(str(marked / "chat_template.jinja")) == resolve_chat_template("chatml")


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory
