"""What a process tells of itself: metrics and logs, for whoever looks after it."""
