"""Studies: many trainings on one base and one folder at equal budget, and what they came to."""
