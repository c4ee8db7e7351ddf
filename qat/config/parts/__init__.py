"""What the tables of a network file may say: a frozen struct each, with a field's range and help beside it."""
