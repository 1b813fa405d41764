"""Baselines: what the search is compared with, each a strategy in a file whose docstring names its source and cost.

Know the space, and of the model only numbers that they are given. Start at `uniform`, then `knapsack`.
"""
