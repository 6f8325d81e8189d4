"""What users ask for: YAML, REST and the Python API, defined once. No I/O, no clock, no chance.

What comes of a configuration (who runs it, where, when) does not belong here.
"""
