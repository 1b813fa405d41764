"""The database: unit x level -> packed tensors on disk, with a manifest. One directory, no pickle, built resumably.

Knows models and levels, but neither profiles' scores nor runs. Start at `store`, then `build` and `methods`.
"""
