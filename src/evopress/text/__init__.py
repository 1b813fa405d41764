"""Text: where it comes from, how it is split into documents and tokens, and how much of it is for what.

Knows tokenizers as callables, and neither models nor scores. Start at `loading`, then `sources`, the table.
"""
