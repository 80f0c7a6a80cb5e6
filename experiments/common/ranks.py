"""Several processes that train one model: who is the first, what run they belong to, and that one of them has ended.

Lightning starts them (``--devices 2``), or torchrun does, on one machine or on several.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from experiments.common.cli import UserError
from experiments.common.train_config import TrainConfig

PATIENCE = timedelta(minutes=5)  # with a first process that has not said what the run is called
# What torch says when another process is gone, by the libraries that processes talk through.
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "gloo", "Gloo", "TCPStore")

KEY = "convkan/run"  # under which they find the name of the run
REASON = 200  # characters of it


def rank() -> int:
    """The number of this process among all that train one model; 0 for a single one."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def is_under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return bool(torch.distributed.is_available() and torch.distributed.is_torchelastic_launched())


def as_started(config: TrainConfig) -> TrainConfig:
    """The configuration with as many devices and machines as torchrun has started processes for.

    Raises:
        UserError: A run is to go on that had another number of processes; several machines are asked for, on which
            nothing has started any; or processes are started anew that would wait for each other for ever.
    """
    if not is_under_torchrun():
        if config.num_nodes > 1:
            raise UserError(
                f"num_nodes above 1 needs torchrun on each machine, got {config.num_nodes}: see docs/training.md"
            )
        return config
    if _restarts() and _agent_has_store():  # https://github.com/pytorch/pytorch/issues/135712
        raise UserError(
            "torchrun's processes find each other again after a restart only with TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 "
            "in the environment, got none"
        )
    count = {name: int(os.environ[name]) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    nodes = count["WORLD_SIZE"] // count["LOCAL_WORLD_SIZE"]
    asked = config.devices * config.num_nodes
    if asked not in (1, count["WORLD_SIZE"]) or (config.resume is not None and asked != count["WORLD_SIZE"]):
        raise UserError(f"devices × num_nodes must be the {count['WORLD_SIZE']} processes of torchrun, got {asked}")
    return replace(config, devices=count["LOCAL_WORLD_SIZE"], num_nodes=nodes)


def is_begun_again(folder: Path) -> bool:
    """Whether torchrun has started this run's processes anew after one of them ended."""
    return is_under_torchrun() and _restarts() > 0 and (folder / "config.yaml").exists()


def tell_name(name: str) -> None:
    """Tell the processes that torchrun started beside this one, the first, in which folder the run is."""
    if is_under_torchrun():
        _store().set(KEY, name)


def told_name() -> str:
    """What the first process told; it is waited for.

    Raises:
        UserError: It ended before.
    """
    try:
        return _store().get(KEY).decode()
    except RuntimeError as error:
        raise UserError(f"the first process has not begun the run: {error}") from error


@contextmanager
def naming_lost_processes(folder: Path, count: int) -> Iterator[None]:
    """Within a ``with`` block, have what torch says of a process that ended be one line.

    Args:
        folder: The run's.
        count: Of its processes.

    Raises:
        UserError: One ended.
    """
    try:
        yield
    except RuntimeError as error:
        if count == 1 or not any(word in str(error) for word in LOST):
            raise
        raise UserError(
            f"another of the {count} processes of this run ended, and so does this one, {rank()}; "
            f"go on with: python -m experiments.train --resume {folder} ({str(error).splitlines()[0][:REASON]})"
        ) from error


def _restarts() -> int:
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))


def _agent_has_store() -> bool:
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


@cache
def _store() -> TCPStore:
    """Where the processes of torchrun meet: its first agent keeps it, or else the first process, while it lives."""
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=rank() == 0 and not _agent_has_store(),
        timeout=PATIENCE,
        wait_for_workers=False,
        multi_tenant=True,  # torch itself comes to the same place later
    )
