"""Turn-key quantization of a float network, and fine-tuning of a chosen point."""
