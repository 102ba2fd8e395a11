"""What fits goplugins into its hosts: frameworks, and what operators look at."""
