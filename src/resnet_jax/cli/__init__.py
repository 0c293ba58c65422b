"""The command line: `main` finds the command, and each command turns its arguments into a call of a public function."""
