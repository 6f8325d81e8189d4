"""The `dstack` command: reads arguments, calls `dstack.api`, and writes its messages and data."""
