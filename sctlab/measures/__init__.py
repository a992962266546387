"""What is measured between two images, each idea once: registration, training and evaluation all use these."""
