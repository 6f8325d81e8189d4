"""What is remembered, in SQL: SQLite by default. Rows become domain values here and nowhere else.

Plain synchronous functions `f(tx, …)` that run in worker threads (`store.db`). Decisions do not belong here.
"""
