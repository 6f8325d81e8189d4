"""API calls as plain async functions over a `Context`.

HTTP does not belong here, nor does any decision of the engine.
"""
