"""Check the files of a model directory before transformers, which has no size limits, opens them."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..errors import ForgatherError, access_hint
from .disk import UnsuitableFile, read_regular
from .printable import printable, shortened
from .strict_json import TOKENIZER_BYTES, is_tokenizer, read_object

BYTE_ORDER_MARK = "\ufeff"

TEXT_BYTES = 16_000_000  # a YAML file, a chat template, a source

# JSON files that transformers parses with Python's recursive parser.
_PARSED = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "adapter_config.json",
        "chat_template.json",
        "preprocessor_config.json",
        "processor_config.json",
        "vocab.json",
    }
)
# Suffixes of files that transformers may open, other than weights and their indexes.
_READ = (".json", ".jinja", ".txt", ".model", ".tiktoken", ".spm", ".bpe", ".py")
# The name that transformers uses. Forgather writes into no other subdirectory of a model directory.
TEMPLATES = "additional_chat_templates"
_MAY_HAVE_MARK = (".json", ".jinja", ".txt")
_WEIGHTS = (".safetensors", ".bin", ".index.json")
_LARGE = (".txt", ".model", ".tiktoken", ".spm", ".bpe")  # vocabularies


def read_text(file: Path, limit: int = TEXT_BYTES) -> str:
    """Return the text of an untrusted file, without a byte order mark.

    Raises:
        OSError: The file is missing, not a regular file, larger than `limit` bytes, or cannot be read.
        UnicodeDecodeError: The file is not UTF-8.
    """
    return read_regular(file, limit).decode("utf-8-sig")


@contextmanager
def without_byte_order_marks(directory: Path) -> Iterator[Path]:
    """Yield a directory that transformers can read: it rejects JSON that begins with a byte order mark.

    Args:
        directory: A tokenizer directory, checked by `check_files`.

    Yields:
        The directory itself, or a temporary copy of its small files without byte order marks.
    """
    names = [name.relative_to(directory) for name in (*directory.iterdir(), *directory.glob(f"{TEMPLATES}/*.jinja"))]
    names = [name for name in names if name.suffix in _READ and (directory / name).is_file()]
    if not any(_has_byte_order_mark(directory / name) for name in names):
        yield directory
        return
    with tempfile.TemporaryDirectory() as work:
        copy = Path(work) / directory.name
        for name in names:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(directory / name, copy / name)
            if name.suffix in _MAY_HAVE_MARK:
                (copy / name).write_bytes((copy / name).read_bytes().removeprefix(BOM_UTF8))
        yield copy


def _has_byte_order_mark(file: Path) -> bool:
    if file.suffix not in _MAY_HAVE_MARK:
        return False
    with file.open("rb") as stream:
        return stream.read(len(BOM_UTF8)) == BOM_UTF8


def skip_unsuitable(patterns: Sequence[str]) -> Callable[[str, list[str]], set[str]]:
    """Return an `ignore` function for `shutil.copytree`: names that match `patterns`, special files, large files."""
    by_name = shutil.ignore_patterns(*patterns)

    def ignored(directory: str, names: list[str]) -> set[str]:
        found = set(by_name(directory, names))
        for name in names:
            try:
                kind = (Path(directory) / name).stat()
            except OSError:
                found.add(name)
                continue
            too_large = stat.S_ISREG(kind.st_mode) and kind.st_size > TOKENIZER_BYTES
            if too_large or not (stat.S_ISREG(kind.st_mode) or stat.S_ISDIR(kind.st_mode)):
                found.add(name)
        return found

    return ignored


def check_files(directory: Path, error: type[ForgatherError]) -> None:
    """Check that the files of a model directory that transformers reads are regular, not too large, and valid JSON.

    Args:
        directory: The directory. A missing directory is accepted: the function that reads it raises a better error.
        error: Class of the error, which has a one-line message that names the file.
    """
    try:
        names = sorted(os.listdir(directory))  # noqa: PTH208 - names are all that is needed
    except OSError:
        return
    for name in names:
        if not name.endswith(_READ) or name.endswith(_WEIGHTS):
            continue
        try:
            _check_file(directory / name)
        except FileNotFoundError:  # a dangling link is a missing file
            continue
        except (OSError, ValueError) as reason:
            text = printable(shortened(str(getattr(reason, "strerror", None) or reason), 300))
            raise error(f"cannot be read: {text}", file=directory / name, hint=access_hint(reason)) from None
    templates = directory / TEMPLATES
    if templates.is_dir():
        check_files(templates, error)


def _check_file(file: Path) -> None:
    found = file.stat()
    if stat.S_ISDIR(found.st_mode):
        return
    if file.name in _PARSED:
        read_object(file)
        return
    large = is_tokenizer(file.name) or file.name.endswith(_LARGE)
    limit = TOKENIZER_BYTES if large else TEXT_BYTES
    if not stat.S_ISREG(found.st_mode) or found.st_size > limit:
        read_regular(file, limit)  # raises with the reason
        raise UnsuitableFile(0, "it changed while it was checked", str(file))
