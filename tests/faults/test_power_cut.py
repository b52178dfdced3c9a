"""A power cut at any moment, with unsynced data lost, torn or kept, leaves the old or the new checkpoint.

More images of the disk at each moment: pytest -m faults
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from forgather_core.checkpoint import save_checkpoint

from .conftest import Restore
from .models import generation_of, model_of
from .power import Disk, emptied, watching
from .scenarios import NEW, SCENARIOS

pytestmark = pytest.mark.faults


@pytest.mark.few(5)
@pytest.mark.parametrize("images", [5, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SCENARIOS)
def test_power_cut_at_any_moment(restore: Restore, memory_path: Path, name: str, images: int) -> None:
    directory, scenario = restore(name)
    chance, found = random.Random(0), []
    how = {key: value for key, value in scenario.how.items() if key not in {"marked", "dtype"}}
    model = model_of(NEW, marked=scenario.marked, dtype=scenario.how.get("dtype", "float32"))
    disk = Disk(directory.parent)

    def look() -> None:
        for _ in range(images):
            image = emptied(memory_path / "image")
            disk.image(image, chance)
            found.append(generation_of(image / "model", marked=scenario.marked))

    with watching(disk, look):
        save_checkpoint(directory, model, **how)
    assert set(found) <= {scenario.old, NEW}
    assert len(found) > 20 * images / 2
    found.clear()
    for _ in range(5):
        look()
    assert set(found) == {NEW}, "a save that has returned is never lost"
    disk.close()
