"""The check of tokenizers passes on correct directories, and names what is wrong with a mistake."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, GenerationMixin, LlamaConfig, PreTrainedTokenizerFast

from forgather_core.checks.run import verify
from forgather_core.checks.tokenizer import tokenizer
from forgather_core.checks.try_check import FAILED, PASSED, SKIPPED
from forgather_core.commands.construct import construct
from forgather_core.definitions.check import failure_text
from forgather_core.definitions.registry import registry
from forgather_core.settings.layers import find_configuration
from forgather_core.settings.resolve import resolve

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>")
NAMES = dict(zip(("bos_token", "eos_token", "pad_token", "unk_token"), SPECIAL, strict=True))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {
        "output_dir": tmp_path_factory.mktemp("tokenizer") / "model",
        "tokenizer": "bytes",
        "chat_template": "chatml",
    }
    return construct(resolve(find_configuration("llama/4M", registry(), Path()), options)).directory.path


def outcome(path: Path, seed: int = 0) -> dict[str, Any]:
    """Run the check on a directory, and return its row of the report."""
    row: dict[str, Any] = verify(path, [tokenizer], seed=seed)["checks"][0]
    return row


def failures(path: Path) -> list[str]:
    row = outcome(path)
    assert row["result"] == FAILED
    return [failure_text(one) for one in row["measured"] if not one["holds"]]


def changed(written: Path, target: Path, file: str, **changes: Any) -> Path:
    """Copy a directory, and change keys of a JSON file."""
    shutil.copytree(written, target)
    content = json.loads((target / file).read_text()) | changes
    (target / file).write_text(json.dumps(content))
    return target


def template(*tokens: str) -> dict[str, Any]:
    pieces = [{"SpecialToken": {"id": token, "type_id": 0}} for token in tokens]
    text = {"Sequence": {"id": "A", "type_id": 0}}
    special = {"<|BOS|>": {"id": "<|BOS|>", "ids": [0], "tokens": ["<|BOS|>"]}}
    return {"type": "TemplateProcessing", "single": [*pieces, text], "pair": [], "special_tokens": special}


FILES: dict[str, tuple[str, dict[str, Any], str]] = {
    "EOS of config.json": ("config.json", {"eos_token_id": 7}, "EOS: the ids disagree, at the tokenizer: 2, config.js"),
    "padding of generation": ("generation_config.json", {"pad_token_id": 9}, "padding: the ids disagree"),
    "BOS too large": ("config.json", {"bos_token_id": 999}, "BOS: the id is not below vocab_size, 262, at the tokeni"),
    "small vocabulary": ("config.json", {"vocab_size": 200}, "makes ids that are not below vocab_size, 200, at '"),
    "decoder": ("tokenizer.json", {"decoder": {"type": "Fuse"}}, "ASCII: the text is not restored, at character 0"),
    "two BOS": (
        "tokenizer.json",
        {"post_processor": template("<|BOS|>", "<|BOS|>")},
        "by the tokenizer's files, expected 1 BOS, got 2",
    ),
    "EOS ends no text": (
        "generation_config.json",
        {"eos_token_id": None},
        "generate() does not stop at EOS of the tokenizer (2), at 8 new tokens",
    ),
    "end of a turn": (
        "generation_config.json",
        {"eos_token_id": 2},
        "generate() does not stop at the end of a turn (5)",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_a_mistake_in_a_file_is_named(case: str, written: Path, tmp_path: Path) -> None:
    file, changes, expected = FILES[case]
    texts = failures(changed(written, tmp_path / "model", file, **changes))
    assert any(expected in text for text in texts), texts


TEMPLATES = {
    "twice": (
        CHATML.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}"),
        "does not contain each message once",
    ),
    "first only": ("{{ messages[0].content }}", "forgather-answer: 0 times, forgather-next: 0 times"),
    "reversed": (CHATML.replace("messages", "messages | reverse"), "changes the order of messages"),
    "prompt": ("{% if add_generation_prompt %}x{% endif %}" + CHATML, "add_generation_prompt does more than append"),
    "refused": ("{{ raise_exception('no chats') }}", "chat template 'default' rejects a chat: no chats"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_a_mistake_in_a_chat_template_is_named(case: str, written: Path, tmp_path: Path) -> None:
    text, expected = TEMPLATES[case]
    directory = shutil.copytree(written, tmp_path / "model")
    (directory / "chat_template.jinja").write_text(text)
    texts = failures(directory)
    assert any(expected in one for one in texts), texts


def other_side(self: Any, text: Any, found: Any) -> None:
    if isinstance(text, list):
        found["input_ids"] = [sorted(ids, key=lambda i: i == self.pad_token_id) for ids in found["input_ids"]]
        found["attention_mask"] = [mask[::-1] for mask in found["attention_mask"]]


def unmasked(_: Any, text: Any, found: Any) -> None:
    if isinstance(text, list):
        found["attention_mask"] = [[1] * len(mask) for mask in found["attention_mask"]]


def other_tokens(_: Any, text: Any, found: Any) -> None:
    if isinstance(text, list):
        found["input_ids"] = [[*ids[:-1], 77] for ids in found["input_ids"]]


def rewritten(_: Any, text: Any, found: Any) -> None:
    if found["input_ids"][0] == 0:  # with BOS
        found["input_ids"] = [*found["input_ids"], 77, 0][1:]


CALLS: dict[str, tuple[Callable[..., None], str]] = {
    "side": (other_side, "padding is not on the left, at row"),
    "mask": (unmasked, "the attention mask is not 0 exactly on padding, at row"),
    "batch": (other_tokens, "a padded text has other tokens than the text alone, at row 0"),
    "no BOS": (rewritten, "by the tokenizer's files, expected 1 BOS, got 0"),
    "special": (
        lambda _, __, found: found["input_ids"][0] == 0 and found["input_ids"].reverse(),
        "ASCII: special tokens change the other tokens",
    ),
}


@pytest.mark.parametrize("case", CALLS)
def test_a_mistake_of_the_tokenizer_is_named(case: str, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, expected = CALLS[case]
    loaded = AutoTokenizer.from_pretrained(written, trust_remote_code=True)
    call = type(loaded).__call__

    def mistaken(self: Any, text: Any, *args: Any, **options: Any) -> Any:
        found = call(self, text, *args, **options)
        change(self, text, found)
        return found

    monkeypatch.setattr(type(loaded), "__call__", mistaken)
    texts = failures(written)
    assert any(expected in text for text in texts), texts


GENERATE: dict[str, tuple[Callable[[Any, dict[str, Any]], Any], str]] = {
    "samples": (lambda make, options: make(**{"do_sample": True} | options), "generate() samples, although"),
    "fill": (
        lambda make, options: (text := make(**options)).index_fill(1, (text[0] == text[0]).nonzero()[-1:, 0], 9),
        "generate() does not fill a row with the padding token after EOS of the tokenizer (2), at row 0",
    ),
    "early": (
        lambda make, options: make(**options)[:, : (10 if len(options["input_ids"]) > 1 else None)],
        "generate() ends row 1 before max_new_tokens=8, without EOS, at 5 new tokens",
    ),
}


@pytest.mark.parametrize("case", GENERATE)
def test_a_mistake_of_generate_is_named(case: str, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, expected = GENERATE[case]
    generate = GenerationMixin.generate
    monkeypatch.setattr(
        GenerationMixin, "generate", lambda self, **options: change(lambda **given: generate(self, **given), options)
    )
    texts = failures(written)
    assert any(expected in text for text in texts), texts


def test_a_correct_definition_passes(written: Path) -> None:
    row = outcome(written)
    assert row["result"] == PASSED, row
    cases = {one["what"] for one in row["measured"]}
    assert {"emoji: decoding restores the text", "a batch, padded on the left"} <= cases
    assert {
        "generate() fills a row after the end of a turn (5)",
        "chat template 'default': add_generation_prompt appends",
    } <= cases


def llama_2() -> Tokenizer:
    """Return a tokenizer of characters with byte fallback, and the parts of Llama 2."""
    pieces = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz"]
    model = models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], byte_fallback=True)
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return made


def metaspace() -> Tokenizer:
    made = llama_2()
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)])
    return made


def with_prefix_space() -> Tokenizer:
    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    made = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=True)
    return made


def words() -> Tokenizer:
    pieces = [*SPECIAL, "def", "f", "return", "one", "two", "##t", "(", ")", ".", ","]
    made = Tokenizer(models.WordPiece(vocab={piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return made


def unigram() -> Tokenizer:
    pieces = [*SPECIAL, "▁", "▁t", "th", "e", "in", "g", "a", "0", "1"]
    made = Tokenizer(models.Unigram([(piece, -1.0 - i / 10) for i, piece in enumerate(pieces)], unk_id=3))
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return made


MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}[INST] {{ m.content | trim }} [/INST]{% endfor %}"
)
PARTS = "{% for m in messages %}{% for part in m.content %}{{ part['text'] }}\n{% endfor %}{% endfor %}" + PROMPT
PHI = CHATML + "{% if add_generation_prompt %}<|im_start|>{% else %}{{ eos_token }}{% endif %}"
CORRECT: dict[str, tuple[Callable[[], Tokenizer], dict[str, Any]]] = {
    "Llama 2": (llama_2, {"chat_template": MISTRAL}),
    "Llama 2, BOS only": (llama_2, {"add_bos_token": True, "add_eos_token": False, "padding_side": "right"}),
    "EOS only": (llama_2, {"add_eos_token": True, "chat_template": PARTS}),
    "Metaspace": (metaspace, {"padding_side": "left"}),
    "prefix space": (with_prefix_space, {"chat_template": PHI}),
    "words": (words, {"chat_template": {"rag": "{{ documents[0].text }}", "default": CHATML + PROMPT}}),
    "Unigram": (unigram, {}),
    "no padding": (with_prefix_space, {"pad_token": None}),
}


@pytest.mark.few(4)
@pytest.mark.parametrize("case", CORRECT)
def test_other_correct_tokenizers_pass(case: str, tmp_path: Path) -> None:
    make, options = CORRECT[case]
    directory = tmp_path / "model"
    wrapped = PreTrainedTokenizerFast(tokenizer_object=make(), **(NAMES | options))
    wrapped.save_pretrained(directory)
    ids = {"bos_token_id": 0, "eos_token_id": [1, 5], "pad_token_id": wrapped.pad_token_id}
    sizes = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    LlamaConfig(**sizes, num_attention_heads=2, **ids, architectures=["LlamaForCausalLM"]).save_pretrained(directory)
    if case == "Metaspace":
        transformers.GenerationConfig(**ids, do_sample=True, temperature=0.6).save_pretrained(directory)
    row = outcome(directory, seed=1)
    assert row["result"] == PASSED, [one for one in row["measured"] if not one["holds"]]


def test_a_directory_without_tokenizer_is_skipped(tmp_path: Path) -> None:
    LlamaConfig(vocab_size=100, hidden_size=32, num_hidden_layers=1).save_pretrained(tmp_path / "model")
    row = outcome(tmp_path / "model")
    assert (row["result"], row["reason"]) == (SKIPPED, "the directory has no tokenizer")
