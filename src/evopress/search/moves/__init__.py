"""Moves: functions from a profile's level indices to those of another within the budget.

Know the space and a random generator. Start at `draft`, the moves that all others are made of, then `mutation`.
"""
