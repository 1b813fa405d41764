"""Names and integers: what profiles are, which are allowed, what they cost. And files that are never half written.

Knows the standard library alone: no models, no tensors, no search. Start at `profile`, then `space`.
"""
