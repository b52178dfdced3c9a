"""Create, reuse or rebuild a model directory, atomically and without losing user files."""

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
from ..filesystem.paths import refuse_unsuitable_path
from ..model.manifest import EDITED, MANIFEST, MISSING, SPECIAL, Manifest, edited_files, read_manifest
from ..runtime.short_repr import Brief
from ..settings.resolved_model import ResolvedModel
from .contents import Plan, plan_contents, write_contents

WEIGHT_GLOBS = ("*.safetensors", "pytorch_model*.bin", "*.index.json")
_CHANGED = {EDITED: "was edited", SPECIAL: "is not a regular file"}

_CHOOSE_ANOTHER = "choose another --output-dir"


@dataclass(frozen=True, repr=False)
class ModelDirectory(Brief):
    """A model directory that is ready to be loaded.

    Args:
        path: Path of the directory.
        state: `created`, `reused`, `rebuilt`, or `kept` (reused although it differs from the options).
        manifest: Its manifest: options, sources and files.
        notes: Notes for the user, one sentence each.
    """

    path: Path
    state: str
    manifest: Manifest
    notes: tuple[str, ...] = ()


def prepare_directory(
    resolved: ResolvedModel,
    target: Path,
    *,
    refresh: bool = False,
    keep: bool = False,
    on_wait: Callable[[], None] | None = None,
) -> ModelDirectory:
    """Create, reuse or rebuild the model directory at `target`. Arguments and errors are those of `draft_directory`."""
    with draft_directory(resolved, target, refresh=refresh, keep=keep, on_wait=on_wait) as draft:
        return draft.commit()


@dataclass
class Draft:
    """A complete model directory, which `commit()` moves to `target` if it is new.

    Args:
        path: Current location: `target`, or a temporary directory of the same name if the directory is new.
        target: Final location.
        result: The model directory after `commit()`.
        resolved: The model, with the facts of its tokenizer.
        old: Manifest of the directory at `target` that is replaced; None if there is none.
    """

    path: Path
    target: Path
    result: ModelDirectory
    resolved: ResolvedModel
    old: Manifest | None = None

    @property
    def is_new(self) -> bool:
        """Return whether the directory is new and not yet committed."""
        return self.path != self.target

    def commit(self, drop: Collection[str] = ()) -> ModelDirectory:
        """Move a new directory to `target`. Files of the old directory that Forgather did not write are kept.

        Args:
            drop: Names of files in the old directory to drop.

        Raises:
            DirectoryError: The directory cannot be moved; the old directory is unchanged.
        """
        if self.is_new:
            known, notes = None, tuple[str, ...]()
            if self.target.exists():
                known = {entry.name for entry in self.target.iterdir()}
                if _is_real_directory(self.target / TEMPLATES):
                    known |= {f"{TEMPLATES}/{entry.name}" for entry in (self.target / TEMPLATES).iterdir()}
                notes = _keep_user_files(self, known - set(drop))
            replace_directory(self.path, self.target, known=known)
            self.path = self.target
            self.result = replace(self.result, notes=(*self.result.notes, *notes))
        return self.result


@contextmanager
def draft_directory(
    resolved: ResolvedModel,
    target: Path,
    *,
    refresh: bool = False,
    keep: bool = False,
    on_wait: Callable[[], None] | None = None,
) -> Iterator[Draft]:
    """Yield the existing model directory at `target`, or a draft of a new one, while holding the directory's lock.

    Args:
        resolved: The resolved model.
        target: Path of the model directory, which may not exist.
        refresh: Rebuild an existing directory.
        keep: Use an existing directory as it is, even if it differs from the options.
        on_wait: Called if another process holds the lock.

    Raises:
        DirectoryError: `target` is not a model directory of Forgather, was edited, or was built from other options or
            sources.
        ExportError, ConfigurationError, TokenizerError: The directory cannot be built; nothing is written.
    """
    if refresh and keep:
        raise DirectoryError("cannot be combined with --keep", option="--refresh-model", hint="remove one of them")
    plan = plan_contents(resolved)
    with directory_lock(target, on_wait=on_wait):
        sweep_stale(target)
        manifest = _existing_manifest(target)
        if manifest is not None and not refresh:
            yield _existing(plan, manifest, target, keep=keep)
            return
        refuse_unsuitable_path(target)
        # Loaders name the module of the source files after the directory: the draft has the final name.
        with staging_directory(target) as path:
            contents = write_contents(plan, path)
            state = "rebuilt" if manifest is not None else "created"
            result = ModelDirectory(target, state, contents.manifest, contents.notes)
            yield Draft(path, target, result, plan.resolved, manifest)


def _existing(plan: Plan, manifest: Manifest, target: Path, *, keep: bool) -> Draft:
    differences = _differences(plan, manifest, target)
    if differences and not keep:
        hint = "rebuild it with --refresh-model (-r), use it as it is with --keep, or choose another --output-dir"
        raise DirectoryError(f"cannot be reused: {'; '.join(differences)}", file=target, hint=hint)
    notes = tuple(f"kept although different: {difference}" for difference in differences)
    result = ModelDirectory(target, "kept" if differences else "reused", manifest, notes)
    return Draft(target, target, result, plan.resolved)


def _existing_manifest(target: Path) -> Manifest | None:
    """Return the manifest of the model directory at `target`; None if nothing exists there."""
    if not target.exists():
        if target.is_symlink():
            raise DirectoryError("is a broken symbolic link", file=target, hint=_CHOOSE_ANOTHER)
        return None
    if not target.is_dir():
        raise DirectoryError("is not a directory", file=target, hint=_CHOOSE_ANOTHER)
    manifest = read_manifest(target)
    if manifest is None and any(target.iterdir()):
        problem = f"exists and is not a model directory of Forgather (it has no {MANIFEST})"
        raise DirectoryError(problem, file=target, hint=_CHOOSE_ANOTHER)
    return manifest


def _differences(plan: Plan, manifest: Manifest, target: Path) -> list[str]:
    found = []
    edited = edited_files(target, manifest.files)
    for state in (EDITED, MISSING, SPECIAL):
        names = [name for name, change in edited.items() if change == state]
        label = state if state == SPECIAL else f"{state} since it was built"
        found += [f"{label}: {', '.join(sorted(names))}"] if names else []
    changed = plan.changed_options(manifest)
    found += [f"built from other options: {', '.join(changed)}"] if changed else []
    sources = plan.changed_sources(manifest)
    found += [f"built from other sources: {', '.join(sources)}"] if sources else []
    return found


def _keep_user_files(draft: Draft, existing: Collection[str]) -> tuple[str, ...]:
    """Keep every file that Forgather did not write, and a copy of each edited one; return notes."""
    target, staging, old = draft.target, draft.path, draft.old
    # Weights are never dropped here, even if the manifest lists them.
    written = {name for name in old.files if not _is_weights(name)} | {MANIFEST} if old is not None else set()
    inside = {name for name in existing if name.startswith(f"{TEMPLATES}/")}
    if any(name.startswith(f"{TEMPLATES}/") for name in written) or os.path.lexists(staging / TEMPLATES):
        existing = set(existing) - ({TEMPLATES} if inside else set())
    else:
        existing = set(existing) - inside  # Forgather did not write the subdirectory, which is kept with all its files
    user_files = sorted(set(existing) - written)
    if any(name.startswith(f"{TEMPLATES}/") for name in user_files):
        (staging / TEMPLATES).mkdir(exist_ok=True)
    notes = []
    for name in [name for name in user_files if os.path.lexists(staging / name)]:
        # The new directory has a file of the same name.
        new_name = _free_name(target, staging, name)
        carry(target / name, staging / new_name)
        notes.append(f"your {name} is kept as {new_name}: the model directory has a file named {name}")
        user_files.remove(name)
    carry_over(target, staging, user_files)
    if old is None:
        return tuple(notes)
    for name, change in edited_files(target, {name: old.files[name] for name in written & old.files.keys()}).items():
        if change != MISSING:
            new_name = _free_name(target, staging, name)
            carry(target / name, staging / new_name)
            notes.append(f"{name} {_CHANGED[change]}: your version is kept as {new_name}")
    weights = sorted(name for name in user_files if _is_weights(name))
    if weights and _weights_are_stale(draft.result.manifest, old):
        other = ", for another tokenizer" if _tokens_changed(draft.result.manifest, old) else ""
        notes.append(f"the weights in {target} were saved before this rebuild{other}: {', '.join(weights)}")
    return tuple(notes)


def _is_real_directory(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _is_weights(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WEIGHT_GLOBS)


def _weights_are_stale(new: Manifest, old: Manifest) -> bool:
    """Return whether the model or the tokenizer changed since the weights were saved."""

    def of(manifest: Manifest) -> dict[str, str]:
        files = {n: f for n, f in manifest.files.items() if n == "config.json" or n.endswith(".py")}
        return {name: file.meaning or file.sha256 for name, file in files.items()}

    return of(new) != of(old) or _tokens_changed(new, old)


def _tokens_changed(new: Manifest, old: Manifest) -> bool:
    before, now = (manifest.files.get("tokenizer.json") for manifest in (old, new))
    return before is not None and now is not None and before.sha256 != now.sha256


def _free_name(target: Path, staging: Path, name: str) -> str:
    """Return a name such as `modeling_x.py.edited`, with a number if needed, that neither directory has."""
    candidates = (f"{name}.{EDITED}{n or ''}" for n in range(1_000_000))
    return next(c for c in candidates if not os.path.lexists(staging / c) and not os.path.lexists(target / c))
