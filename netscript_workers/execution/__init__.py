"""Running one execution, whatever stores it."""
