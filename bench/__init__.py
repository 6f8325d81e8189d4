"""How fast it is: figures as ratios to what a bare Python or a bare shell takes for the like, in the same minutes.

Nothing here is a test: a figure has a goal, and misses it without failing. `make bench` runs it.
"""
