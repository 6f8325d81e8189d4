"""Configurations, defined once for YAML, REST and the Python API. No I/O, no clock, no chance.

The placement and execution of a configuration do not belong here.
"""
