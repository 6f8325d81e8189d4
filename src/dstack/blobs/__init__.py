"""Where uploaded files are kept: bytes under their own hash. Who may read them is decided elsewhere."""
