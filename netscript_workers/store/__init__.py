"""Where executions are kept, and how they are moved on."""
