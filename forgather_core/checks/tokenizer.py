"""Tokenizer: tokenizer, config.json and generation_config.json of a directory agree, and their settings take effect.

A token id may be missing in some of these files. A tokenizer that has all bytes as tokens must restore every text;
other tokenizers must restore texts that they have decoded. The expected special tokens are those of
tokenizer_config.json (add_bos_token, add_eos_token), or else of the post-processor in tokenizer.json. To test
`generate()`, EOS is forced in one row after a few tokens, and excluded in the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from ..definitions.check import DoesNotApply, Measured, check, expect
from ..errors import CheckError, first_line
from ..model.directory_errors import load_config
from ..tokenizers.chat_templates import DEFAULT, templates_by_name
from ..tokenizers.lookup import load_tokenizer
from .shared.model_under_test import ModelUnderTest
from .shared.tokenizer_generation import check_generation, token_ids
from .shared.tokenizer_settings import (
    FILES,
    adds_a_space,
    expected_special_tokens,
    file_content,
    restores_any_text,
    texts,
)

NAMES = {"bos_token_id": "BOS", "eos_token_id": "EOS", "pad_token_id": "padding", "unk_token_id": "unknown"}
GENERATION = "generation_config.json"
_REPEATS = 3
CHAT = (("user", "forgather-question"), ("assistant", "forgather-answer"), ("user", "forgather-next"))


@check("tokenizer", cause="files of another tokenizer, special tokens that are added twice, or an ignored EOS")
def tokenizer(subject: ModelUnderTest) -> Iterator[Measured]:
    """Tokenizer and model agree on token ids; texts, special tokens, padding, chats and EOS follow the files."""
    if not any((subject.workdir / name).is_file() for name in FILES):
        raise DoesNotApply("the directory has no tokenizer")
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(subject.workdir, trust_remote_code=True)
    written = (subject.workdir / GENERATION).is_file()
    generation = GenerationConfig.from_pretrained(subject.workdir) if written else None
    yield from _check_ids(subject, loaded, generation)
    yield from _check_facts(subject)
    yield from _check_texts(subject, loaded)
    yield from _check_special_tokens(subject, loaded)
    yield from _check_padding(subject, loaded)
    yield from _check_chats(loaded)
    yield from check_generation(subject, loaded, generation)


def _check_ids(subject: ModelUnderTest, loaded: Any, generation: Any) -> Iterator[Measured]:
    config = load_config(subject.directory, CheckError).get_text_config()
    sources = {"the tokenizer": loaded, "config.json": config} | ({GENERATION: generation} if generation else {})
    for name, token in NAMES.items():
        found = {source: ids for source, one in sources.items() if (ids := token_ids(getattr(one, name, None)))}
        where = ", ".join(f"{source}: {', '.join(map(str, ids))}" for source, ids in found.items())
        # Several tokens may end a text; the tokenizer has only one of them.
        agree = not found or set.intersection(*map(set, found.values()))
        yield expect(f"{token}: the ids agree", bool(agree), where, failure=f"{token}: the ids disagree")
        too_large = max((i for ids in found.values() for i in ids), default=0) >= config.vocab_size
        failure = f"{token}: the id is not below vocab_size, {config.vocab_size}"
        yield expect(f"{token}: the id is below vocab_size", not too_large, where, failure=failure)
    token, largest = max(loaded.get_vocab().items(), key=lambda item: item[1])
    failure = f"the tokenizer makes ids that are not below vocab_size, {config.vocab_size}"
    where = f"{token!r} has the id {largest}"
    yield expect("all ids of the tokenizer are below vocab_size", largest < config.vocab_size, where, failure=failure)


def _check_facts(subject: ModelUnderTest) -> Iterator[Measured]:
    """Check that the tokenizer of the directory is that of the settings: its facts, and the tokens that it makes."""
    if subject.resolved is None or (expected := subject.resolved.tokenizer) is None:
        return
    written = load_tokenizer(str(subject.workdir), option=None)
    for fact in ("vocab_size", *NAMES, "model_max_length"):
        one, two = getattr(written.facts, fact), getattr(expected, fact)
        failure = f"{fact} of the directory's tokenizer is {one}; the tokenizer '{expected.name}' has {two}"
        yield expect(f"{fact} is that of the tokenizer it was written from", one == two, failure=failure)
    if not isinstance(expected.source, Path):
        return  # it would be loaded from the Hub
    source = load_tokenizer(str(expected.source), option=None).tokenizer
    added = [f"a \n{token}\n b" for token in sorted(source.get_added_vocab())]
    changed = [
        text
        for text in (*added, *texts(subject.seed).values())
        if written.tokenizer(text)["input_ids"] != source(text)["input_ids"]
    ]
    failure = f"the directory's tokenizer encodes {changed[0]!r} differently" if changed else ""
    yield expect("texts have the tokens of the tokenizer it was written from", not changed, failure=failure)


def _check_texts(subject: ModelUnderTest, loaded: Any) -> Iterator[Measured]:
    def decoded(text: str) -> str:
        ids = loaded(text)["input_ids"]
        return str(loaded.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    exact = restores_any_text(loaded)
    spaced = adds_a_space(loaded)  # Metaspace adds one only if the text does not begin with one
    for name, original in texts(subject.seed).items():
        text = original if exact else decoded(original)
        found = decoded(text)
        at = next((i for i, (one, two) in enumerate(zip(found, text, strict=False)) if one != two), len(text))
        where = f"character {at}: expected {text[at : at + 8]!r}, got {found[at : at + 8]!r}"
        holds = found == text or (spaced and text in (f" {found}", found.removeprefix(" ")))
        yield expect(f"{name}: decoding restores the text", holds, where, failure=f"{name}: the text is not restored")
        ids = loaded(text)["input_ids"]
        same = all(loaded(text)["input_ids"] == ids for _ in range(_REPEATS))
        yield expect(f"{name}: has the same tokens each time", same, failure=f"{name}: the tokens are random")


def _check_special_tokens(subject: ModelUnderTest, loaded: Any) -> Iterator[Measured]:
    contents = [file_content(subject.workdir, name) for name in ("tokenizer_config.json", "tokenizer.json")]
    expected_counts = expected_special_tokens(contents[0], contents[1], loaded.bos_token, loaded.eos_token)
    for name, text in texts(subject.seed).items():
        ids, plain = loaded(text)["input_ids"], loaded(text, add_special_tokens=False)["input_ids"]
        if not plain:
            continue  # the tokenizer cannot encode the text
        starts = range(len(ids) - len(plain) + 1)
        start = next((i for i in starts if ids[i : i + len(plain)] == plain), None)
        failure = f"{name}: special tokens change the other tokens"
        yield expect(f"{name}: special tokens surround the others", start is not None, failure=failure)
        if start is None:
            continue
        for token, added in (("BOS", ids[:start]), ("EOS", ids[start + len(plain) :])):
            special = loaded.bos_token_id if token == "BOS" else loaded.eos_token_id
            expected, count = expected_counts[token], added.count(special)
            if special is None:
                continue
            holds = count <= 1 if expected is None else count == expected
            number = "at most 1" if expected is None else str(int(expected))
            failure = f"{name}: by the tokenizer's files, expected {number} {token}, got {count}"
            yield expect(f"{name}: {token} is added as the files require", holds, str(ids[:3]), failure=failure)


def _check_padding(subject: ModelUnderTest, loaded: Any) -> Iterator[Measured]:
    if loaded.pad_token_id is None:
        return
    rows = list(texts(subject.seed).values())
    side = file_content(subject.workdir, "tokenizer_config.json").get("padding_side", loaded.padding_side)
    batch = loaded(rows, padding=True, return_attention_mask=True)
    alone = [loaded(text)["input_ids"] for text in rows]
    longest = max(map(len, alone))
    wrong: dict[str, int] = {}
    for number, (ids, mask, own) in enumerate(zip(batch["input_ids"], batch["attention_mask"], alone, strict=True)):
        pad = longest - len(own)
        left = pad if side == "left" else 0
        if mask not in ([0] * pad + [1] * len(own), [1] * len(own) + [0] * pad):
            wrong.setdefault("the attention mask is not 0 exactly on padding", number)
        elif mask != [0] * left + [1] * len(own) + [0] * (pad - left):
            wrong.setdefault(f"padding is not on the {side}", number)
        elif ids != [loaded.pad_token_id] * left + own + [loaded.pad_token_id] * (pad - left):
            wrong.setdefault("a padded text has other tokens than the text alone", number)
    failure, row = next(iter(wrong.items()), (None, None))
    yield expect(f"a batch, padded on the {side}", not wrong, f"row {row}", failure=failure)


def _check_chats(loaded: Any) -> Iterator[Measured]:
    for name, template in templates_by_name(loaded.chat_template).items():
        what = f"chat template '{name}'"
        try:
            text, prompted = (_rendered(loaded, template, prompt) for prompt in (False, True))
        except Exception as error:  # a template may raise any exception
            if name == DEFAULT:  # others may require tools or documents
                failure = f"{what} rejects a chat: {first_line(error)}"
                yield expect(f"{what} renders a chat", False, failure=failure)
            continue
        counts = {content: text.count(content) for _, content in CHAT}
        where = ", ".join(f"{content}: {count} times" for content, count in counts.items() if count != 1)
        failure = f"{what} does not contain each message once"
        yield expect(f"{what} contains each message once", not where, where, failure=failure)
        places = [text.find(content) for content in counts]
        failure = f"{what} changes the order of messages"
        yield expect(f"{what} keeps the order of messages", places == sorted(places) or bool(where), failure=failure)
        # Some templates end a chat with EOS unless a prompt follows.
        holds = prompted.startswith((text, text.removesuffix(loaded.eos_token or "")))
        failure = f"{what}: add_generation_prompt does more than append a prompt"
        yield expect(f"{what}: add_generation_prompt appends", holds, repr(prompted[-40:]), failure=failure)


def _rendered(loaded: Any, template: str, prompt: bool) -> str:
    """Render the chat, with lists of parts as contents if the template ignores plain text (multimodal models).

    Raises:
        Exception: The template rejects both kinds of contents.
    """
    options: dict[str, Any] = {"chat_template": template, "tokenize": False, "add_generation_prompt": prompt}
    found: list[str] = []
    problem: Exception | None = None
    for in_parts in (False, True):
        chat = [{"role": r, "content": [{"type": "text", "text": text}] if in_parts else text} for r, text in CHAT]
        try:
            found.append(str(loaded.apply_chat_template(chat, **options)))
        except Exception as error:  # a template may raise any exception
            problem = problem or error
    if not found:
        assert problem is not None
        raise problem
    return next((text for text in found if any(content in text for _, content in CHAT)), found[0])
