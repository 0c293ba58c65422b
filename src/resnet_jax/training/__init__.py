"""Training: state, schedules, the compiled step, and the loop with its side effects."""
