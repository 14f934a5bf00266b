"""The innermost loops of AArch64 machine code, read from what ``llvm-objdump`` prints.

A loop is what lies between a conditional branch that jumps back and its target; it is an innermost one when no other
such branch lies within. Compilers turn loops so that they end with their condition, and an unconditional jump back may
be a call in another function's last line, so those are left out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_LINE = re.compile(r"^\s*([0-9a-f]+):\s+(\S+)(?:\s+([^/]*))?")
_PLACE = re.compile(r"(0x[0-9a-f]+) <[^>]*>")
_CONDITIONAL_BRANCH = re.compile(r"b\.|cbn?z$|tbn?z$")
_MULTIPLY_ADD = re.compile(r"(?:fmla|fmls) v\d+\.(\d+[bhsd])|f(?:n?madd|n?msub) ([hsd])")
_STACK = re.compile(r"\[(?:sp|x29)\b")
_REGISTER_SHARES = {"4s": 1.0, "2d": 1.0, "8h": 1.0, "2s": 0.5, "4h": 0.5, "d": 0.5, "s": 0.25, "h": 0.125}
_LABEL = "place"


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Parameters
    ----------
    address : int
        Where it lies.
    text : str
        Mnemonic and operands; places in the code are replaced by a label.
    target : int or None
        The place it names, by a branch or as an address.
    """

    address: int
    text: str
    target: int | None = None

    @property
    def mnemonic(self) -> str:
        """What it does."""
        return self.text.split()[0]

    @property
    def fma(self) -> float:
        """Multiply-adds of 16 bytes: 1 for four FP32 lanes, a quarter for a scalar."""
        match = _MULTIPLY_ADD.match(self.text)
        return _REGISTER_SHARES[match[1] or match[2]] if match else 0.0

    @property
    def is_load(self) -> bool:
        """Whether it reads memory; a pair is one instruction."""
        return self.mnemonic.startswith("ld")

    @property
    def is_store(self) -> bool:
        """Whether it writes memory."""
        return self.mnemonic.startswith("st")

    @property
    def jumps_back(self) -> bool:
        """Whether it is a conditional branch to an earlier place or to itself, as at the end of a loop."""
        is_branch = bool(_CONDITIONAL_BRANCH.match(self.mnemonic))
        return is_branch and self.target is not None and self.target <= self.address

    @property
    def is_spill(self) -> bool:
        """Whether it reads or writes the stack: a value for which there was no register."""
        return (self.is_load or self.is_store) and bool(_STACK.search(self.text))


@dataclass(frozen=True)
class Loop:
    """The body of a loop, from its first instruction to the branch back."""

    instructions: tuple[Instruction, ...]

    @cached_property
    def fma(self) -> float:
        """Multiply-adds of 16 bytes in one turn."""
        return sum(instruction.fma for instruction in self.instructions)

    @property
    def loads(self) -> int:
        """Load instructions in one turn."""
        return sum(instruction.is_load for instruction in self.instructions)

    @property
    def stores(self) -> int:
        """Store instructions in one turn."""
        return sum(instruction.is_store for instruction in self.instructions)

    @property
    def spills(self) -> int:
        """Loads and stores of one turn that are on the stack."""
        return sum(instruction.is_spill for instruction in self.instructions)

    @property
    def assembly(self) -> str:
        """The loop as text for an assembler; every place it branches to is the same unknown label."""
        return "".join(f"{instruction.text}\n" for instruction in self.instructions)


def parse_disassembly(text: str) -> list[Instruction]:
    """Return the instructions that ``llvm-objdump --disassemble --no-show-raw-insn`` printed.

    Parameters
    ----------
    text : str
        Lines such as ``1a4: fmla v0.4s, v1.4s, v2.s[0]``; others are ignored.
    """
    return [_instruction(match) for match in map(_LINE.match, text.splitlines()) if match]


def _instruction(match: re.Match[str]) -> Instruction:
    address, mnemonic, operands = match[1], match[2], " ".join((match[3] or "").split())
    place = _PLACE.search(operands)
    text = f"{mnemonic} {_PLACE.sub(_LABEL, operands)}".strip()
    return Instruction(int(address, 16), text, int(place[1], 16) if place else None)


def innermost_loops(instructions: Sequence[Instruction]) -> list[Loop]:
    """Return the loops that hold no other loop, in the order of their addresses.

    Parameters
    ----------
    instructions : sequence of Instruction
        Machine code without gaps, at least within a function.
    """
    index = {instruction.address: position for position, instruction in enumerate(instructions)}
    spans = [
        (index[instruction.target], position)
        for position, instruction in enumerate(instructions)
        if instruction.jumps_back and instruction.target in index
    ]
    inner = [span for span in spans if not any(span != other and _holds(span, other) for other in spans)]
    return [Loop(tuple(instructions[first : last + 1])) for first, last in sorted(inner)]


def _holds(outer: tuple[int, int], inner: tuple[int, int]) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def hot_loops(loops: Sequence[Loop], most: int) -> list[Loop]:
    """Return the loops with the most multiply-adds, falling; none with less than an eighth of the first one's.

    How often each runs is not seen: a kernel may have loops of their own for the borders of an image.

    Parameters
    ----------
    loops : sequence of Loop
        Innermost loops of a kernel.
    most : int
        How many to return at most.
    """
    ranked = sorted((loop for loop in loops if loop.fma), key=lambda loop: -loop.fma)
    return [loop for loop in ranked[:most] if loop.fma >= ranked[0].fma / 8]
