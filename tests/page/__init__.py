"""The page that describes the Python API: what it promises, as facts, and the extraction of those from its text."""
