"""Other queues, each run in an environment of its own, where nothing but it is installed."""
