"""Many devices, processes and hosts."""
