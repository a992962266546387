"""The registration engine: tensors only; it knows no file and no cohort."""
