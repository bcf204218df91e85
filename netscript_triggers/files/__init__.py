"""What is known of a file, which files are meant, and when one is finished."""
