"""The contract of drivers. A new driver adds its subject to `subjects.py`, and passes."""
