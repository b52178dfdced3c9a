"""Run a script in the processes of torchrun, as forks of a fork server: without the launcher and its imports."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

from .fork_server import ForkServer

RANKS = """
import os, runpy, signal, sys, traceback
size, port, script = int(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.argv = sys.argv[3:]
address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
children = set()
for rank in range(size):
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.environ |= {**address, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        code = 1
        try:
            runpy.run_path(script, run_name="__main__")
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    children.add(child)
failed = False
while children:
    child, status = os.wait()
    children.discard(child)
    if status and not failed:
        failed = True
        for other in children:  # they would wait for the one that failed
            os.kill(other, signal.SIGKILL)
sys.exit(failed)
"""


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def run_ranks(
    server: ForkServer, script: Path, *arguments: str, cwd: Path, environment: Mapping[str, str], size: int = 2
) -> subprocess.CompletedProcess[str]:
    """Run a script with arguments in `size` processes; the exit code is 1 if one of them fails.

    Args:
        server: The process that is forked.
        script: The script; it finds its rank and the address of the others in its environment, as with torchrun.
        arguments: The arguments of the script.
        cwd: The working directory.
        environment: The environment, to which the variables of torchrun are added.
        size: Number of processes.
    """
    command = ("-c", RANKS.replace("SECONDS", "240"), str(size), str(free_port()), str(script), *arguments)
    return server.run(command, cwd=cwd, environment=environment)
