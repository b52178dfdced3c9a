"""The value of --parallel: kinds, sizes, and the numbers of processes that fit."""

from __future__ import annotations

import pytest

from forgather_core.errors import ConfigurationError
from forgather_core.options.parallel import ParallelSizes, parallel_parts, parallel_sizes


@pytest.mark.parametrize(
    ("text", "processes", "sizes"),
    [
        ("ddp", 3, ParallelSizes(ddp=3)),
        ("fsdp", 4, ParallelSizes(fsdp=4)),
        ("tp", 1, ParallelSizes()),
        ("fsdp=2,tp=2", 4, ParallelSizes(fsdp=2, tp=2)),
        ("tp=2, fsdp = 3", None, ParallelSizes(fsdp=3, tp=2)),
        ("fsdp,tp=2", 8, ParallelSizes(fsdp=4, tp=2)),
        ("ddp=2,fsdp=2,tp", 12, ParallelSizes(ddp=2, fsdp=2, tp=3)),
    ],
)
def test_sizes(text: str, processes: int | None, sizes: ParallelSizes) -> None:
    assert parallel_sizes(text, processes) == sizes
    assert processes is None or sizes.processes == processes
    assert sizes.data * sizes.tp == sizes.processes
    assert parallel_sizes(str(sizes)) == sizes


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected ddp, fsdp, tp, or sizes such as fsdp=2,tp=2; got ''"),
        ("fspd=2", "Did you mean 'fsdp'?"),
        ("fsdp=0", "must give fsdp a positive number of processes; got '0'"),
        ("fsdp=x", "must give fsdp a positive number of processes; got 'x'"),
        ("fsdp=", "must give fsdp a positive number of processes; got ''"),
        ("fsdp=2,fsdp=2", "names fsdp twice"),
        ("fsdp,tp", "gives no sizes: 'fsdp,tp': use fsdp,tp=2, for example"),
        ("fsdp=²", "must give fsdp a positive number of processes"),
    ],
)
def test_invalid_values(text: str, problem: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parallel_parts(text)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("text", "processes", "problem"),
    [
        ("fsdp=2,tp=2", 2, "fsdp=2,tp=2 requires 4 processes, got 2: use --nproc-per-node 4, or other sizes"),
        ("fsdp,tp=4", 6, "fsdp,tp=4 requires a multiple of 4 processes, got 6"),
        ("fsdp", None, "must give the number of processes of fsdp"),
    ],
)
def test_sizes_that_do_not_fit(text: str, processes: int | None, problem: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        parallel_sizes(text, processes)
    assert problem in str(error.value)
