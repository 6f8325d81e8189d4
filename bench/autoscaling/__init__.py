"""The rule that scales services, on made-up traffic and a virtual clock."""
