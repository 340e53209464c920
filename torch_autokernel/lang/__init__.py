"""Languages: what a kernel's text becomes, and how it is loaded. `launch` wraps the C extension of `csrc/`."""
