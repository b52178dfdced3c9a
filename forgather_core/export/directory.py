"""The model directory: written whole or not at all, reused when it fits, rebuilt without losing a foreign file."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path

from ..errors import DirectoryError
from ..filesystem.atomic import carry, carry_over, directory_lock, replace_directory, staging_directory, sweep_stale
from ..filesystem.model_files import TEMPLATES
from ..filesystem.paths import refuse_unsuitable_place
from ..model.manifest import EDITED, MANIFEST, MISSING, SPECIAL, Manifest, edited_files, read_manifest
from ..runtime.short_repr import Brief
from ..settings.resolve import Settings
from .contents import Plan, plan_contents, write_contents

WEIGHT_GLOBS = ("*.safetensors", "pytorch_model*.bin", "*.index.json")
_CHANGED = {EDITED: "had been edited", SPECIAL: "is not a regular file"}


@dataclass(frozen=True, repr=False)
class ModelDirectory(Brief):
    """A model directory that is ready to be loaded.

    Args:
        path: Where it is.
        state: `created`, `reused`, `rebuilt` or `kept` (used as it is, although it differs).
        manifest: What it was built from.
        notes: What a user must know, a sentence each.
    """

    path: Path
    state: str
    manifest: Manifest
    notes: tuple[str, ...] = ()


def prepare_directory(
    settings: Settings,
    target: Path,
    *,
    refresh: bool = False,
    keep: bool = False,
    on_wait: Callable[[], None] | None = None,
) -> ModelDirectory:
    """Make sure that `target` is the model directory of these settings. Parameters as of `draft_directory`."""
    with draft_directory(settings, target, refresh=refresh, keep=keep, on_wait=on_wait) as draft:
        return draft.commit()


@dataclass
class Draft:
    """A model directory that can be built from; a new one takes its place only by `commit()`.

    Args:
        path: Where its files are for now: a directory of the same name, beside its place, if it is new.
        target: Its place.
        result: What it will be.
        old: The manifest of what stands at `target` and is to be replaced.
    """

    path: Path
    target: Path
    result: ModelDirectory
    old: Manifest | None = None

    @property
    def is_new(self) -> bool:
        """Whether it has yet to take its place."""
        return self.path != self.target

    def commit(self, drop: Collection[str] = ()) -> ModelDirectory:
        """Put a new directory in its place, with every file of the old one that Forgather did not write.

        Args:
            drop: Names in the old directory that are superseded.

        Raises:
            DirectoryError: The operating system refuses; what stood there is as it was.
        """
        if self.is_new:
            known, notes = None, tuple[str, ...]()
            if self.target.exists():
                known = {entry.name for entry in self.target.iterdir()}
                if _is_folder(self.target / TEMPLATES):
                    known |= {f"{TEMPLATES}/{entry.name}" for entry in (self.target / TEMPLATES).iterdir()}
                notes = _keep_what_is_not_ours(self, known - set(drop))
            replace_directory(self.path, self.target, known=known)
            self.path = self.target
            self.result = replace(self.result, notes=(*self.result.notes, *notes))
        return self.result


@contextmanager
def draft_directory(
    settings: Settings,
    target: Path,
    *,
    refresh: bool = False,
    keep: bool = False,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[Draft]:
    """The model directory of these settings: the one at `target`, or a draft of it. Its place is held alone.

    Args:
        settings: The settled options.
        target: The model directory, there or not.
        refresh: Rebuild it if it exists.
        keep: Use it as it is if it exists, whatever it was built from.
        on_wait: Called when another process holds the directory.

    Raises:
        DirectoryError: It is not ours, was edited by hand, or was built from other options or sources.
        ExportError, ConfigurationError, TokenizerError: It cannot be built; nothing was written.
    """
    if refresh and keep:
        raise DirectoryError("--refresh-model and --keep exclude each other: rebuild the directory, or use it as it is")
    plan = plan_contents(settings)
    with directory_lock(target, on_wait=on_wait):
        sweep_stale(target)
        manifest = _own(target)
        if manifest is not None and not refresh:
            yield _as_it_stands(plan, manifest, target, keep=keep)
            return
        refuse_unsuitable_place(target)
        # Loaders call the module that they make of the sources after the directory: the draft has the final name.
        with staging_directory(target) as path:
            contents = write_contents(plan, path)
            state = "rebuilt" if manifest is not None else "created"
            yield Draft(path, target, ModelDirectory(target, state, contents.manifest, contents.notes), manifest)


def _as_it_stands(plan: Plan, manifest: Manifest, target: Path, *, keep: bool) -> Draft:
    differences = _differences(plan, manifest, target)
    if differences and not keep:
        raise DirectoryError(
            f"{target} is not what these settings would build: {'; '.join(differences)}. Rebuild it with "
            "--refresh-model (-r), use it as it is with --keep, or choose another --output-dir"
        )
    notes = tuple(f"kept although different: {difference}" for difference in differences)
    return Draft(target, target, ModelDirectory(target, "kept" if differences else "reused", manifest, notes))


def _own(target: Path) -> Manifest | None:
    """The manifest of an existing directory of ours; None where there is nothing yet."""
    if not target.exists():
        if target.is_symlink():
            raise DirectoryError(f"{target} is a link that leads nowhere: choose another --output-dir")
        return None
    if not target.is_dir():
        raise DirectoryError(f"{target} is not a directory: choose another --output-dir")
    manifest = read_manifest(target)
    if manifest is None and any(target.iterdir()):
        raise DirectoryError(
            f"{target} exists and is no model directory of Forgather's (it has no {MANIFEST}): choose another "
            "--output-dir"
        )
    return manifest


def _differences(plan: Plan, manifest: Manifest, target: Path) -> list[str]:
    found = []
    edited = edited_files(target, manifest.files)
    for state in (EDITED, MISSING, SPECIAL):
        names = [name for name, how in edited.items() if how == state]
        text = state if state == SPECIAL else f"{state} since it was built"
        found += [f"{text}: {', '.join(sorted(names))}"] if names else []
    changed = plan.changed_options(manifest)
    found += [f"built from other options: {', '.join(changed)}"] if changed else []
    sources = plan.changed_sources(manifest)
    found += [f"built from other sources: {', '.join(sources)}"] if sources else []
    return found


def _keep_what_is_not_ours(draft: Draft, there: Collection[str]) -> tuple[str, ...]:
    """Bring along every file that Forgather did not write, and a copy of those that were edited since."""
    target, staging, old = draft.target, draft.path, draft.old
    # Weights are never Forgather's to drop here, whatever a manifest lists.
    ours = {name for name in old.files if not _is_weights(name)} | {MANIFEST} if old is not None else set()
    inside = {name for name in there if name.startswith(f"{TEMPLATES}/")}
    if any(name.startswith(f"{TEMPLATES}/") for name in ours) or os.path.lexists(staging / TEMPLATES):
        there = set(there) - ({TEMPLATES} if inside else set())
    else:
        there = set(there) - inside  # the folder is not Forgather's: it is carried along as a whole
    foreign = sorted(set(there) - ours)
    if any(name.startswith(f"{TEMPLATES}/") for name in foreign):
        (staging / TEMPLATES).mkdir(exist_ok=True)
    notes = []
    for name in [name for name in foreign if os.path.lexists(staging / name)]:
        # A foreign file stands where the new model needs one of its own.
        moved = _free_name(target, staging, name)
        carry(target / name, staging / moved)
        notes.append(f"your {name} was in the way of {name}: it is kept as {moved}")
        foreign.remove(name)
    carry_over(target, staging, foreign)
    if old is None:
        return tuple(notes)
    for name, how in edited_files(target, {name: old.files[name] for name in ours & old.files.keys()}).items():
        if how != MISSING:
            moved = _free_name(target, staging, name)
            carry(target / name, staging / moved)
            notes.append(f"{name} {_CHANGED[how]}: your version is kept as {moved}")
    weights = sorted(name for name in foreign if _is_weights(name))
    if weights and _weights_are_stale(draft.result.manifest, old):
        other = " and another tokenizer" if _tokens_changed(draft.result.manifest, old) else ""
        notes.append(f"the weights in {target} are from before this rebuild{other}: {', '.join(weights)}")
    return tuple(notes)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_weights(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WEIGHT_GLOBS)


def _weights_are_stale(new: Manifest, old: Manifest) -> bool:
    """Whether the model is another one, or its token ids stand for other texts."""

    def of(manifest: Manifest) -> dict[str, str]:
        files = {n: f for n, f in manifest.files.items() if n == "config.json" or n.endswith(".py")}
        return {name: file.meaning or file.sha256 for name, file in files.items()}

    return of(new) != of(old) or _tokens_changed(new, old)


def _tokens_changed(new: Manifest, old: Manifest) -> bool:
    before, now = (manifest.files.get("tokenizer.json") for manifest in (old, new))
    return before is not None and now is not None and before.sha256 != now.sha256


def _free_name(target: Path, staging: Path, name: str) -> str:
    """`modeling_x.py.edited`, or with a number behind it: no name of either directory."""
    candidates = (f"{name}.{EDITED}{n or ''}" for n in range(1_000_000))
    return next(c for c in candidates if not os.path.lexists(staging / c) and not os.path.lexists(target / c))
