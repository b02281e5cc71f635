"""What a study has come to so far: its folder, state and trainings."""
