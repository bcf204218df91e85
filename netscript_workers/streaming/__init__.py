"""The live stream: what commits have left executions as, for any number of subscribers."""
