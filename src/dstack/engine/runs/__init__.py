"""The life of a run: derived from its jobs, and ended through them."""
