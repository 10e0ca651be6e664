"""What a trained model is worth: its predictions, its scores, its figures."""
