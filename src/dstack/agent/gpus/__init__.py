"""The graphics cards and accelerators of this host: which there are, how busy they are, and how a job gets its own.

One file a vendor. Everything is read from drivers and the kernel; nothing is installed, set or reset.
"""
