"""Layout of all that is emitted, a folder for each back end. The arithmetic comes in as lines."""
