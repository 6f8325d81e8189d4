"""Moves the world towards what users asked for: look, decide, commit, act, record.

`lifecycles` is the whole engine on a page; the steps it names are pure functions, one module each; `effects` is the
only place that touches the world. What a user asks for enters through `dstack.operations`, never here.
"""
