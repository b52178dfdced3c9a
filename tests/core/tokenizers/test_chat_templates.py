"""Chat templates: several templates of a tokenizer, tokens that end a turn, and masks of the assistant's text."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LogitsProcessorList

from forgather_core.errors import DirectoryError, TokenizerError
from forgather_core.export.directory import prepare_directory
from forgather_core.model.build import build
from forgather_core.options.shared import BuildOptions
from forgather_core.tokenizers.lookup import (
    load_tokenizer,
    quick_facts,
    resolve_chat_template,
    shipped_tokenizers,
)
from tests.support.settings import Resolve

LOADED = {name: load_tokenizer(name).tokenizer for name in ("bpe-2k", "bpe-8k", "bytes")}
CHATML = resolve_chat_template("chatml")
RAG = "{% for m in messages %}<|PAD|>{{ m.content }}<|UNK|>{% endfor %}"


def made_tokenizer(place: Path, templates: Any = None, *, files: dict[str, str] | None = None) -> Path:
    """Return a copy of the `bytes` tokenizer with templates in its tokenizer_config.json, or in files."""
    shutil.copytree(shipped_tokenizers()["bytes"], place)
    config = place / "tokenizer_config.json"
    if templates is not None:
        config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": templates}))
    for name, text in (files or {}).items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    return place


def eos(directory: Path) -> Any:
    return GenerationConfig.from_pretrained(directory).eos_token_id


# --- several templates -----------------------------------------------------------------------------------------------

SEVERAL: dict[str, dict[str, Any]] = {
    "files": {"files": {"chat_template.jinja": CHATML, "additional_chat_templates/rag.jinja": RAG}},
    "list": {"templates": [{"name": "default", "template": CHATML}, {"name": "rag", "template": RAG}]},
    "no default": {"files": {"additional_chat_templates/rag.jinja": RAG}},
    "list of one": {"templates": [{"name": "default", "template": CHATML}]},
    "files and list": {
        "templates": [{"name": "old", "template": RAG}],
        "files": {"chat_template.jinja": CHATML, "additional_chat_templates/rag.jinja": RAG.replace("m", "\r\n")},
    },
}


@pytest.mark.regression("P11")
@pytest.mark.few(2)
@pytest.mark.parametrize("case", SEVERAL)
def test_copies_several_templates_and_detects_changes(case: str, small: Resolve, tmp_path: Path) -> None:
    place = made_tokenizer(tmp_path / "tokenizer", **SEVERAL[case])
    assert quick_facts(str(place)) == load_tokenizer(str(place)).facts
    target, chosen = tmp_path / "model", small(tokenizer=str(place))
    assert prepare_directory(chosen, target).state == "created"
    before = AutoTokenizer.from_pretrained(place).chat_template
    assert dict(named(AutoTokenizer.from_pretrained(target, trust_remote_code=False).chat_template)) == named(before)
    assert prepare_directory(chosen, target).state == "reused"
    manifest = json.loads((target / "forgather.json").read_text())["files"]
    assert {file.relative_to(target).as_posix() for file in target.rglob("*.jinja")} <= manifest.keys()


def named(template: Any) -> dict[str, str]:
    return {"default": template} if isinstance(template, str) else template


@pytest.mark.regression("P11")
def test_chat_template_sets_the_default_and_keeps_the_others(small: Resolve, tmp_path: Path) -> None:
    place = made_tokenizer(tmp_path / "tokenizer", **SEVERAL["files"])
    (place / "chat_template.jinja").write_text("{{ messages }}")
    target = tmp_path / "model"
    for spec, default in (("chatml", CHATML), ("rag", RAG)):
        chosen = small(tokenizer=str(place), chat_template=spec)
        prepare_directory(chosen, target, refresh=True)
        assert AutoTokenizer.from_pretrained(target, trust_remote_code=False).chat_template == {
            "default": default,
            "rag": RAG,
        }
        assert prepare_directory(chosen, target).state == "reused"
    (place / "additional_chat_templates" / "rag.jinja").write_text(RAG + "!")
    with pytest.raises(DirectoryError, match=r"changed: additional_chat_templates/rag\.jinja\), chat_template"):
        prepare_directory(small(tokenizer=str(place), chat_template="rag"), target)
    with pytest.raises(
        TokenizerError, match=r"'rga' is neither a file, a shipped template nor a template of the tokenizer.*'rag'"
    ):
        prepare_directory(small(tokenizer=str(place), chat_template="rga"), target)


@pytest.mark.few(1)
@pytest.mark.parametrize("name", ["../x", "a/b", "", "..", "\x1b[31m"])
def test_a_template_name_that_is_no_file_name_is_a_one_line_error(name: str, small: Resolve, tmp_path: Path) -> None:
    place = made_tokenizer(tmp_path / "tokenizer", [{"name": name, "template": RAG}])
    with pytest.raises(TokenizerError, match="is not valid as a file name") as error:
        prepare_directory(small(tokenizer=str(place)), tmp_path / "model")
    assert str(error.value).isprintable()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer"]


@pytest.mark.few(2)
@pytest.mark.parametrize("templates", [[{"name": "x"}], [3], [{"name": "default", "template": 3}], 5])
def test_malformed_templates_are_a_one_line_error(templates: Any, tmp_path: Path) -> None:
    place = made_tokenizer(tmp_path / "tokenizer", templates)
    assert quick_facts(str(place)) is None
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(str(place))


# --- the end of a turn -----------------------------------------------------------------------------------------------


@pytest.mark.regression("E6")
@pytest.mark.few(1)
@pytest.mark.parametrize("tokenizer", LOADED)
def test_generation_stops_at_the_end_of_a_chatml_turn(tokenizer: str, small: Resolve, tmp_path: Path) -> None:
    made = prepare_directory(small(tokenizer=tokenizer, chat_template="chatml"), tmp_path / "model")
    assert eos(made.path) == [2, 5]
    assert made.notes == ()


@pytest.mark.regression("E6")
def test_a_new_model_saved_there_stops_at_the_end_of_a_turn(small: Resolve, tmp_path: Path) -> None:
    made = prepare_directory(small(chat_template="chatml"), tmp_path / "model")
    config = AutoConfig.from_pretrained(made.path, trust_remote_code=True)
    AutoModelForCausalLM.from_config(config, trust_remote_code=True).save_pretrained(made.path)
    assert eos(made.path) == [2, 5]
    assert prepare_directory(small(chat_template="chatml"), tmp_path / "model").state == "reused"


@pytest.mark.regression("E6")
def test_a_model_stops_at_the_end_of_a_turn(small: Resolve, tmp_path: Path) -> None:
    made = prepare_directory(small(chat_template="chatml"), tmp_path / "model")
    model = build(made.path, BuildOptions(device="cpu"))

    def end_turns(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([5 if ids.shape[1] > 4 else 7]), 0.0)

    ids = torch.tensor([[0, 9, 9]])
    found = model.generate(  # type: ignore[operator]
        ids, max_new_tokens=8, logits_processor=LogitsProcessorList([end_turns]), attention_mask=torch.ones_like(ids)
    )
    assert found[0].tolist() == [0, 9, 9, 7, 7, 5]


def loop(body: str) -> str:
    return "{% for m in messages %}" + body + "{% endfor %}"


ROLES = "{{ m.role }}: {{ m.content }}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
TEMPLATES = {
    "in a block": (loop("<|UNK|>{{ m.role }}\n\n{{ m.content | trim }}<|PAD|>\n"), [2, 1]),
    "eos_token": (loop(ROLES + "{% if m.role == 'assistant' %} {{ eos_token }}{% endif %}"), 2),
    "after the assistant only": (
        NO_SYSTEM + loop(ROLES + "{% if m.role == 'assistant' %}<|im_end|>{% endif %}"),
        [2, 5],
    ),
    "between turns only": (loop("{% if not loop.first %}<|im_end|>{% endif %}" + ROLES), [2, 5]),
    "another at the end": (loop(ROLES + "{{ '<|im_end|>' if loop.last else '<|im_start|>' }}"), [2, 5]),
    "text before it": (loop(ROLES + "\n[end] <|im_end|>\n"), [2, 5]),
    "parts": (loop("{% for part in m.content %}{{ part.text }}{% endfor %}<|im_end|>"), [2, 5]),
    "system first": ("{{ {}['x'] if messages[0].role != 'system' }}" + loop(ROLES + "<|im_end|>"), [2, 5]),
    "nothing": (loop(ROLES + "\n"), 2),
    "text alone": (loop("### {{ m.role }}\n{{ m.content }}\n\n"), 2),
    "repr": ("{{ messages }}", 2),
    "refuses": ("{{ raise_exception('no') }}", 2),
    "loops": (loop("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"), 2),
}


@pytest.mark.regression("E6")
@pytest.mark.few(2)
@pytest.mark.parametrize("case", TEMPLATES)
def test_generation_stops_at_the_end_of_a_templates_turn(case: str, small: Resolve, tmp_path: Path) -> None:
    template, expected = TEMPLATES[case]
    (tmp_path / "mine.jinja").write_text(template)
    started = time.perf_counter()
    made = prepare_directory(small(chat_template=str(tmp_path / "mine.jinja")), tmp_path / "model")
    assert (eos(made.path), made.notes) == (expected, ())
    assert time.perf_counter() - started < 20


@pytest.mark.few(1)
@pytest.mark.parametrize("end", ["<|eot_id|>", "<end_of_turn>", "[/INST]"])
def test_notes_an_end_of_turn_that_is_not_a_token(end: str, small: Resolve, tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_text(loop(f"{ROLES}{end}\n"))
    made = prepare_directory(small(chat_template=str(tmp_path / "mine.jinja")), tmp_path / "model")
    assert eos(made.path) == 2
    (note,) = made.notes
    assert f"ends turns with '{end}', which is not a token of the tokenizer" in note


@pytest.mark.regression("E6")
def test_uses_the_tokenizers_templates(small: Resolve, tmp_path: Path) -> None:
    place = made_tokenizer(tmp_path / "tokenizer", **SEVERAL["files"])
    assert eos(prepare_directory(small(tokenizer=str(place)), tmp_path / "model").path) == [2, 5, 3]


# --- text of the assistant ---------------------------------------------------------------------------------------

# Hypothesis draws strings of the source too, such as the markers of ChatML, which split this test's texts elsewhere.
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Mn", "Mc", "Me")), max_size=12).filter(
    lambda text: "<|im_" not in text
)
TALKS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), WORDS), min_size=1, max_size=5)


def rendered(talk: list[dict[str, str]], *, prompt: bool = False) -> str:
    """Render ChatML without Jinja."""
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in talk]
    return "".join(turns) + ("<|im_start|>assistant\n" if prompt else "")


@pytest.mark.regression("E5")
@pytest.mark.parametrize("name", LOADED)
@given(turns=TALKS)
@settings(max_examples=30, deadline=None)
def test_marks_the_assistants_tokens(name: str, turns: list[tuple[str, str]]) -> None:
    talk = [{"role": role, "content": content} for role, content in turns]
    tokenizer = LOADED[name]

    def render(talk: list[dict[str, str]], **options: Any) -> Any:
        return tokenizer.apply_chat_template(talk, chat_template=CHATML, **options)

    text = render(talk, tokenize=False)
    assert text == rendered(talk)
    assert render(talk, tokenize=False, add_generation_prompt=True) == rendered(talk, prompt=True)
    prompt = [at for at, message in enumerate(talk) if message["role"] == "assistant"]
    for at in prompt:  # the prompt to continue, and the training text
        assert text.startswith(render(talk[:at], tokenize=False, add_generation_prompt=True) if at else "<|im_start|>")
    found = render(talk, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
    expected_ids: list[int] = []
    expected_mask: list[int] = []
    for piece in re.split(r"(?<=<\|im_start\|>assistant\n)|(?<=<\|im_end\|>)", text):
        ids = tokenizer(piece, add_special_tokens=False)["input_ids"]
        is_assistant = (
            bool(expected_ids) and piece.endswith("<|im_end|>") and not piece.startswith(("\n", "<|im_start|>"))
        )
        expected_ids += ids
        expected_mask += [int(is_assistant)] * len(ids)
    assert (found["input_ids"], found["assistant_masks"]) == (expected_ids, expected_mask)
