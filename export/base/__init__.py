"""What knows no network: errors, files, names, text, compilers, the fixed-point arithmetic."""
