"""The commands of `forgather dataset` and `forgather tokenizer` as functions."""

from __future__ import annotations

from pathlib import Path

from forgather_core.options.plain_options import DescribeDatasetOptions, TrainTokenizerOptions
from forgather_core.runtime.quiet import import_tqdm

from .listings import DatasetInfo, DatasetList, TrainedTokenizer
from .progress import SILENT, Progress
from .public import public


@public()
def list_datasets(project: str | Path | None = None) -> DatasetList:
    """List the configurations of a dataset project.

    Args:
        project: A built-in project, or a directory with YAML files; None lists all built-in projects.

    Raises:
        DataError: The project does not exist.
    """
    import_tqdm()
    from forgather_core.data.describe import list_datasets as run

    return DatasetList(run(None if project is None else str(project)))


@public(DescribeDatasetOptions)
def describe_dataset(
    project: str | Path,
    *,
    dataset_config: str | None = None,
    tokenizer: str = "bpe-8k",
    chat_template: str | None = None,
    examples: int = 3,
    limit: int | str = 1000,
    progress: Progress = SILENT,
) -> DatasetInfo:
    """Show the columns of a dataset, count documents and tokens, and tokenize the first documents.

    Args:
        project: A built-in project, a directory with YAML files, or a data file or directory.
        dataset_config: Configuration of the project; None uses `default`, or the only one.
        tokenizer: A shipped tokenizer, a directory, or a Hub id.
        chat_template: A Jinja file or the name of a template; None uses the tokenizer's default.
        examples: Number of documents to include in full.
        limit: Number of documents to read, or "all".
        progress: Callbacks; `item` gets the number of documents.

    Raises:
        DataError: The dataset cannot be read, or the tokenizer has no chat template for it.
        TokenizerError: The tokenizer or chat template does not exist.
    """
    import_tqdm()
    from forgather_core.data.describe import describe_dataset as run

    item = progress.item
    report = run(
        str(project),
        dataset_config,
        tokenizer=tokenizer,
        chat_template=chat_template,
        examples=examples,
        limit=limit,
        on_progress=None if item is None else lambda count: item(f"{count:,} documents"),
    )
    return DatasetInfo(report)


@public(TrainTokenizerOptions)
def train_tokenizer(
    dataset_project: str | Path,
    *,
    vocab_size: int,
    output_dir: str | Path,
    dataset_config: str | None = None,
    model_max_length: int = 2048,
    bars: bool = False,
) -> TrainedTokenizer:
    """Train a byte-level BPE tokenizer on a dataset and write its directory.

    Args:
        dataset_project: As `project` of `describe_dataset`.
        vocab_size: Vocabulary size: special tokens, 256 bytes, merges.
        output_dir: A new or empty directory.
        dataset_config: Configuration of the project; None uses `default`, or the only one.
        model_max_length: Maximum length of a text, in tokens.
        bars: Show the progress bars of the tokenizers library.

    Raises:
        TokenizerError: The directory is not empty, or the vocabulary does not fit the dataset.
        DataError: The dataset cannot be read.
        DirectoryError: The directory cannot be written.
    """
    import_tqdm()
    from forgather_core.commands.train_tokenizer import make_tokenizer

    report = make_tokenizer(
        str(dataset_project),
        dataset_config,
        vocab_size=vocab_size,
        directory=Path(output_dir),
        model_max_length=model_max_length,
        progress=bars,
    )
    return TrainedTokenizer(report)
