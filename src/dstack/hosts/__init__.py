"""Reaching hosts: one live connection to the agent of each instance. What is said over it is decided in the engine."""
