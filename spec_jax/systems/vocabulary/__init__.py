"""Systems whose draft knows other tokens than the target, or fewer."""
