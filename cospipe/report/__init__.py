"""The report of an exploration: one HTML page that opens without a network connection."""

from cospipe.report.write import write_report

__all__ = ["write_report"]
