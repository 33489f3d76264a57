"""Images: files, decoding, intensities, augmentation, drawing."""
