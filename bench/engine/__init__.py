"""The server under load: thousands of jobs on made-up machines, whose agents speak the real protocol on real sockets.

Three processes: the hosts, which outlive the server; the server, which is the real one; and the one that measures.
"""
