"""File formats of exports, one file each, with sizes that are known before a byte is written.

Knows models, levels and databases, but no families and no run: `format` says in which data it is told what to write.
Start at `format`, then `formats`, the table.
"""
