"""The report of one or several runs, as one HTML file that needs nothing else: reads files of run directories only.

`data` collects, `history` and `allocation` derive, `charts` computes coordinates, `page` fills the templates.
Knows run directories but no step, and loads no torch. Start at `data`.
"""

from evopress.report.data import RunData, read_all, read_data
from evopress.report.front import dominates
from evopress.report.page import write_front, write_report

__all__ = ["RunData", "dominates", "read_all", "read_data", "write_front", "write_report"]
