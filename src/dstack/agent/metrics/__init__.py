"""What the jobs of this host use: read every few seconds, kept for the server.

What belongs elsewhere: how cards are read (`agent.gpus`), and what becomes of the points (the server).
"""
