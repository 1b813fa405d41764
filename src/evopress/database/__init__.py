"""The database: unit x level -> packed tensors on disk, with a manifest. One directory, no pickle, built resumably."""
