"""The triggers' tables and their SQL."""
