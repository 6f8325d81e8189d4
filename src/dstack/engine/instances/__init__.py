"""The life of a machine, from the wish for it to its confirmed end."""
