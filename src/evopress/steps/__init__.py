"""The steps of a run, each in a file: build, search, scoring, export, compare, analyze, tasks.

The one room that knows families and formats both, and hands each as data what the other says. Start at `workspace`,
which loads what steps share; each step takes from it what it needs.
"""
