"""The real server in a world that is made up: a virtual clock, clouds, hosts and agents that fail when told to.

`world` puts it together and `histories` makes one from a seed. Nothing here is a double of our own code: engine,
store and operations are the real ones.
"""
