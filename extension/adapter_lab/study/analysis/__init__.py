"""What can be said of a study's results, and how surely."""
