"""Where an interrupted training left off, in a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cospipe.ir.errors import AdapterError, UsageError, several

_FORMAT = "cospipe-finetune-checkpoint-1"


@dataclass(frozen=True)
class Checkpoint:
    """A file with the state of a training.

    Parameters
    ----------
    path : Path
        The file; it need not exist.
    options : mapping of str to str
        What the training was started with, all that the result depends on.
    """

    path: Path
    options: Mapping[str, str]

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state; an earlier file is replaced only when the new one is whole.

        Raises
        ------
        AdapterError
            When it cannot be written.
        """
        scratch = self.path.with_name(f"{self.path.name}.new")
        try:
            torch.save({"format": _FORMAT, "options": dict(self.options), "state": dict(state)}, scratch)
            scratch.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch's archive writer raises RuntimeError when the disk is full
            raise AdapterError(f"The checkpoint {self.path} could not be written: {error}.") from error
        finally:
            scratch.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """Return the state in the file; None when there is no file.

        Raises
        ------
        UsageError
            When it is damaged, or belongs to a training with other options; they are listed.
        """
        if not self.path.exists():
            return None
        try:
            found = torch.load(self.path, map_location="cpu", weights_only=True)
            is_ours, options, state = found["format"] == _FORMAT, dict(found["options"]), dict(found["state"])
        except Exception as error:  # a damaged file makes torch raise almost anything
            raise self.damaged() from error
        if not is_ours:
            raise self.damaged()
        self._check_options(options)
        return state

    def damaged(self) -> UsageError:
        """Return the error for a file that cannot be used."""
        return UsageError(
            f"{self.path} is damaged, or no checkpoint of this version; delete it or pass --restart to start anew."
        )

    def _check_options(self, options: Mapping[str, str]) -> None:
        keys = dict.fromkeys([*self.options, *options])
        changes = [
            f"{key}: {options.get(key, 'unknown')} then, {self.options.get(key, 'unknown')} now"
            for key in keys
            if options.get(key) != self.options.get(key)
        ]
        if changes:
            raise UsageError(
                several(f"{self.path} is of a training that was started otherwise", changes)
                + f"\nRepeat the earlier command to continue it; delete {self.path} or pass --restart to start anew."
            )

    def delete(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
