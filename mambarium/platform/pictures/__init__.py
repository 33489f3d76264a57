"""Predictions as pictures: in TensorBoard while a model trains, as files from `predict`."""
