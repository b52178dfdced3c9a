"""An error of one process ends all: it raises its own, and the others leave it to report one that is a bug."""

from __future__ import annotations

import time
from typing import Any

import pytest
import torch
import torch.distributed as dist

from forgather_core.errors import BuildError
from forgather_core.parallel import first_error
from forgather_core.parallel.launched import is_launched, launched
from forgather_core.parallel.processes import LostProcessError, Processes, agreed, connected, is_lost_connection
from tests.support.ranks import run_ranks


def fails(way: str, rank: int, is_bug: bool) -> None:
    processes = Processes(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))

    def work() -> None:
        if processes.rank == rank:
            raise KeyError("x") if is_bug else BuildError("no")

    if way == "first":
        processes.first(work)
    else:
        with agreed(processes):
            work()


@pytest.mark.parametrize("is_bug", [True, False])
@pytest.mark.parametrize(("way", "rank"), [("first", 0), ("agreed", 0), ("agreed", 1)])
def test_each_process_has_an_error(way: str, rank: int, is_bug: bool) -> None:
    found = run_ranks(fails, 2, way, rank, is_bug, seconds=60)
    assert type(found[rank]) is (KeyError if is_bug else BuildError)
    assert type(found[1 - rank]) is (LostProcessError if is_bug else BuildError)
    assert not is_bug or "another process failed: KeyError: 'x'" in str(found[1 - rank])


def test_without_errors_all_go_on() -> None:
    assert run_ranks(fails, 2, "agreed", 5, True, seconds=60) == [None, None]
    with agreed(None):
        pass
    with pytest.raises(KeyError), agreed(None):
        raise KeyError


GLOO = "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:46235."


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (RuntimeError(GLOO), True),
        (RuntimeError("Connection reset by peer"), True),
        (RuntimeError("[/pytorch/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms"), True),
        (dist.DistBackendError("NCCL error"), True),
        (dist.DistNetworkError("no route"), True),
        (LostProcessError("gone"), True),
        (RuntimeError("FSDP2 requires that you call module.reset_parameters()"), False),
        (RuntimeError("the residual connection has shape [2, 3]"), False),
        (BuildError("connection reset by peer"), False),
        (KeyError("gloo"), False),
    ],
)
def test_only_the_forms_of_a_lost_connection_are_one(error: Exception, lost: bool) -> None:
    assert is_lost_connection(error) is lost


def test_within_a_collective_operation_other_forms_count() -> None:
    with pytest.raises(LostProcessError), connected():
        raise RuntimeError("Socket Timeout")
    with pytest.raises(RuntimeError, match="shape"), connected():
        raise RuntimeError("wrong shape")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The store of a launcher of two processes."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    places = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    for name, value in places.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(first_error, "_GRACE", 0.2)
    return store


def test_the_first_error_of_each_attempt_is_reported(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[float] = []

    def exit_now(code: int) -> None:
        ended.append(time.monotonic())
        raise SystemExit(code)

    monkeypatch.setattr(first_error, "_END", 0.0)
    monkeypatch.setattr(first_error.os, "_exit", exit_now)
    for attempt in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        with pytest.raises(BuildError, match="own"), first_error.only_first_error():
            raise BuildError("own")
        with pytest.raises(SystemExit), first_error.only_first_error():
            raise BuildError("later")
    assert len(ended) == 2


def test_a_single_process_of_no_launcher_is_not_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    assert launched() is None
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run")
    here = launched()
    assert here is not None
    assert here.processes == 1
    assert not is_launched()
