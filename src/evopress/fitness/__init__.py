"""How good a profile is: the teacher, the divergence and the evaluator that the search calls.

Knows models, levels and text, and of the search only a function type. Start at `evaluator`, then `tree`.
"""
