"""The steps of a run: each takes the parts it needs from a workspace, and does nothing when it has nothing to do."""
