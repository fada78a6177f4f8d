"""What it costs: each figure beside the physical limit and beside what a user would pick instead, in one run."""
