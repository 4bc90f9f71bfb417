"""What a task draws for the report."""
