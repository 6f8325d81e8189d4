"""Two servers on one PostgreSQL database, with the largest queue and market that they must bear."""
