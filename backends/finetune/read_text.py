"""Labelled texts from a CSV file, and tokenizers for them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cospipe.backends.finetune.data import PARTS, Batch, RawData, shortened, sorted_classes
from cospipe.ir.errors import UsageError, first_line, several
from cospipe.ir.load import load_object

Tokenizer = Callable[[list[str]], Any]
_LONGEST_FIELD = 10_000_000


@dataclass(frozen=True)
class TextInputs:
    """Texts that become numbers a batch at a time."""

    texts: Sequence[str]
    tokenizer: Tokenizer

    def batch(self, positions: Sequence[int]) -> Batch:
        """Return what the tokenizer makes of some texts."""
        made = self.tokenizer([self.texts[position] for position in positions])
        return made if isinstance(made, torch.Tensor) else {name: torch.as_tensor(made[name]) for name in made}

    def pieces(self) -> Iterator[bytes]:
        """Yield the texts."""
        for text in self.texts:
            yield text.encode() + b"\0"


def read_text(path: Path, tokenizer: Tokenizer) -> RawData:
    """Read a CSV file in UTF-8 with the columns ``text`` and ``label``, and optionally ``split``.

    Raises
    ------
    UsageError
        When it cannot be read, columns are missing or rows incomplete; all of them are listed.
    """
    rows = _rows(path)
    if problems := [f"line {line}: {problem}" for line, row in rows for problem in _row_problems(row)]:
        raise UsageError(several(f"{path} cannot be trained on", shortened(problems)))
    names = [str(row["label"]).strip() for _, row in rows]
    classes = sorted_classes(names)
    positions = {name: position for position, name in enumerate(classes)}
    texts = [str(row["text"]) for _, row in rows]
    parts = [_part(row) for _, row in rows]
    return RawData(TextInputs(texts, tokenizer), [positions[name] for name in names], classes, parts)


def _row_problems(row: dict[Any, Any]) -> list[str]:
    problems = [f"no {name}" for name in ("text", "label") if not (row[name] or "").strip()]
    if None in row:
        problems.append("more fields than columns; quote commas")
    if _part(row).lower() not in PARTS:
        problems.append(f"split is {_part(row)!r}; write train, validation or test")
    return problems


def _part(row: dict[Any, Any]) -> str:
    return (row.get("split") or "").strip()


def _rows(path: Path) -> list[tuple[int, dict[Any, Any]]]:
    csv.field_size_limit(_LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = [name.strip() for name in reader.fieldnames or ()]
            _check_columns(path, columns)
            reader.fieldnames = columns
            return [(reader.line_num, row) for row in reader]
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: {first_line(error)}.") from error
    except (OSError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV: {first_line(error)}.") from error


def _check_columns(path: Path, columns: list[str]) -> None:
    found = ", ".join(columns) or "none"
    if missing := [name for name in ("text", "label") if name not in columns]:
        raise UsageError(f"{path} has no column {' and no column '.join(missing)}; found: {found}.")
    if repeated := [name for name in ("text", "label", "split") if columns.count(name) > 1]:
        raise UsageError(f"{path} has several columns {' and several columns '.join(repeated)}; found: {found}.")


def load_tokenizer(spec: str, max_tokens: int) -> Tokenizer:
    """Return what makes a model's inputs of texts.

    Parameters
    ----------
    spec : str
        A directory with a Hugging Face tokenizer (or the name of one that was downloaded before; nothing is downloaded
        here), or ``package.module:factory`` whose result turns a list of texts into a tensor, or tensors by name.
    max_tokens : int
        Longer texts are cut off; not for tokenizers of a factory.

    Raises
    ------
    UsageError
        When there is no such tokenizer, or transformers is not installed.
    """
    if ":" in spec and not Path(spec).is_dir():
        made = load_object(spec, "tokenizer; write package.module:factory, or name a directory")
        if not callable(made):
            raise UsageError(f"{spec} gives a {type(made).__name__}; it must give a function of a list of texts.")
        return made
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise UsageError(
            "Hugging Face tokenizers need transformers; install it with: pip install transformers"
        ) from error
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(spec, local_files_only=True)
    except Exception as error:  # whatever their many loaders raise
        raise UsageError(f"{spec!r} is no tokenizer on this machine: {first_line(error)}.") from error
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def tokens(texts: list[str]) -> Any:
        return tokenizer(texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")

    return tokens
