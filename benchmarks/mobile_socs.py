"""Independent frames on every component of a chip at once: the tables of "Neural Network Inference on Mobile SoCs".

Table I has the images/s of each component alone, tables II and III those of several at once. We predict the latter from
the former: the rates add up, and everything takes longer by the chip's contention for each further component.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from environment import Row
from measured_tables import TableRow, number, read_table

from cospipe.ir.errors import UsageError
from cospipe.ir.soc import load_soc

TABLE = "mobile_socs_tables.csv"
DESCRIPTIONS = {"Exynos5422": "odroid-xu4", "Kirin970": "hikey970"}


@dataclass(frozen=True)
class CoExecution:
    """One measurement of several components at work on independent frames.

    Parameters
    ----------
    table, soc, network : str
        As in the file.
    rates : sequence of float
        Images/s of each component alone.
    together : float
        Images/s of all at once.
    """

    table: str
    soc: str
    network: str
    rates: Sequence[float]
    together: float

    @property
    def contention(self) -> float:
        """How much longer everything took for each further component."""
        return (sum(self.rates) / self.together - 1) / (len(self.rates) - 1)

    def predicted(self, contention: float) -> float:
        """Return the images/s of all at once."""
        return sum(self.rates) / (1 + contention * (len(self.rates) - 1))


def read_co_executions(data: Path) -> list[CoExecution]:
    """Return the measurements of tables II and III with the rates of table I.

    Raises
    ------
    UsageError
        When the table is missing, or lacks the rate of a component alone.
    """
    rows = read_table(data, TABLE, ("table", "soc", "network", "component", "imgs_per_s"))
    alone: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        if row["table"] == "I" and row["imgs_per_s"]:
            of_network = alone.setdefault((row["soc"], row["network"]), {})
            of_network[_component(row["component"])] = number(row, "imgs_per_s", TABLE)
    return [_co_execution(row, alone) for row in rows if row["table"] != "I" and row["imgs_per_s"]]


def co_execution_rows(measured: Sequence[CoExecution]) -> list[Row]:
    """Return a row for each measurement and origin of the contention, and the mean error of each origin."""
    rows = [row for one in measured for row in _rows(one, measured)]
    origins = list(dict.fromkeys(row["contention_from"] for row in rows))
    return rows + [_mean(rows, str(origin)) for origin in origins]


def _rows(one: CoExecution, measured: Sequence[CoExecution]) -> list[Row]:
    rows = []
    for origin, contention in _origins(one, measured).items():
        predicted = one.predicted(contention)
        row = {
            "section": "mobile-socs",
            "table": one.table,
            "soc": one.soc,
            "network": one.network,
            "components": len(one.rates),
            "contention_from": origin,
            "contention": contention,
            "predicted_images_per_s": predicted,
            "measured_images_per_s": one.together,
            "error": predicted / one.together - 1,
        }
        rows.append(row)
    return rows


def _origins(one: CoExecution, measured: Sequence[CoExecution]) -> dict[str, float]:
    """Return the contention of the description, and what other networks on this chip and other chips tell."""
    origins = {}
    if one.soc in DESCRIPTIONS:
        origins["description"] = load_soc(DESCRIPTIONS[one.soc]).contention
    on_chip = [other.contention for other in measured if other.soc == one.soc and other.network != one.network]
    elsewhere = [other.contention for other in measured if other.soc != one.soc]
    if on_chip:
        origins["other networks"] = fmean(on_chip)
    if elsewhere:
        origins["other chip"] = fmean(elsewhere)
    return origins


def _mean(rows: Sequence[Row], origin: str) -> Row:
    errors = [abs(float(row["error"] or 0)) for row in rows if row["contention_from"] == origin]
    return {**dict.fromkeys(rows[0]), "section": "mobile-socs", "contention_from": origin, "error": fmean(errors)} | {
        "network": f"mean absolute error of {len(errors)}"
    }


def _co_execution(row: TableRow, alone: Mapping[tuple[str, str], Mapping[str, float]]) -> CoExecution:
    rates = alone.get((row["soc"], row["network"]), {})
    components = row["component"].removeprefix("coexec ").split("+")
    if missing := [component for component in components if component not in rates]:
        raise UsageError(
            f"{TABLE}: table {row['table']} runs {row['network']} of {row['soc']} on {', '.join(missing)}, "
            "whose rate alone table I does not have."
        )
    together = number(row, "imgs_per_s", TABLE)
    return CoExecution(row["table"], row["soc"], row["network"], [rates[name] for name in components], together)


def _component(text: str) -> str:
    """Return ``A15`` for ``A15x4@2.0``."""
    return text.partition("x")[0]
