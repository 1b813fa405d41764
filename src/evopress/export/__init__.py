"""One file for each target format: a profile and a database become a checkpoint that some runtime loads."""
