"""Tile sizes and loop orders by formula, from the shape of a kernel and the registers and caches of a core.

Knows no TVM. Every formula counts clock cycles of the inner loop: a step of the reduction needs its multiply-adds, the
loads that feed them, and cannot be faster than the latency of one multiply-add.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil

FP32_BYTES = 4
_FMA_LATENCY_CYCLES = 4
_TRANSFORM_CYCLES = 4.0
_PIXEL_LOAD_CYCLES, _WEIGHT_LOAD_CYCLES = 0.1, 0.5
_UNHIDDEN_SHARE = 0.2
"""Of reading weights from beyond the L2 or of computing, whichever is shorter, what the other does not hide: fitted to
3x3 convolutions of 64 to 512 channels, direct and by Winograd, on a Zen 4 core."""
_AS_FAST = 1.02
"""Tiles whose cycles differ by less are taken for equally fast; the one with fewer instructions is chosen."""
_MOST_COLUMNS = 16
_STACK_TILE_BYTES = 1024
"""TVM keeps a buffer on the stack, and so in registers, up to this size; a larger one becomes a heap workspace."""


@dataclass(frozen=True)
class Core:
    """What a kernel must know of the cores it runs on.

    Parameters
    ----------
    architecture : str
        ``x86_64``, ``aarch64`` or ``armv7``.
    simd_bytes : int
        Width of a vector register.
    registers : int
        How many there are.
    fma_per_cycle : float
        Vector multiply-adds a core starts in a cycle.
    l1_bytes, l2_bytes : int
        Data caches that one core may fill.
    cores : int
        Cores that share a kernel.
    memory_bytes_per_cycle : float
        What these cores together read from beyond their L2 in a clock cycle.
    loads_weights_first : bool
        Whether a core does best when the weights of several steps are loaded before the first multiply-add.
    parts : int
        Parts that a core's share of a kernel is cut into; several where fast cores take over parts of slow ones.
    """

    architecture: str
    simd_bytes: int
    registers: int
    fma_per_cycle: float = 1.0
    l1_bytes: int = 32 * 1024
    l2_bytes: int = 512 * 1024
    cores: int = 1
    memory_bytes_per_cycle: float = 4.0
    loads_weights_first: bool = False
    parts: int = 1

    @property
    def lanes(self) -> int:
        """FP32 numbers in one register."""
        return max(1, self.simd_bytes // FP32_BYTES)

    @property
    def multiplies_by_lane(self) -> bool:
        """Whether a multiply-add takes one lane of a vector as its scalar (ARM); x86 reads it from memory instead."""
        return self.architecture != "x86_64"


@dataclass(frozen=True)
class RegisterTile:
    """Outputs whose sums stay in registers while a reduction runs: ``pixels`` x ``vectors`` of channels."""

    pixels: int
    vectors: int


@cache
def register_tile(pixels: int, vectors: int, core: Core) -> RegisterTile:
    """Choose the tile that computes ``pixels`` x ``vectors`` outputs in the fewest cycles.

    A side that the tile does not divide is covered by a last tile that overlaps the one before, so its waste is the
    part computed twice.

    Parameters
    ----------
    pixels : int
        Outputs that share a weight: image columns or matrix rows.
    vectors : int
        Vectors of output channels, which share a pixel's input.
    core : Core
        Where the kernel runs.
    """
    tiles = [
        RegisterTile(p, v)
        for v in range(1, min(vectors, core.registers) + 1)
        for p in range(1, min(pixels, core.registers) + 1)
        if registers_of_tile(p, v, core) <= core.registers
    ]
    if not tiles:
        return RegisterTile(1, 1)
    cycles = {tile: tile_cycles(pixels, vectors, tile, core) for tile in tiles}
    fewest = min(cycles.values())
    fast = [tile for tile in tiles if cycles[tile] <= _AS_FAST * fewest]
    return min(fast, key=lambda tile: (tile_instructions(pixels, vectors, tile, core), -tile.pixels))


def tile_cycles(pixels: int, vectors: int, tile: RegisterTile, core: Core) -> float:
    """Return the cycles that all tiles of a kernel need for one step of the reduction."""
    return ceil(pixels / tile.pixels) * ceil(vectors / tile.vectors) * _step_cycles(tile, core)


def tile_instructions(pixels: int, vectors: int, tile: RegisterTile, core: Core) -> float:
    """Return the instructions that all tiles of a kernel execute for one step of the reduction."""
    pixel_loads = tile.pixels / core.lanes if core.multiplies_by_lane else 0
    in_tile = tile.pixels * tile.vectors + pixel_loads + tile.vectors
    return ceil(pixels / tile.pixels) * ceil(vectors / tile.vectors) * in_tile


def registers_of_tile(pixels: int, vectors: int, core: Core) -> int:
    """Return how many registers hold the sums and what feeds them.

    By lane these are a vector of every pixel and the weights of a step, and LLVM needs one to spare; or the weights of
    as many steps as a vector has lanes, where they are loaded first. Else the weights and one pixel.
    """
    if not core.multiplies_by_lane:
        return pixels * vectors + vectors + 1
    weights = core.lanes * vectors if core.loads_weights_first else vectors + 1
    return pixels * vectors + pixels + weights


def _step_cycles(tile: RegisterTile, core: Core) -> float:
    """Return the cycles of one step; the weights are streamed from L2, pixels lie in L1, so their loads hide better."""
    products = tile.pixels * tile.vectors
    pixel_loads = tile.pixels / core.lanes if core.multiplies_by_lane else tile.pixels
    loads = (pixel_loads + tile.vectors) / core.fma_per_cycle
    instructions = (products + pixel_loads + tile.vectors) / (3 * core.fma_per_cycle)
    waiting = (_PIXEL_LOAD_CYCLES * pixel_loads + _WEIGHT_LOAD_CYCLES * tile.vectors) / core.fma_per_cycle
    return max(products / core.fma_per_cycle, loads, instructions, _FMA_LATENCY_CYCLES) + waiting


@dataclass(frozen=True)
class ConvolutionShape:
    """Sizes of a convolution that its cost depends on; channels are those of one group."""

    input_channels: int
    output_vectors: int
    output_rows: int
    output_columns: int
    taps: int
    lanes: int

    @property
    def weights(self) -> int:
        """Weights of one tap."""
        return self.input_channels * self.output_vectors * self.lanes


def tile_starts(extent: int, tile: int) -> list[int]:
    """Return where tiles start that cover an extent; the last is moved back so that it does not reach over the end."""
    return [min(start, extent - tile) for start in range(0, extent, tile)]


def channel_block(channels: int, lanes: int) -> int:
    """Return how many channels are stored side by side: a power of two, at most the lanes of a register.

    The fewest vectors win; of equals the one that leaves no lane empty, then the widest.
    """
    blocks = [1 << exponent for exponent in range(lanes.bit_length())]
    return min(blocks, key=lambda block: (ceil(channels / block), -channels % block, -block))


def runs_channels_outside(input_bytes: int, weight_bytes: int, channel_tiles: int, row_tiles: int, core: Core) -> bool:
    """Tell whether output channels should be the outer loop of a convolution, rows of pixels the inner one.

    What lies in the inner loop is read again for every turn of the outer one, and must come from beyond the L2 when it
    does not fit into half of it.
    """
    inner_room = core.l2_bytes // 2
    channels_outside = weight_bytes + input_bytes * (channel_tiles if input_bytes > inner_room else 1)
    rows_outside = input_bytes + weight_bytes * (row_tiles if weight_bytes > inner_room else 1)
    return channels_outside <= rows_outside


def direct_cycles(shape: ConvolutionShape, core: Core) -> float:
    """Return the cycles of a direct convolution on the cores."""
    tile = register_tile(shape.output_columns, shape.output_vectors, core)
    row = tile_cycles(shape.output_columns, shape.output_vectors, tile, core)
    computing = row * shape.output_rows * shape.input_channels * shape.taps / core.cores
    return _overlapped(computing, _reading_cycles(shape.weights * shape.taps, core))


def winograd_cycles(shape: ConvolutionShape, size: int, core: Core) -> float:
    """Return the cycles of the same convolution by Winograd's method with tiles of ``size`` x ``size`` outputs.

    The products, and the two transformations: each reads and writes every vector of its patches once through each of
    two passes, and adds about as often as it reads.
    """
    patch, tiles = size + 2, ceil(shape.output_rows / size) * ceil(shape.output_columns / size)
    tile = register_tile(tiles, shape.output_vectors, core)
    products = tile_cycles(tiles, shape.output_vectors, tile, core) * patch**2 * shape.input_channels
    vectors = tiles * (ceil(shape.input_channels / core.lanes) + shape.output_vectors)
    transforming = vectors * patch**2 * _TRANSFORM_CYCLES / core.fma_per_cycle
    return _overlapped((products + transforming) / core.cores, _reading_cycles(shape.weights * patch**2, core))


def winograd_panel(shape: ConvolutionShape, size: int, core: Core) -> int:
    """Return how many tiles are transformed before they are multiplied: as many as fill half of the L2, evenly."""
    tiles = ceil(shape.output_rows / size) * ceil(shape.output_columns / size)
    fits = core.l2_bytes * core.cores // 2 // ((size + 2) ** 2 * shape.input_channels * FP32_BYTES)
    fewest = register_tile(tiles, shape.output_vectors, core).pixels
    return ceil(tiles / ceil(tiles / min(tiles, max(fits, fewest))))


def _reading_cycles(weights: int, core: Core) -> float:
    is_cached = weights * FP32_BYTES <= core.l2_bytes
    return 0.0 if is_cached else weights * FP32_BYTES / core.memory_bytes_per_cycle


def _overlapped(computing_cycles: float, reading_cycles: float) -> float:
    longer, shorter = max(computing_cycles, reading_cycles), min(computing_cycles, reading_cycles)
    return longer + _UNHIDDEN_SHARE * shorter


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of ``number`` that is at most ``limit``."""
    return max(d for d in range(1, min(number, limit) + 1) if number % d == 0)


@dataclass(frozen=True)
class OutputTile:
    """Part of an output that one pass over the reduction computes: channels x rows x columns."""

    channels: int
    rows: int
    columns: int


def output_tile(channels: int, rows: int, columns: int, shares_input: bool, core: Core) -> OutputTile:
    """Choose the output tile whose accumulators fill the registers and whose columns fill one's lanes.

    Long vectors of odd length are avoided, LLVM does not keep them in registers: a 3x3 convolution on 56 columns ran
    eight times slower with one 56-wide vector than with four of 14, one on 111 columns five times slower with 37
    columns than with 3 (AVX-512). With four lanes, up to 16 columns beat one register.

    Parameters
    ----------
    channels, rows, columns : int
        Shape of the output of one image.
    shares_input : bool
        Whether output channels read the same input (a dense convolution); a tile of several channels then loads each
        input vector once for all of them. Otherwise (depthwise, pooling) only rows are added to the tile.
    core : Core
        Where the kernel runs.
    """
    width = _columns(columns, core)
    vectors = ceil(width / core.lanes)
    accumulators = max(1, min(core.registers - 4, _STACK_TILE_BYTES // core.simd_bytes) // vectors)
    if not shares_input:
        return OutputTile(1, largest_divisor(rows, min(accumulators, 8)), width)
    height = largest_divisor(rows, max(1, accumulators // largest_divisor(channels, 4)))
    return OutputTile(largest_divisor(channels, accumulators // height), height, width)


def _columns(columns: int, core: Core) -> int:
    """Divisor of the width that fills the lanes of one register best; of a few short registers where none does."""
    in_one = largest_divisor(columns, core.lanes)
    if in_one > core.lanes // 2:
        return in_one
    few = largest_filling(columns, max(core.lanes, _MOST_COLUMNS), core)
    return few if few > 1 else largest_filling(columns, 4 * core.lanes, core)


def largest_filling(columns: int, limit: int, core: Core) -> int:
    """Return the divisor up to a limit that leaves the fewest lanes empty; the smallest of several."""
    divisors = [d for d in range(1, min(columns, limit) + 1) if columns % d == 0]
    return max(divisors, key=lambda d: (d / (ceil(d / core.lanes) * core.lanes), -d))
