"""Starts: profiles that a search begins with, drawn, made to fit, or proposed by measured sensitivities.

Know the space and numbers. Start at `drawn`, then `sensitivity`.
"""
