"""What can be asked of a run: sections of settings, the runtimes that a model may be for, one validated configuration.

Knows names of levels and of search settings, and neither models nor files of runs; loads no torch. Start at `sections`;
`resolve` turns what a user says into a whole configuration.
"""
