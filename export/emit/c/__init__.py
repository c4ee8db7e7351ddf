"""The C99 header and its test program."""
