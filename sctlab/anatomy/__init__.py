"""Training of the anatomy network (`sctlab_model.anatomy`): bodies, samples, steps, scores."""
