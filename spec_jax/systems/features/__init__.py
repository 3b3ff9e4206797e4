"""Drafters that guess the features of the target."""
