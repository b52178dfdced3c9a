"""The pages of `dataset show` and `tokenizer train`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...filesystem.printable import shortened
from ..content import Content, Figure
from ..html import Html, card, columns, facts, tag
from ..tables import table
from ..units import count_of, with_noun

_LONGEST_EXAMPLE = 3000  # characters
_MOST_EXAMPLES = 50


def dataset(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a dataset."""
    counted, source = report["counted"], report["source"] or {}
    per_token = counted["characters_per_token"]
    read = "all documents" if counted["all"] else "read; the dataset has more"
    lengths = f"{counted['shortest']:,} to {counted['longest']:,}"
    described = [(column["name"], column["type"]) for column in report["columns"]]
    examples = report["examples"]
    return Content(
        kind="Dataset",
        title=report["dataset"],
        figures=[
            Figure("Documents", f"{counted['documents']:,}", read),
            Figure("Tokens", count_of(counted["tokens"]), f"{counted['tokens']:,}"),
            Figure("Characters per token", str(per_token), f"tokenizer {report['tokenizer']['name']}"),
            Figure("Median length", f"{counted['median']:,} tokens", lengths),
        ],
        blocks=[
            columns(
                card("Columns", table(("column", "type"), described, code=(0,), name="columns")),
                card("Source", facts(source)) if source else None,
            ),
            *(
                _example(number, example["tokens"], example["text"])
                for number, example in enumerate(examples[:_MOST_EXAMPLES], start=1)
            ),
        ],
    )


def _example(number: int, tokens: int, text: str) -> Html:
    drawn = shortened(text.expandtabs(4), _LONGEST_EXAMPLE)
    return card(f"Document {number:,}", tag("pre", drawn), lead=with_noun(tokens, "token"))


def tokenizer(report: Mapping[str, Any]) -> Content:
    """Return the content of the page of a trained tokenizer."""
    measured = report["measured_on"]
    part = "" if measured == report["documents"] else f", of the first {measured:,} documents"
    special = [(token, number) for token, number in report["special_tokens"].items()]
    return Content(
        kind="Trained tokenizer",
        title=report["directory"],
        subtitle=f"byte-level BPE, trained on {report['dataset']}",
        figures=[
            Figure("Vocab size", f"{report['vocab_size']:,}"),
            Figure("Bytes per token", str(report["bytes_per_token"]), f"1 without merges{part}"),
            Figure("Documents", f"{report['documents']:,}", f"{report['characters']:,} characters"),
            Figure("Time", f"{report['seconds']} s"),
        ],
        blocks=[
            columns(
                card("Special tokens", table(("token", "id"), special, right=(1,), code=(0,), name="special tokens")),
                card(
                    "Use",
                    facts({"model max length": f"{report['model_max_length']:,} tokens"}),
                    tag("pre", f"forgather -t llama/4M model --tokenizer {report['directory']} construct"),
                ),
            )
        ],
    )
