"""Small AArch64 programs that a QEMU plugin counts, linked without any library."""

import subprocess

from cospipe.backends.emulator.instruction_counter import plugin_options, read_report
from cospipe.backends.tvm.link import zig_compile

MARK = """
    mov x8, 141
    movz x0, 0x6f73
    movk x0, 0x63, lsl 16
    mov x1, {begins}
    svc 0
"""
MARK_INSTRUCTIONS = 5  # of the second mark; the first begins to count behind its last instruction


def program(folder, body, functions=""):
    """Link a program without any library that runs a body between two marks, with x9 at 4096 bytes of memory."""
    source = folder / "program.S"
    source.write_text(
        f"""
        .global _start
        .type _start, %function
        _start:
            adrp x9, memory
            add x9, x9, :lo12:memory
            mov x10, 2
            {MARK.format(begins=1)}
            {body}
            {MARK.format(begins=0)}
            mov x8, 93
            mov x0, 0
            svc 0
        {functions}
        .balign 16
        literal: .quad 1, 2
        .bss
        .balign 4096
        memory: .space 4096
        """
    )
    zig_compile(["-nostdlib", "-static", str(source)], folder / "program", "aarch64")
    return folder / "program"


def run(qemu, plugin, file):
    """Return what the plugin reports of a program."""
    report = file.parent / "report"
    options = plugin_options(plugin, report, "cortex-a72", qemu)
    subprocess.run([qemu, *options, str(file)], check=True)
    return read_report(report)
