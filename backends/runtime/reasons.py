"""Why something failed, for the end of a sentence."""

from __future__ import annotations

from cospipe.ir.errors import first_line


def reason(error: BaseException) -> str:
    """Return the first line of another library's error, or its type; the end of memory gets words."""
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):  # the runtime passes C++'s error on as text
        return "there is not enough memory" + (f" ({first_line(error)})" if str(error) else "")
    return first_line(error)
