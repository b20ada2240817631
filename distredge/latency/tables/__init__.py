"""What fills the compiled kernel's arrays."""
