"""How long a test waits for anything: a slow machine is no failure, and what never comes fails all the same."""

PATIENCE_S = 120
