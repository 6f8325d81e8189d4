"""The domain of the server: runs, jobs, instances, and their rules.

All functions here are pure: no I/O, no clock, no randomness. Given the same values they return the same values, which
is why they can be tested in microseconds and replayed after an incident. SQL, sockets and providers do not belong
here.
"""
