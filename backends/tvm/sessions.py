"""Where compiled code runs: in this process, or in one on a board that is reached through TVM's RPC."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import rpc

from cospipe.backends.tvm.own_thread import in_own_thread
from cospipe.ir.errors import RemoteError, first_line

CONNECT_SECONDS = 20.0
"""A server that serves somebody else accepts the connection and says nothing."""


class Session(ABC):
    """A process that loads libraries and holds tensors."""

    device: Any

    @abstractmethod
    def load(self, library: Path) -> Any:
        """Return a library as a module; its functions take tensors of this session."""

    def tensor(self, array: NDArray[Any]) -> Any:
        """Return a copy of an array as a tensor of this session."""
        return tvm.runtime.tensor(np.ascontiguousarray(array), self.device)


class LocalSession(Session):
    """The process that this code runs in."""

    def __init__(self) -> None:
        self.device = tvm.cpu()

    def load(self, library: Path) -> Any:
        """Return a library as a module."""
        return tvm.runtime.load_module(str(library))


class RemoteSession(Session):
    """A process of its own that ``python -m tvm.exec.rpc_server`` starts for every connection.

    Parameters
    ----------
    host : str
        Name or address of the board.
    port : int
        Where the server listens.
    key : str
        The server's key.
    timeout_s : float
        Seconds after which the server ends the process; 0 for never.

    Raises
    ------
    RemoteError
        When nothing listens there, the key is another, or the server does not answer.
    """

    def __init__(self, host: str, port: int, key: str, timeout_s: float = 0.0) -> None:
        self.address = f"{host}:{port}"
        self.rpc = _connected(host, port, key, timeout_s)
        self.device = self.rpc.cpu()

    def load(self, library: Path) -> Any:
        """Copy a library to the board and return it as a module."""
        try:
            self.rpc.upload(str(library))
            return self.rpc.load_module(library.name)
        except Exception as error:
            raise RemoteError(
                f"{self.address} could not load {library.name}: {first_line(error)}. Does its processor fit the SoC"
                " that was named, and is TVM there of the same version as here?"
            ) from error


def _connected(host: str, port: int, key: str, timeout_s: float) -> Any:
    address = f"{host}:{port}"
    try:
        connect = partial(rpc.connect, host, port, key, session_timeout=timeout_s)
        return in_own_thread(connect, "rpc-connect", CONNECT_SECONDS)
    except TimeoutError as error:
        raise RemoteError(
            f"{address} accepts connections but did not answer within {CONNECT_SECONDS:g} s; TVM's RPC server serves"
            " one client at a time: end the other one, or start the server again. If this is a tracker, name the"
            " key of its boards."
        ) from error
    except Exception as error:
        raise RemoteError(_connection_problem(address, key, str(error))) from error


def _connection_problem(address: str, key: str, message: str) -> str:
    if "matches key" in message:
        return (
            f"The RPC server at {address} has another key than {key!r}; give the one it was started with. One that"
            " belongs to a tracker is reached through it only."
        )
    if "obtain address" in message:
        return f"There is no host {address.rpartition(':')[0]!r}; check the board's name."
    if "Connect to" in message:
        return (
            f"Nothing answers at {address}; start a server on the board:"
            f" python -m tvm.exec.rpc_server --port {address.rpartition(':')[2]} --key {key or 'KEY'}"
        )
    return (
        f"{address} is no RPC server of this TVM: {message.strip().splitlines()[0] if message.strip() else 'no word'}."
        " If it is a tracker, name the key of its boards."
    )
