"""Which questions are asked: one public file each, and the command line."""
