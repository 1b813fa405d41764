"""Polish: learning the codes and scales of the one profile that was found, in the same bytes.

A step of a run that is large enough for a room: it knows what steps know. Start at `step`, then `blocks` and `model`.
"""
