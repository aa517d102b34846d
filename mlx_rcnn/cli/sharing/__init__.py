"""Several machines that share the images of one command, and what a run that ends early leaves."""
