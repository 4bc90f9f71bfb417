"""isocenter: deep learning for medical images that configures itself."""
