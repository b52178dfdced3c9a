"""Find, check and read chat templates, and determine the tokens that end a turn."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any

from ..errors import TokenizerError, access_hint
from ..filesystem.model_files import TEMPLATES, read_text
from ..filesystem.paths import expanded
from ..filesystem.printable import printable, shortened
from ..options.spec import did_you_mean

DEFAULT = "default"  # transformers' name of the template that is used by default

_MAX_LINES = 200_000  # limit of executed lines of a template; rendering three messages takes a few hundred
_ANSWER = "forgather-answer"
_CHAT = ({"role": "user", "content": "forgather-question"}, {"role": "assistant", "content": _ANSWER})
_NEXT = {"role": "user", "content": "forgather-next"}
_TOKEN_LIKE = re.compile(r"\s*(<[^<>\s]+>|\[/?[A-Z_]+\])")


def shipped_chat_templates() -> dict[str, Path]:
    """Return the paths of the chat templates shipped with Forgather, by name."""
    root = Path(str(files("forgather_core.tokenizers") / "templates"))
    return {p.stem: p for p in sorted(root.glob("*.jinja"))}


def resolve_chat_template(spec: str, base: Path | None = None, own: Mapping[str, str] | None = None) -> str:
    """Return the text of a chat template: a file, a shipped template (`chatml`), or a template of the tokenizer.

    Args:
        spec: Path of a file, or name of a template.
        base: Directory in which relative paths are searched first, before the working directory.
        own: The tokenizer's templates by name.

    Raises:
        TokenizerError: The template does not exist, its file cannot be read, or its Jinja syntax is invalid.
    """
    own = own or {}
    shipped = shipped_chat_templates()
    path = next((p for p in candidates(spec, base) if p.is_file()), None)
    path = path or shipped.get(spec.removesuffix(".jinja"))
    if path is None and spec in own:
        return own[spec]
    if path is None:
        names = [*shipped, *(f"{_quoted(name)} of the tokenizer" for name in own)]
        hint = did_you_mean(spec, [*shipped, *own]) or f"use {', '.join(names)}, or a Jinja file"
        problem = f"'{spec}' is neither a file, a shipped template nor a template of the tokenizer"
        raise TokenizerError(problem, option="--chat-template", hint=hint)
    try:
        text = read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        problem = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise TokenizerError(problem, option="--chat-template", file=path, hint=access_hint(error)) from None
    _check_template(text, path)
    return text


def candidates(spec: str, base: Path | None) -> list[Path]:
    """Return the paths to try, in order, for a path that a user entered: relative to `base`, then as entered."""
    path = expanded(spec)
    return [base / path, path] if base is not None else [path]


def _check_template(text: str, path: Path) -> None:
    from jinja2 import TemplateSyntaxError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):  # transformers' tag that marks the text of the assistant
        tags = {"generation"}  # noqa: RUF012 - jinja2 requires a plain set

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    try:
        ImmutableSandboxedEnvironment(extensions=[loopcontrols, Generation]).parse(text)
    except TemplateSyntaxError as error:
        problem, hint = error.message or "the syntax is invalid", "correct the template"
        raise TokenizerError(problem, option="--chat-template", file=path, line=error.lineno, hint=hint) from None


def templates_in(directory: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the chat templates of a tokenizer's directory by name, as transformers reads them.

    Args:
        directory: The tokenizer's directory.
        config: Content of its tokenizer_config.json; its templates are used if there are no template files.

    Raises:
        OSError, UnicodeDecodeError: A file cannot be read.
        TypeError, KeyError: The templates in `config` are malformed.
    """
    default = directory / "chat_template.jinja"
    files = {DEFAULT: default} if default.is_file() else {}
    files |= {file.name.removesuffix(".jinja"): file for file in sorted((directory / TEMPLATES).glob("*.jinja"))}
    if files:
        texts = {name: read_text(file) for name, file in files.items()}
        return {name: text.replace("\r\n", "\n").replace("\r", "\n") for name, text in texts.items()}
    return templates_by_name(config.get("chat_template"))


def templates_by_name(templates: Any) -> dict[str, str]:
    """Return chat templates by name, from a text, a tokenizer's dict, or the list of a tokenizer_config.json.

    Raises:
        TypeError, KeyError: The templates are malformed.
    """
    if templates is None:
        return {}
    if isinstance(templates, str):
        return {DEFAULT: templates}
    if not isinstance(templates, Mapping):
        templates = {item["name"]: item["template"] for item in templates}
    if not all(isinstance(part, str) for pair in templates.items() for part in pair):
        raise TypeError("a chat template is not a string")
    return dict(templates)


def check_names(templates: Mapping[str, str]) -> None:
    """Check that each template name is valid as a file name.

    Raises:
        TokenizerError: A name contains a path separator or is not printable.
    """
    for name in templates:
        if not name.isprintable() or "/" in name or "\\" in name or name in ("", ".", ".."):
            problem = f"the name of the chat template {_quoted(name)} is not valid as a file name"
            raise TokenizerError(problem, option="--tokenizer", hint="rename it in the tokenizer's files")


def turn_ends(tokenizer: Any, templates: Mapping[str, str]) -> tuple[list[int], list[str]]:
    """Return the tokens that end the assistant's turn in chat templates.

    Renders a conversation with each template. The token after the assistant's text is the end of the turn.

    Args:
        tokenizer: A transformers tokenizer.
        templates: Template texts by name.

    Returns:
        The distinct token ids, in the order of the templates; and a note for each template that ends turns with a text
        that looks like a token but is not in the tokenizer.
    """
    ids: list[int] = []
    notes: list[str] = []
    for name, template in templates.items():
        token_id, text = _turn_end(tokenizer, template)
        if token_id is not None and token_id not in ids:
            ids.append(token_id)
        elif token_id is None and text is not None:
            label = "" if len(templates) == 1 else f" {_quoted(name)}"
            notes.append(
                f"the chat template{label} ends turns with {_quoted(text)}, which is not a token of the tokenizer: "
                "generate() does not stop there; use a tokenizer that has this token"
            )
    return ids, notes


def _turn_end(tokenizer: Any, template: str) -> tuple[int | None, str | None]:
    """Return the token id that ends the assistant's turn, or a text that looks like a token but is not one."""
    added = {str(token): index for index, token in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    at_end, between = _after_answer(tokenizer, template)
    if at_end and (token := _first(added, at_end)) is not None:
        return added[token], None
    # Some templates end a turn only if another one follows.
    if between and (token := _first(added, between)) is not None and between.lstrip().startswith(token):
        return added[token], None
    match = _TOKEN_LIKE.match(at_end or between)
    if match is None:
        return None, None
    index = tokenizer.get_vocab().get(match[1])
    return index, None if index is not None else match[1]


def _first(tokens: Mapping[str, int], text: str) -> str | None:
    """Return the token that occurs first in a text, the longest one if several start there, or None."""
    matches = [(text.index(token), -len(token), token) for token in tokens if token.strip() and token in text]
    return min(matches)[2] if matches else None


def _after_answer(tokenizer: Any, template: str) -> tuple[str, str]:
    """Return the text after the assistant's answer: (at the end of a conversation, before another message)."""
    for system in ((), ({"role": "system", "content": "forgather-system"},)):
        for form in (_as_text, _as_parts):
            chat = [form(message) for message in (*system, *_CHAT)]
            text = _render(tokenizer, template, chat)
            if _ANSWER in text:
                longer = _render(tokenizer, template, [*chat, form(_NEXT)])
                between = longer.partition(_ANSWER)[2].partition(_NEXT["content"])[0]
                return text.rpartition(_ANSWER)[2], between
    return "", ""


def _as_text(message: Mapping[str, str]) -> dict[str, Any]:
    return dict(message)


def _as_parts(message: Mapping[str, str]) -> dict[str, Any]:
    return {"role": message["role"], "content": [{"type": "text", "text": message["content"]}]}


def _render(tokenizer: Any, template: str, chat: list[dict[str, Any]]) -> str:
    """Return the rendered conversation, or an empty text if the template rejects it."""
    try:
        with _line_limit():
            return str(tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False))
    except Exception:  # a template may raise any exception
        return ""


@contextmanager
def _line_limit() -> Iterator[None]:
    """Limit the executed lines of a template, to stop endless loops."""
    remaining = _MAX_LINES

    def count(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal remaining
        if frame.f_code.co_filename != "<template>":
            return None
        remaining -= 1
        if remaining < 0:
            raise TimeoutError("the template runs too long")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)


def _quoted(text: str) -> str:
    return f"'{printable(shortened(text, 100))}'"
