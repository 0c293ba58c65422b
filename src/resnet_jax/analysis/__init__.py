"""What a network costs, and what a trained one does."""
