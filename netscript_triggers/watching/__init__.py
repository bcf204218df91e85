"""The watching of files in a server: what is there against what was taken."""
