"""Token ids of documents: special tokens once, truncation, repetition; chats through their template."""

from __future__ import annotations

from itertools import islice

import pytest

from forgather_core.data.corpus import Corpus
from forgather_core.data.tokenized import token_ids, tokenized_documents
from forgather_core.errors import DataError
from forgather_core.tokenizers.lookup import load_tokenizer, resolve_chat_template
from tests.core.tokenizers.test_lookup import LOADED

BYTES = LOADED["bytes"]
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]


def test_documents_are_terminated_truncated_and_repeated() -> None:
    corpus = Corpus("two", lambda: iter(["ab", "c" * 50]))
    found = list(islice(tokenized_documents(corpus, BYTES, longest=6), 4))
    assert found[0] == [0, *BYTES("ab", add_special_tokens=False)["input_ids"], 2]
    assert [len(d) for d in found] == [4, 6, 4, 6]
    assert found[:2] == found[2:]
    with pytest.raises(DataError, match="contains no text"):
        next(iter(tokenized_documents(Corpus("none", lambda: iter([])), BYTES)))


def with_template(template: str) -> object:
    tokenizer = load_tokenizer("bytes").tokenizer
    tokenizer.chat_template = template
    return tokenizer


def test_a_chat_is_rendered_by_the_template() -> None:
    ids = token_ids(CHAT, with_template(resolve_chat_template("chatml")))
    text = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n<|EOS|>"
    assert BYTES.decode(ids) == text
    assert ids.count(4) == ids.count(5) == 2  # special tokens are single tokens, not characters


CONTENTS = "{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "text"),
    [
        (CONTENTS, "HiYo<|EOS|>"),
        ("{{ bos_token }}" + CONTENTS, "<|BOS|>HiYo<|EOS|>"),
        ("{{ bos_token }}" + CONTENTS + "{{ eos_token }}", "<|BOS|>HiYo<|EOS|>"),
        (CONTENTS + "{{ eos_token }}{{ '\\n' }}", "HiYo<|EOS|>\n"),
    ],
)
def test_a_chat_has_its_special_tokens_once(template: str, text: str) -> None:
    assert BYTES.decode(token_ids(CHAT, with_template(template))) == text


def test_adds_no_second_end_token() -> None:
    def closing(text: str, **_: object) -> dict[str, list[int]]:
        return {"input_ids": [9] * len(text) + [2]}

    closing.eos_token_id = 2  # type: ignore[attr-defined]
    assert token_ids("ab", closing) == [9, 9, 2]


def test_a_chat_requires_a_template_that_accepts_it() -> None:
    with pytest.raises(DataError, match=r"no chat template .*: add --chat-template chatml"):
        token_ids(CHAT, BYTES)
    with pytest.raises(DataError, match="chat template rejects a chat of the dataset: no system"):
        token_ids(CHAT, with_template("{{ raise_exception('no system') }}"))
