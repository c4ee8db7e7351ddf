"""The integer network: its ops, how it is recorded, folded, checked and interpreted."""
