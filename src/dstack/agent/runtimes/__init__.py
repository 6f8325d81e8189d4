"""The ways a job can be run on a host. What a job is, and what is told to the server about it, is not known here."""
