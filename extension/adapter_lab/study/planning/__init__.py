"""What a study will come to: sizes, points in time, minutes."""
