"""What a publish costs that many clients are to get."""
