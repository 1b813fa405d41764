"""Polish: learning the codes and scales of the one profile that was found, in the same bytes."""
