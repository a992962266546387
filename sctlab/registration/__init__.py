"""Registration: elastix baseline, B-spline engine with the IMPACT metric, transforms, quality."""
