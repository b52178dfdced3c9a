"""Find words that are not in the project's vocabulary: dialect, and former names.

python tools/language.py [--counts] [PATH ...]

Searches the tracked Python, Markdown, TOML, YAML and Jinja files (or those at or below PATH): docstrings, comments,
strings and identifiers, which are split at underscores and capitals. Prints `file:line: word -> use instead` for each
match, and with `--counts` also their number for each directory. The exit code is 1 if there is any.

A match that is correct belongs in ALLOWED, with the reason.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
SUFFIXES = {".py", ".md", ".toml", ".yaml", ".yml", ".jinja"}
# Files that earlier versions wrote, and quotations of former names.
EXEMPT = (
    "CHANGELOG.md",
    "tests/artifacts/*",
    "tests/packages/older_lm/*",
    "benchmarks/results/*",
    "tools/language.py",
    "tests/test_language.py",
)

# A phrase anywhere in a text, in the words of identifiers too.
PHRASES = {
    r"told|tell|tells|telling": "report, print, state, distinguish",
    r"is said|are said|was said|be said|said (?:so|of|in|by|with|at|on)|says so": "report, print, state",
    r"nobody": "no caller, no user, nothing; or the passive",
    r"anew": "again, from scratch",
    r"likeness(?:es)?": "source config",
    r"ours|theirs": "Forgather's, transformers', the plugin's",
    r"at hand": "available, given",
    r"the rest": "the others, everything else, the remaining ...",
    r"meant so": "intended",
    r"laid hands on": "changed",
    r"a thing": "the noun that it is",
    r"not so": "fails, false, has no effect",
    r"settled?|settles|settling": "resolve, resolved",
    r"fore(?:see|sees|saw|seen|seeing|sight|told|tell)": "step estimate, estimate, predict",
    r"trials?": "training check, model test",
    r"operations (?:a|per) token": "FLOPs/token",
    r"numbers of (?:a|the|its|their) (?:tensor|parameter|weight)s?": "elements",
    r"spreads?": "init std, standard deviation",
    r"learned (?:loss|nothing)|nothing learned": "loss on the first batch before and after",
    r"without tails": "truncated_normal_std",
    r"uniform by inputs": "fan_in_uniform_std",
    r"still optimizers?": "NoOpOptimizer",
    r"native(?:-| )twin": "native-parity",
    r"attention(?:-| )agreement": "attention-backends",
    r"options(?:-| )matter": "no-dead-options",
    r"against(?:-| )reference": "reference-parity",
    r"begin(?:s|ning)? of (?:the )?weights|how weights begin|(?:parts|part|weights) that begins?": "initialization",
}

# Former names of options, checks and files.
FLAGS = {
    r"--like(?![\w-])": "--from-config",
    r"--utilization(?![\w-])": "--mfu",
    r"--context(?![\w-])": "--context-length",
    r"--keep-logits(?![\w-])": "--full-logits",
    r"verify [^\n`]*--check(?![\w-])": "--checks",
    r"(?<!\w)\w+_drawings(?!\w)": "views",
    r"--checks? (?:[\w-]+,)*(?:rows|window|cache|labels|depth|spreads|equations|outputs)(?![\w-])": "its new name",
}

# Former names of classes, functions, arguments and variables in Python: (replacement, files in which it is one).
NAMES = {
    "keep_logits": ("full_logits", "*"),
    "sees": ("visible_keys", "*"),
    "rotated": ("apply_rope", "*"),
    "gated": ("glu", "*"),
    "Described": ("TensorRecord", "*"),
    "Refused": ("InvalidCheckpoint", "forgather*"),
    "Slot": ("TensorSlot", "*"),
    "put": ("replace_tensors", "forgather_core/checkpoint/read/*"),
    "places": ("tensor slots", "forgather_core/checkpoint/read/*"),
    "Step": ("ConfigUpdate", "forgather_core/checkpoint/*"),
    "rotate": ("rotate_checkpoints", "forgather_core/checkpoint/*"),
    "quiet": ("hold_saves", "forgather_core/checkpoint/*"),
    "shown": ("printable", "forgather_core/*"),
    "listed": ("truncated_list", "forgather_core/*"),
    "loaders": ("compatibility", "forgather*"),
    "Given": ("CliValue", "*"),
    "Watch": ("ProgressCallbacks", "*"),
    "Asked": ("ModelCommand", "*"),
    "_Asked": ("ModelCommand", "*"),
    "_Still": ("NoOpOptimizer", "*"),
    "Foresight": ("step estimate", "*"),
    "Subject": ("ModelUnderTest", "*"),
    "strengthen": ("randomize_weights", "*"),
    "strong": ("randomized_model", "*"),
    "fed": ("forward_in_chunks", "*"),
    "must": ("expect", "*"),
    "again": ("the loss on the first batch after training", "forgather*"),
    "learned": ("loss on the first batch before and after", "forgather*"),
    "course": ("loss curve", "*"),
    "utilization": ("mfu", "*"),
}
# Word boundaries, also within identifiers: Step|Foresight. The words of a phrase may be on two lines.
WORD_BEGINS, WORD_ENDS = r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))", r"(?:(?![A-Za-z])|(?<=[a-z])(?=[A-Z]))"
GAP = r"""[\s#>*"']+"""

# First words of a docstring that is not a sentence: "What", "How" and so on begin a clause; "Of" continues the name.
HALF = re.compile(r"\s*(What|How|Whether|Which|Where|When|Who|Whom|Whose|Why|Of|That)\b")
CLAUSE = re.compile(r"\s*([A-Z][a-z]+ (?:what|how)) (?!many )")  # "Return what is wrong": "Return the problem"
THIRD_PERSON = re.compile(
    r"\s*((?:Run|Make|Pack|Find|Compute|Return|Write|Collect|Print|Keep|Provide|Store|Wrap|Observe|Replace|Build)s) "
    r"(?!of |and )"
)
USE_A_SENTENCE = "an imperative (Return ..., Check ...) or a noun phrase"

# Matches that are correct: (pattern of the matching word, pattern of its line, files, reason).
ALLOWED = [
    (r"^--|spread|trial|keep_logits|utilization", r"(?i)\b(alias|deprecated|former|renamed|old name)", "*", "aliases"),
    (r"^trials?$", r"(?i)optuna|study", "*", "a trial of a hyperparameter search"),
    (r"utilization", r"gpu_memory_utilization", "*", "an option of vLLM"),
    (r"^(ours|theirs)$", r"^(?!.*\bof (ours|theirs)\b)", "tests/*", "the two sides of a comparison"),
    (r"^(ours|theirs)$", r"^(?!.*\bof (ours|theirs)\b)", "benchmarks/*", "the two sides of a comparison"),
    (r"", r"", "tests/core/test_deprecated.py", "every former name"),
    (r"^--", r"", "tests/cli/test_aliases.py", "every former flag"),
    (r"^--like$", r"", "tests/regressions.py", "faults as they were reported"),
    (r"spread", r"--check", "tests/e2e/test_third_party.py", "a former name of a check"),
    (r"", r'^    "[a-zA-Z_-]+": "[a-zA-Z_-]+",$', "forgather_core/checks/choose.py", "former names of checks"),
    (r"", r'^        "\w+": "\w+",$', "forgather_core/reference.py", "former names"),
    (r"^ours$", r'is_ours="made_by', "forgather_core/checks/shared/model_under_test.py", "a former name"),
    (r"trial", r"\btrial\b", "forgather_core/training_run/trainer.py", "a parameter of transformers' Trainer"),
    (r"^tell$", r"data\.tell\(\)", "*", "a method of files"),
    (r"told", r"OLD_NAMES", "forgather_core/definitions/check.py", "former names"),
    (r"Trial", r"TrialError", "forgather_core/errors.py", "a former name"),
    (r"rotate", r"rotate as rotate|def rotate", "forgather_core/checkpoint/*", "a former name"),
    (r"", r"Earlier names of checks|`native-twin`", "docs/verify.md", "former names of checks"),
    (r"--check$", r"tools/\w+\.py --check|format --check", "*", "an option of that tool"),
]


@dataclass(frozen=True)
class Match:
    """A word that is not in the vocabulary."""

    path: str
    line: int
    word: str
    use: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.word} -> {self.use}"


def matches(path: str, text: str) -> list[Match]:
    """Return the matches in a file, in the order of their lines, without those that ALLOWED covers.

    Args:
        path: Path relative to the project; its suffix selects the parser.
        text: The content.
    """
    starts = [0, *(found.end() for found in re.finditer(r"\n", text))]
    lines = text.split("\n")
    unique: dict[tuple[int, str], Match] = {}
    for position, word, use in _found(path, text):
        number = bisect_right(starts, position)
        match = Match(path, number, " ".join(word.split()), use)
        if not _allowed(path, match.word, lines[number - 1]):
            unique.setdefault((number, match.word.lower()), match)
    return sorted(unique.values(), key=lambda match: match.line)


def _found(path: str, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (position, word, replacement) of every match in a text."""
    split = text.replace("_", " ")  # the words of identifiers, at their positions
    for pattern, use in PHRASES.items():
        for found in re.finditer(f"{WORD_BEGINS}(?i:{pattern.replace(' ', GAP)}){WORD_ENDS}", split):
            yield found.start(), text[found.start() : found.end()], use
    for pattern, use in FLAGS.items():
        for found in re.finditer(pattern, text):
            yield found.start(), found[0], use
    for position, name in _identifiers(path, text):
        use, files = NAMES.get(name, ("", ""))
        if use and fnmatch(path, files):
            yield position, name, use
    if path.endswith(".py"):
        yield from _half_sentences(text)


def _identifiers(path: str, text: str) -> Iterator[tuple[int, str]]:
    """Yield (position, name) of the identifiers: in Python those of the code, elsewhere those between backticks."""
    if not path.endswith(".py"):
        for quoted in re.finditer(r"`[^`\n]+`", text):
            for found in re.finditer(r"(?<![\w-])[A-Za-z_]\w*", quoted[0]):
                yield quoted.start() + found.start(), found[0]
        return
    starts = [0, *(found.end() for found in re.finditer(r"\n", text))]
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME:
            yield starts[token.start[0] - 1] + token.start[1], token.string


def _half_sentences(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield (position, first words, replacement) of docstrings that are not complete sentences."""
    starts = [0, *(found.end() for found in re.finditer(r"\n", text))]
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        docstring = ast.get_docstring(node, clean=False)
        if docstring and (found := HALF.match(docstring) or CLAUSE.match(docstring) or THIRD_PERSON.match(docstring)):
            yield starts[node.body[0].lineno - 1], f'"""{found[1]} ...', USE_A_SENTENCE


def _allowed(path: str, word: str, line: str) -> bool:
    """Return whether ALLOWED covers a match."""
    return any(
        re.search(word_pattern, word, re.IGNORECASE) and re.search(line_pattern, line) and fnmatch(path, files)
        for word_pattern, line_pattern, files, _ in ALLOWED
    )


def tracked(paths: list[str]) -> list[str]:
    """Return the files to search, relative to the project: those that git tracks, or all in an unpacked archive.

    Args:
        paths: Files and directories, relative to the project; none means all.
    """
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--", *paths]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    else:
        chosen = [ROOT / path for path in paths or ("",)]
        files = [file for path in chosen for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
        listed = [file.relative_to(ROOT).as_posix() for file in files]
    names = [name for name in listed if Path(name).suffix in SUFFIXES]
    return [name for name in names if not any(fnmatch(name, pattern) for pattern in EXEMPT)]


def main() -> int:
    """Search the files and print the matches."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("paths", nargs="*", metavar="PATH", help="only files at or below these")
    parser.add_argument("--counts", action="store_true", help="count the matches by directory and by word")
    arguments = parser.parse_args()
    texts = {name: (ROOT / name).read_text(encoding="utf-8") for name in tracked(arguments.paths)}
    found = [match for name, text in texts.items() for match in matches(name, text)]
    print(*found, sep="\n", end="\n" if found else "")
    if arguments.counts:
        for title, counts in (
            ("by directory", Counter(str(Path(match.path).parent) for match in found)),
            ("by word", Counter(match.word.lower() for match in found)),
        ):
            print(f"\n{title}")
            for name, count in counts.most_common():
                print(f"{count:6}  {name}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
