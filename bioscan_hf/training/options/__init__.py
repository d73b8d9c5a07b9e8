"""Options of the trainers, without torch: `--help` and wrong options are answered at once."""
