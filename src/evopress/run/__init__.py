"""A run directory: its files, what is recorded in them, who watches while it works, and how results are said.

Knows settings and results as data, but no model and no step. Start at `directory`, then `records`.
"""
