"""Models: requests of OpenAI's API, routed by their `model` to the services of a project that declare it."""
