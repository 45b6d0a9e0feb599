"""What the paper shows in its Figures 2 to 7, as studies that anyone can run."""
